"""Engines' choices of experts: their form, and how they lie beside the journal."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from megatron_srpo.errors import SrpoError
from megatron_srpo.rollout.journal import Journal, Row, read_step
from megatron_srpo.rollout.routed_experts import RoutingShape, checksum_of, locate
from tests.support import journal_row

SHAPE = RoutingShape(layers=2, chosen=3, experts=16)


def encoded(*experts: int) -> str:
    return base64.b64encode(np.array(experts, "<i4").tobytes()).decode()


def test_the_smallest_number_that_names_an_expert() -> None:
    assert [RoutingShape(1, 1, experts).dtype for experts in (256, 257)] == [np.uint8, np.uint16]
    assert SHAPE.bytes_of(5) == 4 * 2 * 3
    assert replace(SHAPE, experts=300).bytes_of(5) == 2 * SHAPE.bytes_of(5)


def test_an_answer_is_read_by_token_layer_and_choice() -> None:
    found = SHAPE.decode(encoded(*range(12)), tokens=3)
    assert found.dtype == np.uint8
    assert found.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]


def test_layers_without_experts_hold_zeros() -> None:
    found = replace(SHAPE, dense=1).decode(encoded(0, 0, 0, 3, 4, 5), tokens=2)
    assert found.tolist() == [[[0, 0, 0], [3, 4, 5]]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (encoded(*range(6)), "6 choices of experts, expected 2 x 2 x 3"),
        (encoded(*range(5, 17)), "experts 5 to 16, of 16"),
        (encoded(*range(-1, 11)), "experts -1 to 10, of 16"),
        (encoded(*[0] * 12), "the same expert twice"),
        (encoded(*range(6), 7, 7, 1, 2, 3, 4), "the same expert twice"),
        ("not base64!", "base64"),
    ],
)
def test_another_answer_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SHAPE.decode(text, tokens=3)


def sample(group: int, number: int) -> tuple[Row, NDArray[Any]]:
    """A row, whose length depends on both numbers, and its choices."""
    length = 1 + 3 * group + number
    choices = np.random.default_rng([group, number]).integers(0, 16, size=(3 + length - 1, 2, 3), dtype=np.uint8)
    tokens = list(range(length))
    changes = {"tokens": tokens, "log_probs": [-1.0] * length, "response_length": length}
    return journal_row(group, number, experts_checksum=checksum_of(choices), **changes), choices


def record(root: Path, without: int | None = None, groups: int = 3) -> tuple[Path, list[NDArray[Any]]]:
    """A closed step of groups of two that finish in reverse, `without` the choices of one; all choices by row."""
    journal, known = Journal(root), []
    for group in reversed(range(groups)):
        rows, choices = zip(*(sample(group, number) for number in range(2)), strict=True)
        if group == without:
            journal.append([replace(row, experts_checksum=None) for row in rows])
        else:
            journal.append(rows, choices)
            known = [*choices, *known]
    trained = [group for group in range(groups) if group != without]
    return journal.close(0, groups, trained), known


@pytest.mark.parametrize("without", [None, 0, 1])
def test_every_sample_finds_its_own(tmp_path: Path, without: int | None) -> None:
    step, known = record(tmp_path, without)
    rows = read_step(step)
    places = [place for place, row in zip(locate(step, rows, SHAPE), rows, strict=True) if row.trained]
    assert len(places) == len(known)
    for place, choices in zip(places, known, strict=True):
        assert place.read().tolist() == choices.tolist()
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["step-000000.experts", "step-000000.parquet"]


def test_steps_without_choices_have_no_such_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([journal_row(0, 0)])
    step = journal.close(0, 1, [0])
    assert [path.name for path in tmp_path.rglob("*.*")] == [step.name]
    with pytest.raises(SrpoError, match="recorded without .* or one with trainer.experts.replay_routing=false"):
        locate(step, read_step(step), SHAPE)


def test_a_crash_before_the_step_is_closed_is_made_good(tmp_path: Path) -> None:
    """The choices are put in place before the step that they belong to counts."""
    whole, _ = record(tmp_path / "whole")
    journal = Journal(tmp_path / "crashed")
    for group in range(3):
        rows, choices = zip(*(sample(group, number) for number in range(2)), strict=True)
        journal.append(rows, choices)
    stray = journal.step_path(0).with_suffix(".experts")
    stray.write_bytes(b"of a crash")
    step = journal.close(0, 3, range(3))
    assert stray.read_bytes() == whole.with_suffix(".experts").read_bytes()
    assert step.read_bytes() == whole.read_bytes()


def test_superfluous_choices_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(3):
        rows, choices = zip(*(sample(0, number) for number in range(2)), strict=True)
        journal.append([replace(row, step=step) for row in rows], choices)
        journal.close(step, 1, [0])
    journal.drop_experts(before=2)
    assert [path.name for path in tmp_path.glob("*.experts")] == ["step-000002.experts"]
    assert journal.closed_steps() == [0, 1, 2]


def test_damage_is_named(tmp_path: Path) -> None:
    step, _ = record(tmp_path)
    rows, file = read_step(step), step.with_suffix(".experts")
    content = bytearray(file.read_bytes())
    last = locate(step, rows, SHAPE)[-1]
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(SrpoError, match=rf"step-000000.experts: bytes {last.start} to {len(content)} are not"):
        last.read()
    file.write_bytes(content[:-1])
    with pytest.raises(SrpoError, match=rf"has {len(content) - 1} bytes, but the rows of .* {len(content)}"):
        locate(step, rows, SHAPE)
    file.unlink()
    with pytest.raises(SrpoError, match="has 0 bytes"):
        locate(step, rows, SHAPE)
    with pytest.raises(SrpoError, match="cannot be read"):
        last.read()
