"""Rules against rows that people have labelled: written from docs/data.md by others than the rules' author.

`curation.jsonl` is what the rules were mended with.  `curation_heldout.jsonl` was written afterwards, when the rules
stood as they were: docs/results.md has what they made of it at first sight.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.curate.jobs import check_counts, lines_of, make, values

DATA = Path(__file__).parents[2] / "data"
LEAST = 0.95


def curated(folder: Path, rows: str, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config of a set made of labelled rows, and the table of rules against labels."""
    source = {"path": str(DATA / rows), "labels": "rules"}
    config = values(folder, {"labelled": source}, workers=2, rows_per_unit=100, **more)
    make(config)
    return config, check_counts(config).counts["confusion"]


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    evaluation = {"sets": {"evaluation": {"path": str(DATA / "curation_evaluation.jsonl")}}}
    return curated(tmp_path_factory.mktemp("fixture"), "curation.jsonl", contamination=evaluation)


def test_every_rule_is_precise_and_misses_little(fixture: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, table = fixture
    assert table["rows"] == 1000 and len(table["rules"]) == 30
    found = {rule: (of["precision"], of["recall"]) for rule, of in table["rules"].items()}
    assert {rule: rates for rule, rates in found.items() if min(rates) < LEAST} == {}
    for rule, of in table["rules"].items():
        assert of["right"] + of["missed"] >= 20, rule


def test_the_card_has_the_table(fixture: tuple[dict[str, Any], dict[str, Any]]) -> None:
    config, table = fixture
    card = (Path(config["out"]) / "card.md").read_text(encoding="utf-8")
    for rule, of in table["rules"].items():
        assert f"| {rule} | {of['right']} | {of['too_many']} | {of['missed']} | {of['precision']:.3f} |" in card


def test_questions_with_choices_become_open_ones(fixture: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """With the answer that the labels name."""
    config, _ = fixture
    rows = [json.loads(line) for line in (DATA / "curation.jsonl").read_text(encoding="utf-8").splitlines()]
    answers = {line["id"]: line["answer"] for line in lines_of(config, "problems")}
    opened = {f"labelled/{number}": row["open_answer"] for number, row in enumerate(rows) if "open_answer" in row}
    assert len(opened) >= 30
    bare = {name: answer.strip("$") for name, answer in opened.items()}
    assert {name: answers.get(name, "").strip("$") for name in opened} == bare


def test_rows_that_the_rules_were_not_mended_with(tmp_path: Path) -> None:
    _, table = curated(tmp_path, "curation_heldout.jsonl")
    right, too_many, missed = (
        sum(of[kind] for of in table["rules"].values()) for kind in ("right", "too_many", "missed")
    )
    assert table["rows"] == 400 and right > 260
    assert right / (right + too_many) >= LEAST and right / (right + missed) >= LEAST
