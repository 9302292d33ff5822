"""Files that are there in full or not at all, and the names that others give to files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from megatron_srpo import files
from megatron_srpo.bridge import export
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import is_inside, is_plain_name, make_folder, unwritable


@pytest.mark.parametrize(
    ("name", "plain", "inside"),
    [
        ("a.safetensors", True, True),
        (".hidden", True, True),
        ("a/b", False, True),
        *((name, False, False) for name in ("/a", "..", ".", "", "a/../b", "a//b", "a/", "a\0", None, 3)),
    ],
)
def test_names(name: object, plain: bool, inside: bool) -> None:
    assert (is_plain_name(name), is_inside(name)) == (plain, inside)


def test_every_new_folder_is_synced_into_the_one_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync", synced.append)
    make_folder(tmp_path / "a" / "b" / "c")
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}
    synced.clear()
    make_folder(tmp_path / "a" / "b" / "c")
    assert synced == [] and (tmp_path / "a" / "b" / "c").is_dir()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), r"No space left on device\); free some space"),
        (OSError("[Errno 28] Error writing bytes"), r"No space left on device\); free some space"),
        (
            OSError("I/O error: No space left on device (os error 28)"),
            r"No space left on device\); free some space",
        ),
        (OSError(5, "Input/output error"), r"Input/output error\); see to the disk"),
    ],
)
def test_why_a_file_is_not_taken(error: OSError, told: str) -> None:
    with pytest.raises(SrpoError, match=f"name: cannot be written .{told}"):
        raise unwritable(Path("name"), error)


def test_an_export_to_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(SrpoError, match=r"part: cannot be written \(No space left on device\); free some space"):
        export.write_tensors({"a": torch.zeros(1)}, tmp_path / "part")
    assert os.listdir(tmp_path) == []
