"""What is wrong with one row ends on that row."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.data.curate import run
from megatron_srpo.errors import SrpoError
from tests.unit.curate import faulty
from tests.unit.curate.jobs import REPOSITORY, check_counts, children, lines_of, make, row, values, write_rows


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function (factory): have workers made by a function of `faulty`."""

    def use(name: str) -> None:
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
        order = run._order
        monkeypatch.setattr(
            run, "_order", lambda config: dataclasses.replace(order(config), factory=f"{faulty.__name__}:{name}")
        )

    return use


# A line, and a part of the reason; None: the row is kept.
LINES: dict[str, tuple[Any, str | None]] = {
    "broken": ('{"prompt": ', "not valid JSON"),
    "a number": ("17", "the line is a int, expected an object"),
    "a list": ("[1, 2]", "expected an object"),
    "no UTF-8 in the prompt": (b'{"prompt": "What is \xff + 1?", "answer": "1"}', "surrogate"),
    "no UTF-8 elsewhere": (b'{"prompt": "Find one half of two.", "answer": "1", "note": "\xff"}', None),
    "a lone surrogate": (r'{"prompt": "What is \ud800 + 1?", "answer": "1"}', "surrogate"),
    "a lone surrogate as a label": (json.dumps(row(5)).replace("}", r', "wrong": ["\ud800"]}'), None),
    "NaN as the answer": ('{"prompt": "What is nothing at all?", "answer": NaN}', "no answer"),
    "NaN as the prompt": ('{"prompt": NaN, "answer": "1"}', "must be text"),
    "a number too long to read": ('{"prompt": "How many?", "answer": ' + "9" * 5000 + "}", "not valid JSON"),
    "a long number": ('{"prompt": "How many of them are there?", "answer": ' + "9" * 300 + "}", None),
    "NUL": ('{"prompt": "Compute\\u0000 the half of 2468.", "answer": "1234"}', None),
    "wrong type": ('{"prompt": ["a"], "answer": "1"}', "must be text, found a list"),
    "nested too deeply": ("[" * 100_000 + "]" * 100_000, "not valid JSON"),
    "an empty object": ("{}", "the column prompt is missing"),
    "labels of a wrong type": (json.dumps(row(6, wrong=7)), None),
    "labels as text": (json.dumps(row(7, wrong="image")), None),
}


def test_bad_lines_are_put_aside_with_the_reason_and_labels_do_not_matter(tmp_path: Path) -> None:
    lines = [line for name in LINES for line in (LINES[name][0], row(100 + len(name) * 37))]
    path = write_rows(tmp_path / "rows.jsonl", lines)
    config = values(tmp_path, {"a": {"path": path, "labels": "wrong"}}, rows_per_unit=100, duplicates=None)
    make(config)
    check_counts(config)
    dropped = {line["row"]: line for kind in ("refused", "quarantined") for line in lines_of(config, kind)}
    kept = {line["id"] for line in lines_of(config, "problems")}
    assert {f"a/{number}" for number in range(1, len(lines), 2)} <= kept
    for number, (name, (_, reason)) in enumerate(LINES.items()):
        if reason is None:
            assert f"a/{2 * number}" in kept, name
            continue
        line = dropped[2 * number]
        assert reason in " ".join([*line["rules"], *line["reasons"]]), name
        assert (line["status"] == "quarantined") == (line["raw"] is not None)
    assert dropped[0]["raw"] == '{"prompt":'


FAULTS = {
    "crash": "ended by SIGSEGV",
    "hang": "no result in time",
    "hang in C": "no result in time",
    "eat": "Memory",
    "exit": "ended with exit code 7",
    "abort": "ended by SIGABRT",
    "raise": "ZeroDivisionError: out of luck (faulty.py, line ",
    "recurse": "RecursionError",
}


def test_what_a_row_does_to_its_worker_is_its_own_affair(tmp_path: Path, workers: Any) -> None:
    workers("make_work")
    rows = [row(10)]
    for number, fault in enumerate(FAULTS):
        rows += [row(20 + number, do=fault), row(40 + number)]
    rows.append(row(60, do="killed once", mark=str(tmp_path / "mark")))
    config = values(tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", rows)}, rows_per_unit=100)
    make(config | {"worker_memory_megabytes": 2000})
    check_counts(config)
    assert lines_of(config, "refused") == []
    found = {line["row"]: line for line in lines_of(config, "quarantined")}
    for number, reason in enumerate(FAULTS.values()):
        assert reason in found.pop(1 + 2 * number)["reasons"][0]
    assert found == {} and (tmp_path / "mark").exists()
    assert children() == []


def test_a_machine_without_sandbox_is_no_fault_of_rows(tmp_path: Path, workers: Any) -> None:
    workers("make_code_work")
    tests = json.dumps({"kind": "stdio", "cases": [["1", "2"]]})
    rows = [row(1), {"prompt": "Print the double.", "tests": tests, "references": ["print(2 * int(input()))"]}]
    config = values(tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", rows)}, rows_per_unit=1)
    with pytest.raises(SrpoError, match="cannot be run on this machine"):
        make(config)
    assert [folder.name for folder in (tmp_path / "out" / "work" / "units").iterdir()] == ["a.0000000000"]
    assert children() == []
