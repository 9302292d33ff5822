"""Curation: rows a second and core, memory that does not grow with the rows, and the search for duplicates.

    python tools/bench/data.py [--quick] [--rows N]

`srpo data curate` as a user starts it, with two workers, over JSON lines of made-up word problems: 310 characters
in the mean, LaTeX in a third, a worked solution in half, one in twenty a copy of an earlier one with other marks.

* rows: rows a second and core of the whole command, from its start to the finished set.  Baseline: what a worker
  does, in this process: rows to finished units, without reading, handing out, duplicates and the set.
* memory: the peak over all its processes (proportional set size, sampled) with all rows.  Baseline: with a tenth.
* duplicates: seconds of the search among all kept problems.  Baseline: a plain pass over the data, every row
  parsed and nothing done with it.

It is 10^6 rows; with --quick 10^4.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import typer
from common.report import compare, progress, report

from megatron_srpo.data.curate import sources
from megatron_srpo.data.curate.config import CurateConfig
from megatron_srpo.data.curate.unit import UnitWorker
from megatron_srpo.observe.metrics import read_lines

WORKERS = 2
SAMPLE_SECONDS = 0.25
NAMES = ["Alice", "Bob", "Chen", "Dana", "Emil", "Farah", "Goran", "Hana", "Ivan", "Jana", "Kofi", "Lena"]
THINGS = [
    "apples",
    "books",
    "coins",
    "stamps",
    "tickets",
    "marbles",
    "pencils",
    "bottles",
    "stones",
    "cards",
    "flowers",
    "lamps",
]
PLACES = ["market", "library", "station", "garden", "harbour", "school", "museum", "bakery", "workshop", "village"]
VERBS = ["buys", "finds", "borrows", "collects", "paints", "repairs", "counts", "packs", "orders", "receives"]
LOSSES = ["gives", "away", "loses", "sells", "breaks", "returns", "throws", "out"]


def sentence(rng: random.Random) -> tuple[str, int]:
    """One change of the amount, and by how much."""
    count, who, what, where = rng.randint(2, 400), rng.choice(NAMES), rng.choice(THINGS), rng.choice(PLACES)
    if rng.random() < 0.6:
        return f"On day {rng.randint(1, 30)} {who} {rng.choice(VERBS)} {count} more {what} at the {where}.", count
    return f"Later {who} {rng.choice(LOSSES)} {count} of the {what} near the {where}.", -count


def row(rng: random.Random) -> dict[str, str]:
    """A problem in the columns of `problems`."""
    start = rng.randint(500, 5000)
    number = f"${start}$" if rng.random() < 0.3 else str(start)
    changes = [sentence(rng) for _ in range(rng.randint(2, 7))]
    answer = start + sum(change for _, change in changes)
    story = " ".join(text for text, _ in changes)
    begin = f"A collection at the {rng.choice(PLACES)} begins with {number} {rng.choice(THINGS)}."
    prompt = f"{begin} {story} How many are there?"
    made = {"prompt": prompt, "answer": str(answer)}
    if rng.random() < 0.5:
        made["solution"] = f"We add what comes and take away what goes, so the answer is $\\boxed{{{answer}}}$."
    return made


def write_rows(path: Path, count: int) -> None:
    """The rows of the benchmark, the same in every run."""
    rng, recent = random.Random(0), list[dict[str, str]]()
    with path.open("w") as file:
        for _ in range(count):
            made = row(rng)
            if recent and rng.random() < 0.05:
                made = dict(rng.choice(recent))
                made["prompt"] = made["prompt"].replace("$", "").replace(" are there?", "  are there in all?")
            recent = [*recent[-99:], made]
            file.write(json.dumps(made) + "\n")


def values_of(folder: Path, data: Path) -> dict[str, Any]:
    """The config."""
    source = {"path": str(data)}
    return {"name": "bench", "out": str(folder / "set"), "workers": WORKERS, "sources": {"made": source}}


class Memory:
    """The peak of the proportional set sizes of a process and all below it, in bytes."""

    def __init__(self, process: int) -> None:
        self.peak = 0
        self._process, self._stop = psutil.Process(process), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                self.peak = max(self.peak, sum(one.memory_full_info().pss for one in family))
            except psutil.Error:  # one of them has just ended
                continue

    def stop(self) -> None:
        """End watching."""
        self._stop.set()
        self._thread.join()


def curate(data: Path, folder: Path) -> tuple[float, int, dict[str, float]]:
    """Seconds and peak bytes of the command, and the seconds of its steps."""
    config = folder / "curate.yaml"
    config.write_text(json.dumps(values_of(folder, data)))  # JSON is YAML
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "megatron_srpo.cli", "data", "curate", str(config)],
        stdout=subprocess.DEVNULL,
    )
    memory = Memory(process.pid)
    code = process.wait()
    memory.stop()
    if code:
        raise SystemExit(f"srpo data curate ended with exit code {code}")
    steps = {line["event"]: line.get("seconds", 0.0) for line in read_lines(folder / "set" / "events.jsonl")}
    return time.monotonic() - started, memory.peak, steps


def alone(data: Path, rows: int, folder: Path) -> float:
    """Rows a second of one worker's work in this process: from lines to a finished unit."""
    config = CurateConfig.model_validate(values_of(data.parent, data))
    worker = UnitWorker(config)
    worker.warm_up()
    chunks = list(sources.chunks(config.sources["made"], config.rows_per_unit, rows))
    started = time.monotonic()
    for chunk in chunks:
        request = {"source": "made", "first": chunk.first, "rows": chunk.rows(), "lost": {}}
        worker.do({**request, "at": str(folder / "at"), "folder": str(folder / f"unit-{chunk.first}")})
    return rows / (time.monotonic() - started)


def plain_pass(data: Path) -> float:
    """Seconds to read every row."""
    source = CurateConfig.model_validate(values_of(data.parent, data)).sources["made"]
    started = time.monotonic()
    for chunk in sources.chunks(source, 1000):
        for line in chunk.rows():
            json.loads(line)
    return time.monotonic() - started


def main(quick: bool = False, rows: int = 0) -> None:
    """Measure and report."""
    rows = rows or (10_000 if quick else 1_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder, peaks = Path(name), []
        for count in (rows // 10, rows):
            (folder / str(count)).mkdir()
            data = folder / f"{count}.jsonl"
            progress(f"writing {count} rows")
            write_rows(data, count)
            progress("curating them")
            seconds, peak, steps = curate(data, folder / str(count))
            progress(f"{seconds:.1f} s, {peak / 2**20:.0f} MiB, {steps}")
            peaks.append(peak / 2**20)
        progress("the same without workers and files")
        own = [rows / seconds / WORKERS]
        bare = [alone(data, min(rows, 5000), folder)]
        passes = [plain_pass(data)]
    report(
        "data",
        [
            compare("curated_rows", own, "rows/second/core", "one worker's work, in this process", bare, ">= 0.7"),
            compare("peak_memory", [peaks[1]], "MiB", f"with {rows // 10} rows", [peaks[0]], "<= 1.25"),
            compare("duplicates", [steps["duplicates"]], "seconds", "plain pass over the rows", passes, "<= 1"),
        ],
        rows=rows,
    )


if __name__ == "__main__":
    typer.run(main)
