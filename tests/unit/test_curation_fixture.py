"""The form of the labelled problems for the cleaning rules, tests/data/curation.jsonl; not the rules themselves.

A row is a draft with the rules that must fire on it (docs/data.md).  Where `multiple_choice` fires,
`open_answer` is the answer of the open question that it becomes; without it the problem is refused.  All texts
were written for this project.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.data.code_tests import parse_tests
from megatron_srpo.errors import SrpoError

DATA = Path(__file__).parents[1] / "data"
KEYS = [
    *["id", "domain", "prompt", "answer", "solution", "options", "tests", "references"],
    *["rules", "open_answer", "note"],
]
REPAIRS = ["encoding", "html", "urls", "noise", "markdown", "latex"]
CHECKS = [
    *["missing", "multi_part", "proof", "image", "table", "unverifiable", "language", "broken_latex"],
    *["environment", "file_io", "network", "interactive"],
    *["tests_missing", "tests_inconsistent", "tests_nondeterministic"],
]
AFTERWARDS = [
    *["answer_unread", "solution_disagrees", "reference_missing", "reference_fails", "trivial_passes"],
    *["contaminated", "conflict", "duplicate"],
]
OF_MATHEMATICS = {
    *["markdown", "latex", "multiple_choice", "multi_part", "proof", "unverifiable", "broken_latex"],
    *["answer_unread", "solution_disagrees", "conflict"],
}
OF_CODE = {*CHECKS[8:], "reference_missing", "reference_fails", "trivial_passes"}


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in DATA.joinpath(name).read_text(encoding="utf-8").splitlines()]


ROWS = read("curation.jsonl")


def refused(row: dict[str, Any]) -> bool:
    closed = "multiple_choice" in row["rules"] and "open_answer" not in row
    return closed or not set(CHECKS).isdisjoint(row["rules"])


def test_rows_have_the_form_of_drafts() -> None:
    assert len(ROWS) == 1000
    assert [row["id"] for row in ROWS] == [f"r{number:04}" for number in range(1, 1001)]
    for row in ROWS:
        assert list(row) == [key for key in KEYS if key in row], row["id"]
        assert row["domain"] in ("math", "code"), row["id"]
        assert all(row[key] for key in row if key != "rules"), row["id"]
        math_only, code_only = {"answer", "solution", "options", "open_answer"}, {"tests", "references"}
        others = code_only if row["domain"] == "math" else math_only
        assert not [key for key in others if key in row], row["id"]


def test_labels_are_rules_that_can_fire_together() -> None:
    known = {*REPAIRS, *CHECKS, *AFTERWARDS, "multiple_choice"}
    for row in ROWS:
        rules = row["rules"]
        assert len(set(rules)) == len(rules) and known.issuperset(rules), row["id"]
        assert not (OF_CODE if row["domain"] == "math" else OF_MATHEMATICS).intersection(rules), row["id"]
        assert "open_answer" not in row or "multiple_choice" in rules, row["id"]
        assert not refused(row) or not set(AFTERWARDS).intersection(rules), row["id"]


def test_there_are_enough_rows_for_every_rule() -> None:
    count = Counter(rule for row in ROWS for rule in row["rules"])
    assert {rule: count[rule] for rule in [*REPAIRS, *CHECKS] if count[rule] < 25} == {}
    assert {rule: count[rule] for rule in AFTERWARDS if count[rule] < 20} == {}
    choices = Counter("open_answer" in row for row in ROWS if "multiple_choice" in row["rules"])
    assert choices[True] >= 30 and choices[False] >= 20
    assert sum(not row["rules"] for row in ROWS) >= 250


def test_tests_can_be_read_where_they_are_not_labelled_as_missing() -> None:
    for row in ROWS:
        if "tests_missing" in row["rules"]:
            with pytest.raises(SrpoError):
                parse_tests(row.get("tests", ""), row["id"])
        elif row["domain"] == "code":
            parse_tests(row["tests"], row["id"])


def test_references_are_there_where_verification_needs_them() -> None:
    for row in ROWS:
        if row["domain"] == "code" and not refused(row):
            assert ("references" not in row) == ("reference_missing" in row["rules"]), row["id"]


def test_a_conflict_has_two_sides_and_an_evaluation_problem_one_id() -> None:
    texts = Counter(
        "".join(row["prompt"].replace("\\(", "$").replace("\\)", "$").split())
        for row in ROWS
        if "conflict" in row["rules"]
    )
    assert set(texts.values()) == {2}
    evaluation = read("curation_evaluation.jsonl")
    assert all(list(row) == ["id", "prompt"] and row["prompt"] for row in evaluation)
    assert len({row["id"] for row in evaluation}) == len(evaluation) >= 15
