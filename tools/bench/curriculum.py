"""The curriculum of ten million prompts: drawing a step, beginning an epoch, a cold start, and its memory.

    python tools/bench/curriculum.py [--quick]

* draw: `StepDraws` draws 256 prompts; taking in their groups is timed beside it.  Baseline: a ready permutation is
  sliced into tuples, which is the least that any sampler does.
* epoch: the next epoch of each strategy is chosen, and put in its order.  Baseline: a permutation of as many.
* cold start: from the ids in memory (arrow strings) over the newest snapshot of a run with 50 epochs behind it and
  20 step files of 256 x 8 samples to the first draw.  Reading the ids from the data files is not included.
  Baseline: reading the snapshot's bytes; both find them in the page cache.
* memory: the peak of a fresh process that does the cold start and writes a snapshot, interpreter and ids included.
  Baseline: the bytes of ids and state.

With --quick it is a million prompts, and the limits are the same.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from common.report import Result, progress, report
from common.rows import bench_row

from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.draws import StepDraws
from megatron_srpo.curriculum.outcomes import GroupOutcome
from megatron_srpo.curriculum.restore import CurriculumStore, Restored
from megatron_srpo.files import write_table
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import SCHEMA, Journal, Row

PROMPTS, SAMPLES, EPOCHS, STEPS, TAIL = 256, 8, 50, 1000, 20
SOURCE = "bench"
LIMIT_DRAW, LIMIT_EPOCH, LIMIT_START, LIMIT_BYTES = 2e-3, 2.0, 10.0, 2e9


def build_recipe(strategy: str) -> Recipe:
    """A recipe of which only the curriculum matters."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "steps": 10**6,
            "model": {"path": "none"},
            "data": {"train": {SOURCE: "none"}},
            "rollout": {"prompts_per_step": PROMPTS, "samples_per_prompt": SAMPLES},
            "curriculum": {"strategy": strategy, "history": {"easy_pool": 0.1}},
        }
    )


def state_behind(curriculum: Curriculum, share: float) -> dict[str, Any]:
    """A state of 50 finished epochs; `share` of the prompts are recorded in the next one too."""
    state, rng = curriculum.state_dict(), np.random.default_rng(0)
    size = len(curriculum.pools[SOURCE])
    correct = rng.integers(0, SAMPLES + 1, size).astype(np.uint16)
    own = {
        "epoch": np.array([EPOCHS, size, 0]),
        "last_epoch": (EPOCHS - 1 + (rng.random(size, np.float32) < share)).astype(np.int32),
        "correct": correct,
        "samples": np.full(size, SAMPLES, np.uint16),
        "successes": 2 * correct.astype(np.float32),
        "failures": 2 * (SAMPLES - correct).astype(np.float32),
    }
    whole = {"position": np.array([STEPS, 10**9, 0, 0]), "mixture": np.array([STEPS * PROMPTS])}
    metrics = {name: np.linspace(0.1, 0.9, STEPS) for name in ("reward", "accuracy")}
    return state | whole | metrics | {f"{SOURCE}/{name}": array for name, array in own.items()}


def outcomes_of(draws: StepDraws, ids: pa.Array) -> list[GroupOutcome]:
    """Finished groups of all that the step draws now."""
    return [
        GroupOutcome(d.number, d.source, d.epoch, ids[d.index].as_py(), SAMPLES, 3, 0.375, 0.375, 4 * SAMPLES)
        for d in draws.draw()
    ]


def prepare(folder: Path, size: int) -> None:
    """Write the ids, and a run directory with a snapshot and a tail of step files behind it."""
    ids = pa.array([f"bench-{number:08d}" for number in range(size)])
    pq.write_table(pa.table({"id": ids}), folder / "ids.parquet")
    curriculum = Curriculum(build_recipe("history"), {SOURCE: ids})
    curriculum.load_state_dict(state_behind(curriculum, 0.3))
    journal = Journal(folder / "rollouts")
    CurriculumStore(folder, journal).save(curriculum)
    for step in range(STEPS, STEPS + TAIL):
        draws = StepDraws(curriculum, [])
        finished = outcomes_of(draws, ids)
        rows = [asdict(_row(outcome, step, sample)) for outcome in finished for sample in range(SAMPLES)]
        write_table(pa.Table.from_pylist(rows, SCHEMA), journal.step_path(step))
        for outcome in finished:
            draws.record(outcome)
        draws.close()
    for step in range(STEPS):  # the snapshot stands for what is in them
        os.link(journal.step_path(STEPS), journal.step_path(step))


def _row(group: GroupOutcome, step: int, sample: int) -> Row:
    place = {"step": step, "weight_version": step, "epoch": group.epoch}
    accuracy = float(sample < group.correct)
    return bench_row(group.number, sample, accuracy, prompt_id=group.prompt_id, source=group.source, **place)


def read_ids(folder: Path) -> pa.ChunkedArray:
    return pq.read_table(folder / "ids.parquet")["id"]


def cold_start(folder: Path, ids: Any) -> tuple[Curriculum, dict[str, float]]:
    """A curriculum that has drawn its next step, and the seconds of each part of it."""
    marks = [time.perf_counter()]
    curriculum = Curriculum(build_recipe("history"), {SOURCE: ids})
    marks.append(time.perf_counter())
    found = CurriculumStore(folder, Journal(folder / "rollouts")).restore(curriculum)
    marks.append(time.perf_counter())
    drawn = StepDraws(curriculum, []).draw()
    marks.append(time.perf_counter())
    if found != Restored(STEPS, TAIL, {SOURCE: (0, 0)}) or len(drawn) != PROMPTS or drawn[0].epoch != EPOCHS:
        raise RuntimeError(f"the cold start went another way: {found}, {drawn[:1]}")
    return curriculum, dict(zip(("construct", "restore", "first_draw"), np.diff(marks).tolist(), strict=True))


def peak_memory(folder: Path) -> tuple[int, int]:
    """Peak bytes of this process after a cold start and a snapshot, and the bytes of ids and state."""
    ids = read_ids(folder)
    curriculum, _ = cold_start(folder, ids)
    CurriculumStore(folder / "again", Journal(folder / "again" / "rollouts")).save(curriculum)
    state = sum(array.nbytes for array in curriculum.state_dict().values())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, ids.nbytes + state


def in_fresh_process(work: Callable[..., Any], *arguments: object) -> Any:
    """The result of a call in a new interpreter, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bounded(metric: str, value: float, unit: str, baseline: str, baseline_value: float, limit: float) -> Result:
    """A metric with a limit of its own; the ratio to the baseline is for information."""
    ratio = round(value / baseline_value, 4)
    return Result(metric, value, unit, baseline, baseline_value, ratio, f"<= {limit:g} {unit}", value <= limit)


def bench_draws(ids: Any, size: str, steps: int) -> tuple[Result, dict[str, float]]:
    """Steps of one epoch: the median of drawing, and what else there is to say of drawing and taking in."""
    curriculum = Curriculum(build_recipe("history"), {SOURCE: ids})
    curriculum.load_state_dict(state_behind(curriculum, 0.3))
    curriculum.pools[SOURCE].draw()  # the epoch's order is another metric
    order, array = np.random.default_rng(0).permutation(len(ids)).astype(np.int32), ids.combine_chunks()
    draw, record, baseline = [], [], []
    for step in range(steps):
        started = time.perf_counter()
        draws = StepDraws(curriculum, [])
        drawn = draws.draw()
        draw.append(time.perf_counter() - started)
        finished = [
            GroupOutcome(d.number, SOURCE, d.epoch, array[d.index].as_py(), SAMPLES, 3, 0.4, 0.4, 32)
            for d in drawn
        ]
        started = time.perf_counter()
        for outcome in finished:
            draws.record(outcome)
        draws.close()
        record.append(time.perf_counter() - started)
        part = slice(step * PROMPTS, (step + 1) * PROMPTS)
        baseline.append(seconds(lambda part=part: [(n, EPOCHS, i) for n, i in enumerate(order[part].tolist())]))
    both, other = np.add(draw, record).tolist(), statistics.median(baseline)
    details = {
        "seconds_draw_p99": float(np.quantile(draw, 0.99)),
        "seconds_record_median": statistics.median(record),
        "seconds_record_p99": float(np.quantile(record, 0.99)),
        "seconds_draw_and_record_median": statistics.median(both),
        "seconds_draw_and_record_p99": float(np.quantile(both, 0.99)),
    }
    name, middle = f"draw_{PROMPTS}_of_{size}", statistics.median(draw)
    return bounded(name, middle, "seconds", "slices of a permutation", other, LIMIT_DRAW), details


def bench_epochs(ids: Any, size: str, runs: int) -> list[Result]:
    """The first draw behind a finished epoch, for every strategy."""
    results = []
    for strategy in ("none", "dynamic", "history", "predictive"):
        curriculum = Curriculum(build_recipe(strategy), {SOURCE: ids})
        finished, pool = state_behind(curriculum, 1.0), curriculum.pools[SOURCE]
        ours, baseline = [], []
        for run in range(runs):
            curriculum.load_state_dict(finished)
            ours.append(seconds(pool.draw))
            rng = np.random.default_rng(run)
            baseline.append(seconds(lambda rng=rng: rng.permutation(len(ids))))
        progress(f"epoch of {strategy}: {min(ours):.2f} to {max(ours):.2f} s, {pool.pool.size} prompts")
        middle, other = statistics.median(ours), statistics.median(baseline)
        results.append(
            bounded(f"epoch_{strategy}_of_{size}", middle, "seconds", "permutation", other, LIMIT_EPOCH)
        )
    return results


def main(quick: bool = False) -> None:
    """Measure and report."""
    count, runs, steps = (10**6, 3, 300) if quick else (10**7, 5, 1000)
    size = f"{count // 10**6}M"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        in_fresh_process(prepare, folder, count)  # this process is still small, and so are its children
        peak, least = in_fresh_process(peak_memory, folder)
        progress(f"peak memory {peak / 1e9:.2f} GB")
        ids = read_ids(folder)
        snapshot = folder / "curriculum" / f"step-{STEPS:06d}.npz"
        starts, reads = [], []
        for _ in range(runs):
            starts.append(cold_start(folder, ids)[1])
            reads.append(seconds(snapshot.read_bytes))
            progress("cold start: " + ", ".join(f"{part} {value:.2f} s" for part, value in starts[-1].items()))
        total = statistics.median(sum(parts.values()) for parts in starts)
        drawing, details = bench_draws(ids, size, steps)
        results = [
            drawing,
            *bench_epochs(ids, size, runs),
            bounded(
                f"cold_start_of_{size}",
                total,
                "seconds",
                "reading the snapshot's bytes",
                statistics.median(reads),
                LIMIT_START,
            ),
            bounded(f"peak_memory_of_{size}", peak, "bytes", "ids and state", least, LIMIT_BYTES),
        ]
        for part in starts[0]:
            details[f"seconds_{part}"] = statistics.median(start[part] for start in starts)
        report("curriculum", results, prompts=count, snapshot_bytes=snapshot.stat().st_size, **details)


if __name__ == "__main__":
    typer.run(main)
