"""Parts of a run that no whole run shows: lost workers, comparisons, names, configs."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest

from megatron_srpo.data.curate import run, unit
from megatron_srpo.data.curate.config import CurateConfig, load_config
from megatron_srpo.errors import SrpoError
from megatron_srpo.observe.metrics import JsonLines
from megatron_srpo.workers import host
from megatron_srpo.workers.host import LostError, Worker
from tests.unit.curate.jobs import children, row, values, write_rows


class Script:
    """A worker that does what a script says: an answer, or how it is lost, and at which row."""

    def __init__(self, at: Path, steps: list[Any]) -> None:
        self.at, self.steps, self.requests, self.ends = at, steps, list[Any](), 0

    async def ask(self, request: Any, plain: object = None) -> None:
        self.requests.append(request)

    async def receive(self) -> Any:
        step = self.steps.pop(0)
        if isinstance(step, tuple):
            self.cause, number = step
            if number is not None:
                self.at.write_bytes(number.to_bytes(8, "little") if number >= 0 else b"")
            raise LostError
        return step

    async def end(self, grace: float = 0.0) -> str:
        self.ends += 1
        return str(self.cause)

    def close(self) -> None:
        pass


SEGV, KILL, LATE = "ended by SIGSEGV", "ended by SIGKILL", "ended by SIGALRM"
DONE = {"rows": 1}
LOST_WITH = {"3": f"the process was lost with it: {SEGV}"}
# What happens to the worker, and the rows that are left out in the end; None: it cannot go on.
LOSSES: dict[str, tuple[list[Any], dict[str, str] | None]] = {
    "never": ([DONE], {}),
    "once at a row": ([(KILL, 3), DONE], {}),
    "once each at two rows": ([(KILL, 3), (KILL, 0), DONE], {}),
    "twice at a row": ([(SEGV, 3), (SEGV, 3), DONE], LOST_WITH),
    "late": ([(LATE, 3), DONE], {"3": "no result in time"}),
    "late twice": ([(LATE, 3), (LATE, 4), DONE], {"3": "no result in time", "4": "no result in time"}),
    "once before any row": ([(KILL, None), DONE], {}),
    "once while the number was written": ([(KILL, -1), DONE], {}),
    "twice before any row": ([(KILL, None), (KILL, -1)], None),
    "at a row that was left out": ([(SEGV, 3), (SEGV, 3), (SEGV, 3)], None),
}


@pytest.mark.parametrize("name", LOSSES)
async def test_a_row_is_left_out_when_nothing_else_can_have_been_the_cause(name: str, tmp_path: Path) -> None:
    steps, expected = LOSSES[name]
    script = Script(tmp_path / "at", list(steps))
    work = run._do(
        cast(Worker, script),
        {"folder": "units/a", "source": "a"},
        tmp_path / "at",
        {"9": "unread"},
        JsonLines(tmp_path / "events"),
    )
    if expected is None:
        with pytest.raises(SrpoError, match="units/a: a worker of curation was lost without being at a row"):
            await work
        return
    assert await work == DONE
    assert script.requests[-1]["lost"] == {"9": "unread", **expected}
    assert script.ends == len(steps) - 1


async def test_answers_that_cannot_be_compared_contradict_each_other(tmp_path: Path) -> None:
    found, none = [True, True], [True, False]
    for steps, expected in (([found], found), ([(KILL, None), found], found), ([(LATE, None)] * 2, none)):
        script = Script(tmp_path / "at", list(steps))
        assert await run._agree(cast(Worker, script), ["1", "2"]) == expected


def test_answers_are_compared_as_the_config_says(tmp_path: Path) -> None:
    config = values(tmp_path, {"a": "a.jsonl"})
    exact = unit.UnitWorker(CurateConfig.model_validate(config))
    loose = unit.UnitWorker(CurateConfig.model_validate(config | {"verify": {"math": {"tolerance": 0.2}}}))
    assert exact.compare(["1/2", "0.5", r"\frac12"]) == [True] * 3
    assert exact.compare(["1/3", "0.3"]) == [True, False]
    assert loose.compare(["1/3", "0.3"]) == [True, True] and loose.compare(["1/3", "7", "1/3"]) == [
        True,
        False,
        True,
    ]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_unit_on_disk(tmp_path: Path) -> None:
    worker = unit.UnitWorker(CurateConfig.model_validate(values(tmp_path, {"a": "a.jsonl"})))
    rows = [row(0), json.dumps(row(1)), "bad", {"prompt": "What is it?", "answer": ""}, row(4)]
    request = {"source": "a", "first": 70, "rows": rows, "at": str(tmp_path / "at"), "lost": {"74": "it was lost"}}
    folder = tmp_path / "a.0000000070"
    (tmp_path / "a.0000000070.tmp").mkdir()  # left by a worker that was killed
    summary = worker.do(request | {"folder": str(folder)})
    assert summary == {
        "source": "a", "first": 70, "rows": 5, "kept": 2, "quarantined": 2, "repaired": {},
        "refused": {"missing": 1},
    }  # fmt: skip
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == [folder.name]
    assert (tmp_path / "at").read_bytes() == b""  # what is lost from here on is no row's fault
    assert pq.read_table(folder / unit.KEPT)["id"].to_pylist() == ["a/70", "a/71"]
    dropped = pq.read_table(folder / unit.DROPPED).to_pylist()
    assert [(line["id"], line["row"], line["status"]) for line in dropped] == [
        ("a/72", 72, "quarantined"), ("a/73", 73, "refused"), ("a/74", 74, "quarantined"),
    ]  # fmt: skip
    assert dropped[2]["reasons"] == ["it was lost"]
    assert np.load(folder / unit.SIGNATURES).shape == (128, 2)
    # As when a worker is killed after it has finished and before it can say so.
    assert worker.do(request | {"folder": str(folder)}).items() >= summary.items()


def test_evaluation_sets_may_take_their_time(tmp_path: Path) -> None:
    config = values(tmp_path, {"a": "a.jsonl"})
    sets = {"sets": {"test": {"path": "some/set"}}}
    seconds = [
        run._order(CurateConfig.model_validate(of)).start_seconds
        for of in (config, config | {"contamination": sets})
    ]
    assert seconds[0] == host.START_SECONDS < 600 < seconds[1]


async def test_workers_that_take_too_long_to_start_are_one_sentence(tmp_path: Path) -> None:
    order = run._order(CurateConfig.model_validate(values(tmp_path, {"a": "a.jsonl"})))
    nursery = host.Nursery(dataclasses.replace(order, start_seconds=0.01))
    with pytest.raises(SrpoError, match=r"^the workers of curation were not ready after 0.01 seconds; "):
        await nursery.start()
    assert children() == []


def test_notes_of_the_set_and_ours_stand_beside_each_other(tmp_path: Path) -> None:
    worker = unit.UnitWorker(CurateConfig.model_validate(values(tmp_path, {"a": "a.jsonl"})))
    notes = {"repairs": "the set's", "grade": 7, "source_grade": 8, "other": 9}
    rows = [row(1, meta=notes), row(2, prompt=f"<p>{row(2)['prompt']}</p>", meta=notes)]
    request = {"source": "a", "first": 0, "rows": rows, "at": str(tmp_path / "at"), "lost": {}}
    worker.do(request | {"folder": str(tmp_path / "a.0")})
    plain, repaired = map(json.loads, pq.read_table(tmp_path / "a.0" / unit.KEPT)["meta"].to_pylist())
    theirs = {"source_repairs": "the set's", "source_grade": 8, "source_source_grade": 7, "other": 9}
    assert plain == theirs
    assert repaired.pop("repairs")[0][0] == "html" and repaired == theirs


def test_tests_of_a_refused_problem_are_there_to_be_looked_at(tmp_path: Path) -> None:
    worker = unit.UnitWorker(CurateConfig.model_validate(values(tmp_path, {"a": "a.jsonl"})))
    tests = json.dumps({"kind": "stdio", "cases": [["1", "2"]]})
    rows = [{"prompt": "Print what is in the file input.txt, read it twice.", "tests": tests}, row(1, answer="")]
    request = {"source": "a", "first": 0, "rows": rows, "at": str(tmp_path / "at"), "lost": {}}
    assert worker.do(request | {"folder": str(tmp_path / "a.0")})["kept"] == 0
    assert pq.read_table(tmp_path / "a.0" / unit.DROPPED)["tests"].to_pylist() == [tests, None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workers": 0}, "workers"),
        ({"name": "a/b"}, "name"),
        ({"sources": {}}, "sources"),
        ({"sources": {"a b": {"path": "x.jsonl"}}}, "source 'a b'"),
        ({"sources": {"a": {"path": "x.jsonl", "adapter": "none"}}}, "a has the adapter 'none'; known are"),
        ({"rules": {"skip": ["none"]}}, "skip names 'none'; the rules are"),
        ({"duplicates": {"permutations": 100}}, "permutations"),
        ({"contamination": {"share": 0}}, "share"),
        ({"worker_memory_megabytes": 100}, "above worker_memory_megabytes 100"),
        ({"unknown": 1}, "unknown"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_config_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(values(tmp_path, {"a": "a.jsonl"}) | change))
    with pytest.raises(SrpoError, match=re.escape(said)):
        load_config(tmp_path / "config.yaml")


def test_names_of_sources_and_of_evaluation_sets_do_not_collide(tmp_path: Path) -> None:
    paths = [write_rows(tmp_path / f"{number}.jsonl", [row(number)]) for number in range(2)]
    config = values(tmp_path, {"contamination.a": paths[0]}, contamination={"sets": {"a": {"path": paths[1]}}})
    inputs = run._inputs(CurateConfig.model_validate(config))
    assert [list(of["files"]) for of in inputs.values()] == [["0.jsonl"], ["1.jsonl"]]
