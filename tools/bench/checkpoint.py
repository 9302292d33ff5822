"""How long training waits for a checkpoint that is written in the background, against one that it waits for.

    python tools/bench/checkpoint.py [--quick]

The same actor on the same ranks (one, and two data-parallel ones) saves in turns:
- in the background: the stall is what `Saver.start` takes, and what the first update of the following training
  step has to wait until the state is copied; the step is small, so that little time passes in between;
- waiting until the checkpoint is whole, which is a synchronous save;
- by Megatron's own `dist_checkpointing.save` of the same state.
Each begins with an idle disk; the first of each kind is left out.  Also told: what the background save adds to the
whole time of the training step beside it, on these cores.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch.distributed as dist
import typer
from common.models import record_step, write_model
from common.report import compare, progress, report
from megatron.core import dist_checkpointing

from megatron_srpo.actor import parallel
from megatron_srpo.actor.actor import Actor, build_actor
from megatron_srpo.actor.checkpoint import METADATA, sharded_model
from megatron_srpo.actor.saver import Saver
from megatron_srpo.actor.step import train_step
from megatron_srpo.bridge.weights import load_weights
from megatron_srpo.launch.ports import unclaimed_port
from megatron_srpo.platform.select import select_platform
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.schema import CheckpointSection, Recipe

VOCABULARY = 8192
STEP = "rollouts/step-000000.parquet"


def recipe(model: Path, ranks: int) -> Recipe:
    """Two samples a step, so that there is optimizer state."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "steps": 1,
            "model": {"path": str(model)},
            "data": {"train": {"math": "unused"}},
            "rollout": {"prompts_per_step": 1, "samples_per_prompt": 2},
            "trainer": {"ranks": ranks, "device": "cpu", "dtype": "bfloat16", "max_tokens_per_microbatch": 64},
            "algorithm": {"mismatch_limit": 100.0},
        }
    )


def rank_main(folder: Path, rounds: int) -> None:
    """One rank: saves in turns and writes its seconds."""
    made = recipe(folder / "model", int(os.environ["WORLD_SIZE"]))
    platform = select_platform("cpu")
    ranks = parallel.initialize(made.trainer, platform, 0)
    actor = build_actor(made, read_model_config(made.model.path), ranks, platform, load_weights)
    train_step(actor, folder / STEP)
    saver = Saver(folder / "checkpoints", CheckpointSection(keep=1), actor)
    seconds: dict[str, list[float]] = {"stall": [], "whole": [], "stock": [], "beside": [], "alone": []}
    for i in range(rounds + 1):
        _idle(folder)
        stall, step = _in_background(actor, saver, folder)
        seconds["stall"].append(stall)
        seconds["beside"].append(step)
        _idle(folder)
        seconds["whole"].append(_timed(lambda: _whole(actor, saver)))
        _idle(folder)
        seconds["alone"].append(_timed(lambda: train_step(actor, folder / STEP)))
        seconds["stock"].append(_timed(lambda: _stock(actor, folder / "stock")))
        progress(f"{i}: " + ", ".join(f"{kind} {values[-1]:.3f} s" for kind, values in seconds.items()))
    if dist.get_rank() == 0:
        newest = sorted((folder / "checkpoints").iterdir())[-1]
        size = sum(file.stat().st_size for file in newest.iterdir())
        (folder / "found.json").write_text(json.dumps({"seconds": seconds, "bytes": size}))
    dist.barrier()
    parallel.shutdown()


def _idle(folder: Path) -> None:
    """Return when nothing is left to write, on all ranks."""
    if dist.get_rank() == 0:
        shutil.rmtree(folder / "stock", ignore_errors=True)
        (folder / "stock").mkdir()
        os.sync()
    dist.barrier()


def _timed(work: Callable[[], Any]) -> float:
    """Seconds until all ranks have done it."""
    started = time.monotonic()
    work()
    dist.barrier()
    return time.monotonic() - started


def _in_background(actor: Actor, saver: Saver, folder: Path) -> tuple[float, float]:
    """Seconds that training waits for a save, and those of the training step beside it."""
    stall = _timed(lambda: saver.start(actor, None))
    waits: list[float] = []
    step = _timed(lambda: train_step(actor, folder / STEP, lambda: waits.append(_timed(saver.wait_copied))))
    saver.wait()
    return stall + sum(waits), step


def _whole(actor: Actor, saver: Saver) -> None:
    saver.start(actor, None)
    saver.wait()


def _stock(actor: Actor, folder: Path) -> None:
    state = sharded_model(actor)
    optimizer = actor.optimizer.sharded_state_dict(state, metadata=METADATA)
    dist_checkpointing.save({**state, "optimizer": optimizer}, str(folder))


def measure(folder: Path, ranks: int, rounds: int) -> dict[str, Any]:
    """What the ranks found."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(unclaimed_port("127.0.0.1"))}
    shared = {**address, "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--rank-folder", str(folder), "--rounds", str(rounds)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank)}) for rank in range(ranks)
    ]
    try:
        for process in processes:
            if process.wait() != 0:
                raise SystemExit(f"a rank ended with exit code {process.returncode}")
    finally:
        for process in processes:
            process.kill()
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A small model, few rounds.")] = False,
    rank_folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
    rounds: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Run the benchmark."""
    if rank_folder is not None:
        rank_main(rank_folder, rounds)
        return
    hidden, layers, count = (256, 4, 2) if quick else (768, 12, 4)
    results, steps = [], {}
    with tempfile.TemporaryDirectory(prefix="srpo-bench-") as name:
        folder = Path(name)
        write_model(folder / "model", hidden, layers, VOCABULARY)
        record_step(folder / "rollouts", 1, 2, VOCABULARY, 16)
        for ranks in (1, 2):
            found = measure(folder, ranks, count)
            stall, whole, stock, beside, alone = (
                found["seconds"][kind][1:] for kind in ("stall", "whole", "stock", "beside", "alone")
            )
            where = f"{ranks} ranks" if ranks > 1 else "1 rank"
            metric = f"stall of a background save, {where}, {found['bytes'] / 1e6:.0f} MB"
            results.append(compare(metric, stall, "s", "waiting for it", whole, "<= 0.15"))
            steps[where] = {"beside a save": statistics.median(beside), "alone": statistics.median(alone)}
            results.append(compare(f"whole save, {where}", whole, "s", "Megatron's own", stock, "<= 1"))
    report("checkpoint", results, seconds_of_a_step=steps)


if __name__ == "__main__":
    typer.run(main)
