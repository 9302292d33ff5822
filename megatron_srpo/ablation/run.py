"""`srpo ablate`: runs what is not finished yet, a process each, then writes the report."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from rich.console import Console

from megatron_srpo.ablation.config import PlannedRun, load_ablation, plan_runs
from megatron_srpo.ablation.report import write_report
from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.process import GuardedProcess, describe_exit
from megatron_srpo.launch.run_directory import check_recorded, is_finished
from megatron_srpo.launch.stop import run_until_signal
from megatron_srpo.recipe.preflight import preflight
from megatron_srpo.tasks import gather_or_cancel


def ablate(path: Path, report_only: bool) -> None:
    """Run every arm with every seed and write table and plots; what is finished is not run again.

    Raises SrpoError when a recipe is not valid or a run fails, StoppedError after SIGINT or SIGTERM; in every case
    no process is left, and the same command goes on.
    """
    ablation = load_ablation(path)
    runs = plan_runs(path, ablation)
    console = Console()
    if not report_only:
        for run in runs:
            preflight(run.recipe, prompts=run.seed == ablation.seeds[0])
        run_until_signal(_run_all(runs, ablation.parallel_runs, ablation.out, console))
    write_report(ablation, runs, console)


async def _run_all(runs: list[PlannedRun], parallel: int, out: Path, console: Console) -> None:
    slots = asyncio.Semaphore(parallel)
    await gather_or_cancel(*(_run(run, slots, out, console) for run in runs))


async def _run(run: PlannedRun, slots: asyncio.Semaphore, out: Path, console: Console) -> None:
    async with slots:
        if is_finished(run.recipe):
            check_recorded(run.recipe)
            console.print(f"{run.recipe.name}: finished before", highlight=False)
            return
        started = time.monotonic()
        console.print(f"{run.recipe.name}: training, log in {out / 'logs'}", highlight=False)
        command = [sys.executable, "-m", "megatron_srpo.cli", "train", str(run.file)]
        process = GuardedProcess(run.recipe.name, command, os.environ, out / "logs" / f"{run.recipe.name}.log")
        try:
            await process.start()
            code = await process.wait()
        finally:
            await process.stop()
        if code:
            reason = process.sentence() or process.last_words()
            raise SrpoError(
                f"{run.recipe.name}: ended with exit code {describe_exit(code)}: {reason}; see "
                f"{process.log_file}, mend it and run the same command again"
            )
        console.print(f"{run.recipe.name}: done in {time.monotonic() - started:.0f} s", highlight=False)
