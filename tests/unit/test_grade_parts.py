"""Pass@k, the journal of grades, and the way back into the set."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megatron_srpo import files
from megatron_srpo.data import problem_set
from megatron_srpo.data.grade.grade import Grade, grade_of, key_of
from megatron_srpo.data.grade.journal import GradeJournal
from megatron_srpo.data.grade.pass_at_k import difficulty_of, pass_at_k
from megatron_srpo.data.grade.survey import missing_rows, survey
from megatron_srpo.data.grade.write_back import write_back
from megatron_srpo.data.problem import Problem
from megatron_srpo.data.problem_set import read_manifest, read_parts
from megatron_srpo.errors import SrpoError
from megatron_srpo.launch import grade as grade_command
from megatron_srpo.recipe.grading import GradingSection
from megatron_srpo.recipe.model_folder import fingerprint
from megatron_srpo.rewards.score import Reward, failure
from megatron_srpo.rollout.client import Generation
from megatron_srpo.rollout.collect import Group, Prompt, Response
from tests.unit.folders import write_model, write_set

SETUP = {"model": {"path": "m", "files": "f00d"}, "sampling": {"samples": 4, "temperature": 1.0}}
GRADING = GradingSection(samples=4)


def test_reasons_are_no_commands_of_the_terminal() -> None:
    found = {"difficulty": {"easy": 1}, "ungraded": 1, "reasons": {"hung [b]\x1b[2J": 1}, "errors": 0}
    console = Console(file=StringIO())
    grade_command._report(Path("set"), found, console)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().endswith("1 times: hung [b]\\x1b[2J\n")


# Pass@k


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            chosen = list(combinations([at < c for at in range(n)], k))
            assert pass_at_k(n, c, k) == sum(map(any, chosen)) / len(chosen)


def test_pass_at_k_keeps_its_digits() -> None:
    product = 1.0  # the stable form of Chen et al.
    for at in range(200 - 3 + 1, 200 + 1):
        product *= 1.0 - 50 / at
    assert pass_at_k(200, 3, 50) == pytest.approx(1.0 - product, rel=1e-14)
    assert pass_at_k(10**6, 1, 1) == 1e-6
    assert pass_at_k(3, 3, 1) == pass_at_k(4, 1, 4) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_of_what_cannot_be_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"Pass@{k} of {n}"):
        pass_at_k(n, c, k)


def test_thresholds_belong_to_easy_and_hard() -> None:
    section = GradingSection(samples=10, easy=0.7, hard=0.3)
    assert [difficulty_of(pass_at_k(10, c, 1), section) for c in (2, 3, 4, 6, 7, 8)] == [
        *("hard", "hard", "medium", "medium", "easy", "easy")
    ]


# One problem


def response(accuracy: int, *, error: str | None = None, finish: Any = "stop", tokens: int = 2) -> Response:
    generation = Generation([1] * tokens, [-0.5] * tokens, finish, 0, 3, 0.1)
    reward = failure(error, -0.7) if error else Reward(-9.0, accuracy, False, None)
    return Response(generation, "", reward)


def test_only_what_could_be_judged_is_counted_and_only_accuracy_counts() -> None:
    responses = [
        response(1),
        response(0, tokens=6, finish="length"),
        response(0, error="hung"),
        response(1, finish="abort", tokens=0),
        response(0, error="hung"),
    ]
    prompt = Prompt(0, "s", 0, Problem("a", "?", "1"), [1], "key")
    grade = grade_of(Group(prompt, responses), "key", "m")
    assert (grade.n, grade.c, grade.errors, grade.cause) == (2, 1, 3, "hung")
    assert (grade.length_mean, grade.truncated) == (12 / 5, 1 / 5)
    assert grade.ungraded(2) is None
    assert grade.ungraded(3) == "fewer than 3 responses could be judged: hung"


def test_a_key_is_of_the_id_and_the_content() -> None:
    row = {
        "id": "a",
        "domain": "math",
        "prompt": "?",
        "answer": "1",
        "tests": None,
        "difficulty": None,
        "meta": "{}",
    }
    assert key_of(row) == key_of({**row, "difficulty": "easy", "meta": '{"x": 1}'})
    keys = {key_of({**row, name: "other"}) for name in ("id", "domain", "prompt", "answer", "tests")}
    assert len(keys | {key_of(row)}) == 6


def test_a_fingerprint_notices_other_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    before = fingerprint(folder)
    assert fingerprint(write_model(tmp_path / "same")) == before
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + b"\x01")
    after = fingerprint(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert len({before, after, fingerprint(folder)}) == 3


# The journal


def grade(id: str, c: int = 1, **changes: Any) -> Grade:
    return replace(Grade(id, f"key of {id}", 4, c, 0, "m", 2.5, 0.0), **changes)


def begun(folder: Path, setup: dict[str, Any] = SETUP, fresh: bool = False) -> GradeJournal:
    journal = GradeJournal(folder)
    journal.begin(setup, fresh)
    return journal


def test_what_was_added_is_read_again(tmp_path: Path) -> None:
    with begun(tmp_path) as journal:
        journal.add(grade("a"))
        journal.add(grade("b", cause="hung", errors=1))
        journal.add(grade("a", c=2))
        assert len(journal.path.read_bytes().splitlines()) == 4, "on disk at once"
    with begun(tmp_path) as journal:
        assert journal.get("a", "key of a") == grade("a", c=2), "the newest line counts"
        assert journal.get("b", "key of b") == grade("b", cause="hung", errors=1)
        assert journal.get("b", "key of another b") is None
        assert journal.get("c", "key of c") is None


def test_whatever_a_kill_has_cut_is_dropped(tmp_path: Path) -> None:
    with begun(tmp_path) as journal:
        journal.add(grade("a"))
        journal.add(grade("b"))
    whole = journal.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole) + 1):
        journal.path.write_bytes(whole[:length])
        with begun(tmp_path) as again:
            kept = [name for name in "ab" if again.get(name, f"key of {name}")]
            again.add(grade("c"))
        assert len(kept) == (length >= len(lines[0] + lines[1])) + (length == len(whole))
        with begun(tmp_path) as again:
            assert again.get("c", "key of c") == grade("c")
            assert again.setup == SETUP


def test_another_set_up_is_refused_until_all_is_fresh(tmp_path: Path) -> None:
    with begun(tmp_path) as journal:
        journal.add(grade("a"))
    content = journal.path.read_bytes()
    other = {**SETUP, "sampling": {"samples": 4, "temperature": 0.5}}
    with pytest.raises(SrpoError, match=r"\(sampling\.temperature was 1\.0 and is 0\.5\); .*--fresh"):
        begun(tmp_path, other)
    with pytest.raises(SrpoError, match=r"model\.files was 'f00d' and is None; model\.served was None"):
        begun(tmp_path, {**SETUP, "model": {"served": "m", "version": "0"}})
    assert journal.path.read_bytes() == content
    with begun(tmp_path, {**SETUP, "model": {"path": "elsewhere", "files": "f00d"}}) as journal:
        assert journal.get("a", "key of a"), "the same files in another place are the same model"
    with begun(tmp_path, other, fresh=True) as journal:
        assert journal.get("a", "key of a") is None
    assert len(journal.path.read_bytes().splitlines()) == 1


def test_one_process_at_a_time_and_a_broken_line_is_named(tmp_path: Path) -> None:
    with begun(tmp_path) as journal, pytest.raises(SrpoError, match="another srpo data command works on this set"):
        GradeJournal(tmp_path)
    for line in (b"{}\n", b"nonsense\n", b'{"id": "a"}\n'):
        journal.path.write_bytes(json.dumps({"setup": SETUP}).encode() + b"\n" + line)
        with pytest.raises(SrpoError, match=r"grades\.jsonl: line 2 cannot be read"):
            begun(tmp_path)


# Back into the set

ROWS: list[dict[str, Any]] = [
    {"id": "easy", "meta": '{"kept": "ä"}'},
    {"id": "hard"},
    {"id": "missing", "difficulty": "easy", "pass_rate": 1.0, "meta": '{"grade": {"n": 1}, "kept": 1}'},
    {"id": "medium"},
    {"id": "unjudged", "difficulty": "easy", "pass_rate": 1.0},
]
COUNTS = {"easy": (4, 4, 0), "hard": (4, 1, 0), "medium": (4, 2, 0), "unjudged": (0, 0, 4)}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    parts = read_manifest(folder).problems
    return [row for batch in read_parts(folder, parts) for row in batch.to_pylist()]


def prepared(folder: Path) -> GradeJournal:
    """A set of three parts and its journal, in which one problem is missing and one could not be judged."""
    write_set(folder, ROWS, rows_per_part=2, counts={"kept": 5})
    journal = begun(folder)
    for row in rows_of(folder):
        if row["id"] in COUNTS:
            n, c, errors = COUNTS[row["id"]]
            journal.add(Grade(row["id"], key_of(row), n, c, errors, "m", 2.5, 0.0, "hung" if errors else None))
    return journal


def test_grades_are_written_in_the_order_of_the_rows(tmp_path: Path) -> None:
    with prepared(tmp_path) as journal:
        found = asyncio.run(write_back(tmp_path, journal, GRADING))
    rows = rows_of(tmp_path)
    assert [(row["id"], row["difficulty"], row["pass_rate"]) for row in rows] == [
        ("easy", "easy", 1.0),
        ("hard", "hard", 0.25),
        ("missing", None, None),
        ("medium", "medium", 0.5),
        ("unjudged", None, None),
    ]
    assert [json.loads(row["meta"]).get("kept") for row in rows] == ["ä", None, 1, None, None]
    measured = {"n": 4, "c": 1, "errors": 0, "pass@1": 0.25, "length_mean": 2.5, "truncated": 0.0, "model": "m"}
    assert [json.loads(row["meta"]).get("grade") for row in rows][1:3] == [measured, None]
    manifest = read_manifest(tmp_path)
    assert (manifest.grading, manifest.counts) == (found, {"kept": 5})
    assert found == {
        "setup": SETUP,
        "grading": {"samples": 4, "k": 1, "easy": 0.75, "hard": 0.25},
        "difficulty": {"easy": 1, "medium": 1, "hard": 1},
        "ungraded": 2,
        "reasons": {"not measured": 1, "fewer than 1 responses could be judged: hung": 1},
        "responses": 16,
        "errors": 4,
    }


def test_k_and_thresholds_may_change_afterwards(tmp_path: Path) -> None:
    with prepared(tmp_path) as journal:
        asyncio.run(write_back(tmp_path, journal, GRADING))
        asyncio.run(write_back(tmp_path, journal, GradingSection(samples=4, k=2, easy=0.8, hard=0.5)))
    rows = {row["id"]: row for row in rows_of(tmp_path)}
    assert {id: row["difficulty"] for id, row in rows.items()} == {
        "easy": "easy", "hard": "hard", "medium": "easy", "missing": None, "unjudged": None
    }  # fmt: skip
    assert rows["hard"]["pass_rate"] == 0.25, "the share of right responses, whatever k"
    assert json.loads(rows["hard"]["meta"])["grade"]["pass@2"] == 0.5


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_any_instant_the_set_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Every change of a file is a moment to be killed at, just before it or just after, and within a text."""
    changes = 0
    fatal = -1

    def dangerous(change: Callable[..., Any]) -> Callable[..., Any]:
        def killing(*arguments: Any, **options: Any) -> Any:
            nonlocal changes
            changes += 1
            if before and changes == fatal:
                raise Killed
            if changes == fatal and change.__name__ == "write_bytes":
                arguments = (arguments[0], arguments[1][: len(arguments[1]) // 2])
            result = change(*arguments, **options)
            if changes == fatal:
                raise Killed
            return result

        return killing

    for name in ("replace", "rename", "unlink", "write_bytes"):
        monkeypatch.setattr(Path, name, dangerous(getattr(Path, name)))
    for module in (problem_set, files):
        monkeypatch.setattr(module, "sync", dangerous(files.sync))
    monkeypatch.setattr(
        problem_set.pyarrow.parquet, "write_table", dangerous(problem_set.pyarrow.parquet.write_table)
    )
    seen = set()
    with prepared(tmp_path) as journal:
        old = rows_of(tmp_path)
        fatal, changes = -1, 0
        asyncio.run(write_back(tmp_path, journal, GRADING))
        new, last = rows_of(tmp_path), changes
    assert last > 8
    for number in range(1, last + 1):
        with prepared(tmp_path) as journal:
            fatal, changes = number, 0
            with pytest.raises(Killed):
                asyncio.run(write_back(tmp_path, journal, GRADING))
            fatal = -1
            now = rows_of(tmp_path)
            assert now in (old, new)
            assert (read_manifest(tmp_path).grading is None) == (now == old)
            seen.add(now == old)
            asyncio.run(write_back(tmp_path, journal, GRADING))
            assert rows_of(tmp_path) == new
            assert len(list((tmp_path / "problems").iterdir())) == len(read_manifest(tmp_path).problems)
    assert seen == {True, False}


def test_a_full_disk_is_one_sentence_and_the_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with prepared(tmp_path) as journal:
        old = rows_of(tmp_path)
        monkeypatch.setattr(problem_set.pyarrow.parquet, "write_table", full)
        with pytest.raises(SrpoError, match=r": the set cannot be written \(.*No space left.*; make room"):
            asyncio.run(write_back(tmp_path, journal, GRADING))
        assert rows_of(tmp_path) == old


async def test_a_survey_counts_what_is_missing_and_names_only_its_parts(tmp_path: Path) -> None:
    with prepared(tmp_path) as journal:
        found = await survey(tmp_path, journal)
        assert (found.total, found.missing, found.programs) == (5, 1, False)
        assert found.parts == [read_manifest(tmp_path).problems[1]]
        assert [row["id"] for _, row in missing_rows(tmp_path, journal, found.parts)] == ["missing"]
    write_set(tmp_path / "twice", [{"id": "a"}, {"id": "a"}], rows_per_part=1)
    with begun(tmp_path / "twice") as journal, pytest.raises(SrpoError, match="the id 'a' stands twice"):
        await survey(tmp_path / "twice", journal)
