"""Counts, rules against labels, and the card, on cases worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from megatron_srpo.data.curate.card import card
from megatron_srpo.data.curate.confusion import Confusion
from megatron_srpo.data.curate.statistics import LENGTHS, Statistics
from megatron_srpo.data.problem_set import (
    PROBLEM_SCHEMA,
    Manifest,
    PartWriter,
    commit,
    read_manifest,
    read_parts,
)
from tests.unit.curate.jobs import check_counts, make, row, values, write_rows

# Labels, repairs and rules that acted; kept where there are no rules.
LABELLED: list[tuple[list[str] | None, list[str], list[str]]] = [
    (["image"], [], ["image"]),
    (["image", "html"], ["html: 2 tags"], ["image"]),
    (["image"], [], ["proof"]),
    ([], [], ["image"]),
    (["html"], [], []),
    ([], [], []),
    (None, ["html: 1 tag"], ["image"]),
]
BY_HAND = {
    "rows": 6,
    "rules": {
        "html": {
            "right": 1, "too_many": 0, "missed": 1, "precision": 1.0, "recall": 0.5, "mistakes": ["-a/4"],
        },
        "image": {
            "right": 2, "too_many": 1, "missed": 1, "precision": 0.6667, "recall": 0.6667,
            "mistakes": ["+a/3", "-a/2"],
        },
        "proof": {
            "right": 0, "too_many": 1, "missed": 0, "precision": 0.0, "recall": None, "mistakes": ["+a/2"],
        },
    },
}  # fmt: skip


def test_the_confusion_of_rules_and_labels() -> None:
    lines: list[dict[str, Any]] = [
        {"id": f"a/{number}", "labels": labels, "repairs": repairs, "rules": rules}
        for number, (labels, repairs, rules) in enumerate(LABELLED)
    ]
    schema = pa.schema([("id", pa.string()), *((name, pa.list_(pa.string())) for name in ("labels", "repairs"))])
    kept = [{name: line[name] for name in schema.names} for line in lines if not line["rules"]]
    confusion = Confusion()
    confusion.add(pa.Table.from_pylist(kept, schema), [line for line in lines if line["rules"]])
    found = confusion.table()
    assert found is not None
    for rule in found["rules"].values():
        rule["mistakes"].sort()
    assert found == BY_HAND
    assert Confusion().table() is None


def test_labels_of_a_whole_run_are_compared(tmp_path: Path) -> None:
    rows = [
        row(1, wrong=[]),
        row(2, answer="3 +", wrong=["answer_unread"]),
        row(3, wrong=["answer_unread"]),
        row(1, wrong="duplicate"),
        row(4, solution=r"\boxed{1}", wrong=None),
        "no JSON",
    ]
    config = values(tmp_path, {"a": {"path": write_rows(tmp_path / "a.jsonl", rows), "labels": "wrong"}})
    make(config)
    table = check_counts(config).counts["confusion"]
    assert table["rows"] == 5
    found = {name: (of["right"], of["too_many"], of["missed"]) for name, of in table["rules"].items()}
    assert found == {"answer_unread": (1, 0, 1), "duplicate": (1, 0, 0), "solution_disagrees": (0, 1, 0)}
    text = (tmp_path / "out" / "card.md").read_text()
    assert "| answer_unread | 1 | 0 | 1 | 1.000 | 0.500 | -a/2 |" in text
    assert "| solution_disagrees | 0 | 1 | 0 | 0.000 |  | +a/4 |" in text
    assert "2 problems (2 of math) out of 6 rows: 3 were refused by rules, 1 could not be handled." in text
    assert "| a | 6 | 2 | 3 | 1 |" in text
    assert "- a row 4: the solution says '1', the answer is '9'" in text


@pytest.mark.parametrize("length", [1, 32, 33, 64, 2**16, 2**16 + 1])
def test_lengths_are_counted_in_characters_up_to_each_bound(length: int) -> None:
    statistics = Statistics(["a"])
    problems = pa.Table.from_pylist([{"domain": "math", "prompt": "€" * length}])
    statistics.add({"source": "a", "rows": 1, "repaired": {}, "refused": {}, "examples": {}}, problems, [], [])
    of = statistics.counts()["lengths"]["math"]
    (at,) = [at for at, number in enumerate(of) if number]
    assert len(of) == len(LENGTHS) + 1
    assert at == len(LENGTHS) or length <= LENGTHS[at]
    assert at == 0 or length > LENGTHS[at - 1]


def test_a_few_examples_of_each_rule_from_the_first_units() -> None:
    statistics = Statistics(["a"])
    none = pa.Table.from_pylist([], pa.schema([("domain", pa.string()), ("prompt", pa.string())]))
    for unit in range(3):
        examples = {"image": [{"row": f"{unit}{number}", "what": "w", "prompt": "p"} for number in range(2)]}
        summary = {"source": "a", "rows": 2, "repaired": {}, "refused": {"image": 2}, "examples": examples}
        statistics.add(summary, none, [], [])
    found = statistics.counts()["rules"]["image"]
    assert found["refused"] == 6 and [example["row"] for example in found["examples"]] == ["00", "01", "10"]


def test_what_rows_hold_cannot_break_the_card(tmp_path: Path) -> None:
    evil = "a | b\n\n# heading <script>alert(1)</script> ``` "
    rows = [row(1, prompt=evil, answer=""), row(2)]
    config = values(tmp_path, {"a": write_rows(tmp_path / "a.jsonl", rows)})
    make(config)
    text = (tmp_path / "out" / "card.md").read_text(encoding="utf-8").partition("## How it was made")[0]
    assert "<script>" not in text and "\n# heading" not in text and "> a &#124; b heading &lt;script>" in text


def test_a_card_loads_nothing_and_moves_no_cursor(tmp_path: Path) -> None:
    evil = "Look ![x](https://example.org/a.png) [y]: z \\\\[i](j) &lt;b> \x1b[2J\u202e"
    rows = [row(1, prompt="What is it?", answer=evil, solution=r"\boxed{9}"), row(2, do=evil, wrong=[evil, "a|b"])]
    source = {"path": write_rows(tmp_path / "a.jsonl", rows), "labels": "wrong"}
    make(values(tmp_path, {"a": source}))
    text = (tmp_path / "out" / "card.md").read_text(encoding="utf-8").partition("## How it was made")[0]
    assert "Look !" in text and "example.org" in text
    assert not set("[<\x1b\u202e") & set(text) and "a&#124;b" in text


def test_the_card_needs_nothing_but_the_manifest(tmp_path: Path) -> None:
    config = values(tmp_path, {"a": write_rows(tmp_path / "a.jsonl", [row(1), row(2)])})
    manifest = make(config)
    assert card(manifest) == (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert card(Manifest.model_validate_json(manifest.model_dump_json())) == card(manifest)


def problems(first: int, last: int) -> list[dict[str, Any]]:
    return [{"id": str(number), "domain": "math", "prompt": "p", "answer": "1"} for number in range(first, last)]


def write(folder: Path, rows: list[dict[str, Any]], limit: int) -> Manifest:
    """A set, written three rows at a time."""
    with PartWriter(folder, "problems", PROBLEM_SCHEMA, limit) as writer:
        for at in range(0, len(rows), 3):
            writer.write(rows[at : at + 3])
    return Manifest(name="set", problems=tuple(writer.parts))


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 10, 11])
def test_parts_have_as_many_rows_as_they_may(limit: int, tmp_path: Path) -> None:
    commit(tmp_path, write(tmp_path, problems(0, 10), limit))
    manifest = read_manifest(tmp_path)
    sizes = [part.rows for part in manifest.problems]
    assert sum(sizes) == 10 and all(size == limit for size in sizes[:-1])
    ids = [line["id"] for batch in read_parts(tmp_path, manifest.problems) for line in batch.to_pylist()]
    assert ids == [str(number) for number in range(10)]


def test_a_new_version_stands_beside_the_old_one_until_it_is_committed(tmp_path: Path) -> None:
    old = write(tmp_path, problems(0, 5), 2)
    commit(tmp_path, old)
    (tmp_path / "problems" / "part.tmp").write_text("left by something that was killed")
    (tmp_path / "problems" / "partial notes.txt").write_text("not ours")
    new = write(tmp_path, problems(5, 12), 2)
    assert len(list(read_parts(tmp_path, read_manifest(tmp_path).problems))) == 3
    commit(tmp_path, new)
    files = {f"problems/{file.name}" for file in (tmp_path / "problems").iterdir()}
    assert files == {*(part.file for part in new.problems), "problems/partial notes.txt"}
