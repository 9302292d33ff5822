"""The journal's invariants: whole files, groups counted once, closed steps immutable."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.files import replace_file
from megatron_srpo.rollout.journal import Journal, read_step
from tests.support import journal_row as row


def test_round_trip_in_group_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for group in (2, 0, 1):
        journal.append([row(group, 0), row(group, 1)])
    path = journal.close(0, 3, [0, 2])
    expected = [replace(row(group, sample), trained=group != 1) for group in range(3) for sample in range(2)]
    assert read_step(path) == expected
    assert journal.closed_steps() == [0]


def test_open_groups_survive_a_restart(tmp_path: Path) -> None:
    Journal(tmp_path).append([row(1, 0)])
    [(group, path)] = Journal(tmp_path).open_paths(0).items()
    assert (group, read_step(path)) == (1, [row(1, 0)])


def test_a_group_recorded_twice_counts_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([row(0, 0)])
    journal.append([replace(row(0, 0), text="again")])
    assert [r.text for r in read_step(journal.close(0, 1, [0]))] == ["again"]


def test_half_written_files_do_not_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([row(0, 0)])
    (tmp_path / "open" / "step-000000" / "group-00001.parquet.tmp").write_bytes(b"PAR1 cut off")
    assert list(journal.open_paths(0)) == [0]


def test_closing_needs_every_group(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([row(1, 0)])
    with pytest.raises(ValueError, match="expected 0..1"):
        journal.close(0, 2, [0])


def test_crash_between_closing_and_tidying(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([row(0, 0)])
    group = tmp_path / "open" / "step-000000" / "group-00000.parquet"
    content = group.read_bytes()
    journal.close(0, 1, [0])
    group.parent.mkdir(parents=True)
    group.write_bytes(content)
    assert Journal(tmp_path).open_paths(0), "a reader leaves everything as it is"
    owner = Journal(tmp_path)
    owner.tidy()
    assert owner.open_paths(0) == {}
    with pytest.raises(ValueError, match="closed"):
        journal.append([row(0, 0)])


def test_missing_step_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in (0, 1):
        journal.append([row(0, 0, step)])
        journal.close(step, 1, [0])
    journal.step_path(0).unlink()
    with pytest.raises(SrpoError, match="step-000000.parquet: missing"):
        journal.closed_steps()


def test_broken_step_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([row(0, 0)])
    path = journal.close(0, 1, [0])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SrpoError, match=r"step-000000.parquet: cannot be read"):
        read_step(path)


def test_files_appear_by_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails before everything is written leaves the old file; success leaves no temporary one."""
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(SrpoError, match=r"file: cannot be written \(no space"):
        patch.setattr("os.fsync", full)
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "what was written takes no space"
    replace_file(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_flipped_bits_are_never_read_as_other_rows(tmp_path: Path) -> None:
    """Wherever a disk damages a step: an error that names the file, or the very same rows."""
    journal, chance = Journal(tmp_path), random.Random(0)
    for group in range(2):
        journal.append([row(group, sample, text=f"response {sample}") for sample in range(3)])
    path = journal.close(0, 2, [0])
    rows, content = read_step(path), path.read_bytes()
    refused = 0
    for place in chance.sample(range(len(content)), 600):
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert read_step(path) == rows, f"bit flipped in byte {place} of {len(content)}"
        except SrpoError as error:
            assert "step-000000.parquet" in str(error)
            refused += 1
    assert refused > 300
