"""`srpo data curate`: hands units to workers, and makes a set of what they have written.

    OUT/work/job.json          what is being made, and with what: config, inputs, versions
    OUT/work/units/NAME/       finished units, see unit.py
    OUT/events.jsonl           what happened when: starts, rows that workers were lost with, times of the steps

A unit that is there is never done again.  What is in it depends on the config, inputs and versions alone, so a run
that was killed and went on with other workers ends in the same bytes as one that nothing disturbed.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_srpo.data.curate import sources, unit
from megatron_srpo.data.curate.config import CurateConfig
from megatron_srpo.data.curate.draft import BadRow
from megatron_srpo.data.curate.finish import Finish, versions
from megatron_srpo.data.curate.place import Place
from megatron_srpo.data.curate.progress import Bars
from megatron_srpo.data.curate.readers import Row
from megatron_srpo.data.problem_set import Manifest, hold_set, is_problem_set, read_manifest, writing
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import replace_file
from megatron_srpo.launch.stop import run_until_signal
from megatron_srpo.observe.metrics import JsonLines
from megatron_srpo.recipe.differences import changed_keys
from megatron_srpo.tasks import gather_or_cancel
from megatron_srpo.workers.host import GRACE_SECONDS, START_SECONDS, LostError, Nursery, Order, Worker

JOB, UNITS = "job.json", "units"
DISCARDED = ".work.discarded"
TOO_LONG = "ended by SIGALRM"
EVALUATION_SECONDS = 3600.0  # for evaluation sets to be read; they may have to come from the hub
CHANCES = 2  # of a row with which a worker was lost


@dataclass(frozen=True)
class Task:
    """A unit to do."""

    source: str
    chunk: sources.Chunk
    folder: Path


def curate(config: CurateConfig, fresh: bool, console: Console) -> None:
    """Make the set of a config, or go on with it.

    Args:
        config: what to make.
        fresh: begin again, whatever is there.
        console: where progress and the outcome are shown.

    Raises:
        SrpoError: for what the user can mend; what is done is kept.
        StoppedError: after SIGINT or SIGTERM; the same command goes on.
    """
    with hold_set(config.out):
        work = config.out / "work"
        _check_ours(work)
        config = _pinned(config)
        job = {"config": config.identity(), "inputs": _inputs(config)}
        if fresh:
            _discard(work)
        elif is_problem_set(config.out) and not (work / JOB).exists():
            manifest = read_manifest(config.out)
            _compare(config.out, {"config": manifest.config, "inputs": manifest.inputs}, job)
            _discard(work)
            console.print(f"{config.out}: the set is finished", highlight=False)
            return
        job |= {"versions": versions()}  # of work alone: a finished set needs no other one
        if (work / JOB).exists():
            _compare(config.out, json.loads((work / JOB).read_text(encoding="utf-8")), job)
        else:
            replace_file(work / JOB, json.dumps(job, indent=1).encode())
        events = JsonLines(config.out / "events.jsonl")
        run_until_signal(_curate(config, work, job["inputs"], events, console))
        _discard(work)


def _check_ours(work: Path) -> None:
    """Raises SrpoError for a folder of this name that no curation has begun: in the end it would be removed."""
    if (work / JOB).exists() or not work.exists():
        return
    others = [file.name for file in work.iterdir() if file.name != f"{JOB}.tmp"] if work.is_dir() else ["a file"]
    if others:
        raise SrpoError(
            f"{work}: holds {others[0]}, which no curation has made, and curation needs this name for its own "
            "work; give another `out`, or move it away"
        )


def _discard(work: Path) -> None:
    """Remove work as a whole: killed at any instant, this leaves nothing that could be taken for other work."""
    old = work.with_name(DISCARDED)
    shutil.rmtree(old, ignore_errors=True)
    if work.exists():
        work.rename(old)
        shutil.rmtree(old)


async def _curate(
    config: CurateConfig, work: Path, inputs: dict[str, Any], events: JsonLines, console: Console
) -> None:
    with Bars(console) as bars:
        started = time.monotonic()
        events.write({"event": "start", "workers": config.workers})
        for name, source in config.sources.items():
            bars.add(name, sources.known_rows(source), source.limit)
        nursery = Nursery(_order(config))
        workers = [Worker(nursery, number) for number in range(config.workers)]
        try:
            await nursery.start()
            tasks = Tasks(config, work / UNITS, bars)
            places = (work / f"at-{number}" for number in range(config.workers))
            serving = (_serve(*pair, tasks, events) for pair in zip(workers, places, strict=True))
            await gather_or_cancel(*serving)
            events.write({"event": "units", "count": len(tasks.folders), "seconds": time.monotonic() - started})
            finish = Finish(config, inputs, tasks.folders, events, bars)
            different = await asyncio.to_thread(finish.same_texts)
            agreeing = [await _agree(workers[0], answers) for answers in different]
        finally:
            for worker in workers:
                worker.close()
            await nursery.close()
        manifest = await _written(finish, agreeing, config.out)
    console.print(finish.summary(manifest), highlight=False, markup=False, soft_wrap=True)


async def _written(finish: Finish, agreeing: list[list[bool]], out: Path) -> Manifest:
    """The finished set; raises SrpoError when the disk refuses it."""
    try:
        with writing(out):
            return await asyncio.to_thread(finish.write, agreeing)
    except asyncio.CancelledError:
        finish.stop()  # the thread would else go on to the end
        raise


class Tasks:
    """Units that are not done yet, one after the other, read as they are asked for."""

    def __init__(self, config: CurateConfig, units: Path, bars: Bars) -> None:
        self._iterator = self._all(config)
        self._units, self._bars = units, bars
        self._lock = asyncio.Lock()
        self.folders: list[Path] = []
        """Of all units that there are, in the order of the sources and their rows."""

    async def next(self) -> Task | None:
        """The next one, or None at the end."""
        async with self._lock:
            return await asyncio.to_thread(next, self._iterator, None)

    def _all(self, config: CurateConfig) -> Iterator[Task]:
        for name, source in config.sources.items():
            for chunk in sources.chunks(source, config.rows_per_unit, source.limit):
                folder = self._units / unit.folder_name(name, chunk.first)
                self.folders.append(folder)
                if folder.exists():
                    self.done(json.loads((folder / unit.SUMMARY).read_text(encoding="utf-8")))
                else:
                    yield Task(name, chunk, folder)

    def done(self, summary: dict[str, Any]) -> None:
        """Show that a unit is finished."""
        self._bars.advance(summary["source"], summary["rows"], summary["kept"])


async def _serve(worker: Worker, at: Path, tasks: Tasks, events: JsonLines) -> None:
    """Have one worker do units until there are no more."""
    while (task := await tasks.next()) is not None:
        rows = await asyncio.to_thread(task.chunk.rows)
        request = {
            "folder": str(task.folder),
            "source": task.source,
            "first": task.chunk.first,
            "rows": rows,
            "at": str(at),
        }
        unread = {str(number): str(row) for number, row in enumerate(rows, task.chunk.first) if _is_bad(row)}
        tasks.done(await _do(worker, request, at, unread, events))


def _is_bad(row: Row) -> bool:
    return isinstance(row, BadRow)


def _plain(value: Any) -> Any:
    """What JSON does not know, as text; a row that could not be read is empty."""
    if isinstance(value, BadRow):
        return {}
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


async def _do(
    worker: Worker, request: dict[str, Any], at: Path, lost: dict[str, str], events: JsonLines
) -> dict[str, Any]:
    """One unit, again and again without the rows that the worker is lost with.

    A worker may also be lost because of something else, as a lack of memory on the machine; so a row that it is
    lost with has a second chance, unless its time was up.

    Args:
        worker: who does it.
        request: see `unit.UnitWorker.do`.
        at: the file that tells which row it is at.
        lost: rows that are to be left out from the beginning, and why.

    Raises:
        SrpoError: when it is lost twice without being at a row, or with a row that it was to leave out, or when
            programs cannot be run on this machine.
    """
    losses = Counter[str]()
    while True:
        at.unlink(missing_ok=True)
        try:
            await worker.ask(request | {"lost": lost}, _plain)
            summary: dict[str, Any] = await worker.receive()
            if "error" in summary:
                raise SrpoError(summary["error"])
            return summary
        except LostError:
            cause = await worker.end(GRACE_SECONDS)
        except BaseException:
            worker.close()
            raise
        row = _row_at(at)
        losses[row] += 1
        late = cause == TOO_LONG
        if row and row not in lost and (late or losses[row] == CHANCES):
            lost = {**lost, row: "no result in time" if late else f"the process was lost with it: {cause}"}
            events.write({"event": "lost", "source": request["source"], "row": int(row), "cause": cause})
        elif losses[row] >= CHANCES:
            raise SrpoError(
                f"{request['folder']}: a worker of curation was lost without being at a row ({cause}); look for "
                "a lack of memory or disk and start the same command again"
            )


def _row_at(at: Path) -> str:
    """The row that a worker was at when it was lost; empty for none."""
    number = at.read_bytes() if at.exists() else b""
    return str(int.from_bytes(number, "little")) if number else ""


async def _agree(worker: Worker, answers: list[str]) -> list[bool]:
    """Which answers mean the same as the first; what cannot be compared does not."""
    for _ in range(CHANCES):
        try:
            await worker.ask({"compare": answers})
            return list(await worker.receive())
        except LostError:
            await worker.end(GRACE_SECONDS)
    return [True] + [False] * (len(answers) - 1)


def _order(config: CurateConfig) -> Order:
    return Order(
        f"{unit.__name__}:{unit.make_work.__name__}",
        config.model_dump(mode="json"),
        config.worker_memory_megabytes * 2**20,
        "workers of curation",
        START_SECONDS + (EVALUATION_SECONDS if config.contamination.sets else 0),
    )


def _pinned(config: CurateConfig) -> CurateConfig:
    """The config with all sets on the hub at one commit each; raises SrpoError when one is not there."""
    sets = {name: sources.pinned(of) for name, of in config.contamination.sets.items()}
    return config.model_copy(
        update={
            "sources": {name: sources.pinned(of) for name, of in config.sources.items()},
            "contamination": config.contamination.model_copy(update={"sets": sets}),
        }
    )


def _inputs(config: CurateConfig) -> dict[str, Any]:
    """What sources and evaluation sets hold now; raises SrpoError when one is not there."""
    named: dict[str, Place] = {
        **config.sources,
        **{f"contamination/{n}": s for n, s in config.contamination.sets.items()},
    }
    return {name: sources.fingerprint(source) for name, source in named.items()}


def _compare(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises SrpoError with the first difference between what was begun and what is asked for."""
    for key, (old, new) in changed_keys(before, now).items():
        raise SrpoError(
            f"{out}: holds work that was begun otherwise: {key} was {old!r:.80} and is {new!r:.80}; give "
            "another `out`, or --fresh to begin again"
        )
