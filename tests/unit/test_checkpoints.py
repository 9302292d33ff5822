"""Manifests, checksums, retention and what ties a checkpoint to its run; no torch but for the shapes of shards."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from megatron_srpo.actor.saver import superfluous
from megatron_srpo.actor.shards import rectangles
from megatron_srpo.checkpoints.manifest import (
    MANIFEST,
    CurriculumState,
    FileEntry,
    Layout,
    Manifest,
    Tensors,
    checkpoint_folder,
    checkpoint_versions,
    files_of,
    sealed,
)
from megatron_srpo.checkpoints.provenance import Provenance
from megatron_srpo.checkpoints.verify import check_files, share_of
from megatron_srpo.cli import app
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import checksum
from megatron_srpo.recipe.schema import CheckpointSection, Recipe
from megatron_srpo.rollout.journal import Journal
from tests.support import journal_row

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(SHAPES, st.data())
def test_rectangles_cover_a_flat_range_in_order(shape: list[int], data: st.DataObject) -> None:
    size = int(np.prod(shape))
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    whole = np.arange(size).reshape(shape)
    found: list[int] = []
    parts = list(rectangles(shape, start, end))
    for offsets, sizes in parts:
        assert min(sizes) >= 1
        found += whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))].ravel().tolist()
    assert found == list(range(start, end))
    assert len(parts) <= 2 * len(shape) - 1


@given(st.dictionaries(st.text(max_size=4), st.integers(0, 1000), max_size=30), st.integers(1, 9))
def test_every_file_is_looked_at_by_one_process(sizes: dict[str, int], ranks: int) -> None:
    files = {name: FileEntry(size=size, xxh3_128="") for name, size in sizes.items()}
    shares = [share_of(files, rank, ranks) for rank in range(ranks)]
    assert sorted(itertools.chain(*shares)) == sorted(files)
    loads = [sum(entry.size for entry in share.values()) for share in shares]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)


@pytest.mark.parametrize(
    ("keep", "every", "gone"), [(1, None, [2, 4, 6]), (2, None, [2, 4]), (1, 4, [2, 6]), (9, None, []), (1, 2, [])]
)
def test_retention(keep: int, every: int | None, gone: list[int]) -> None:
    assert superfluous([2, 4, 6, 8], 8, (), CheckpointSection(keep=keep, keep_every=every)) == gone


@pytest.mark.parametrize(
    ("versions", "newest", "broken", "keep", "gone"),
    [
        ([20, 25, 40], 25, {40}, 1, [20]),  # 40 is replaced when training comes to it
        ([20, 25, 40], 25, {40}, 2, []),
        ([40, 50, 60], 60, {50}, 2, [50]),
        ([40, 50, 60], 60, {50}, 1, [40, 50]),
        ([30, 40, 50], 50, {50}, 2, [30]),  # written again
    ],
)
def test_broken_checkpoints_do_not_count_as_kept(
    versions: list[int], newest: int, broken: set[int], keep: int, gone: list[int]
) -> None:
    assert superfluous(versions, newest, broken, CheckpointSection(keep=keep)) == gone


def recipe(run_dir: Path, model: Path) -> Recipe:
    return Recipe.model_validate(
        {"name": "r", "steps": 9, "run_dir": run_dir, "model": {"path": model}, "data": {"train": {"m": "t"}}}
    )


def closed(journal: Journal, steps: int) -> None:
    for step in range(steps):
        journal.append([journal_row(0, 0, step)])
        journal.close(step, 1, [0])


@pytest.fixture
def run(tmp_path: Path, tiny_hf: Any) -> tuple[Recipe, Journal]:
    """A run directory with two steps and two checkpoints, as its own code writes them."""
    made = recipe(tmp_path / "run", tiny_hf())
    journal = Journal(tmp_path / "run" / "rollouts")
    closed(journal, 2)
    for version in (1, 2):
        write(made, journal, version)
    return made, journal


def write(made: Recipe, journal: Journal, version: int) -> Path:
    folder = checkpoint_folder(made.directory / "checkpoints", version)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * 1000 * version)
    state = CurriculumState(steps=version, xxh3_128=f"digest {version}")
    Manifest(
        weight_version=version,
        written_by={"torch": "2"},
        layout=Layout(tensor=2, pipeline=1, data=3),
        weights=Tensors(tensors=1, bytes=1000),
        optimizer=Tensors(tensors=0, bytes=0),
        scheduler={"num_steps": version},
        rng="here",
        run=Provenance(made, journal).facts(version, state),
        files={"weights": FileEntry(size=1000 * version, xxh3_128=checksum(folder / "weights"))},
    ).write(folder)
    return folder


def test_a_manifest_names_everything(run: tuple[Recipe, Journal]) -> None:
    made, journal = run
    manifest = Manifest.read(checkpoint_folder(made.directory / "checkpoints", 2))
    facts = manifest.run
    assert facts is not None and facts.curriculum is not None
    assert (manifest.weight_version, manifest.scheduler, manifest.layout.ranks) == (2, {"num_steps": 2}, 6)
    assert facts.journal.steps == 2 and facts.journal.last_step_xxh3_128 == checksum(journal.step_path(1))
    assert facts.model == str(made.model.path) and facts.recipe_xxh3_128
    assert Provenance(made, journal).curriculum_digests() == {1: "digest 1", 2: "digest 2"}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "is missing, and without it the folder is no checkpoint"),
        (lambda path: path.write_text("{}"), "is damaged or not a checkpoint's manifest"),
        (lambda path: path.write_text("[1]"), "is damaged or not a checkpoint's manifest"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is damaged or not a checkpoint's manifest"),
        (lambda path: path.write_text(path.read_text().replace("1000", "1001")), "does not fit its checksum"),
        (lambda path: path.write_text(path.read_text() + " "), "does not fit its checksum"),
        (lambda path: path.write_text(json.dumps(json.loads(path.read_text()))), "does not fit its checksum"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(run: Any, spoil: Any, told: str) -> None:
    folder = checkpoint_folder(run[0].directory / "checkpoints", 1)
    spoil(folder / MANIFEST)
    with pytest.raises(SrpoError, match=rf"manifest\.json: .*{told}"):
        Manifest.read(folder)
    assert Provenance(*run).curriculum_digests() == {2: "digest 2"}, "the others still count"


def test_a_manifest_of_other_software_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(sealed({"format": 7}))
    with pytest.raises(SrpoError, match=r"of this version of megatron_srpo \(format: "):
        Manifest.read(tmp_path)


def test_damaged_files_are_named(run: tuple[Recipe, Journal]) -> None:
    folder = checkpoint_folder(run[0].directory / "checkpoints", 1)
    files = Manifest.read(folder).files
    assert check_files(folder, files) == []
    path = folder / "weights"
    os.truncate(path, 999)
    assert check_files(folder, files) == [f"{path}: has 999 bytes, the manifest says 1000"]
    path.write_bytes(b"w" * 999 + b"v")
    assert check_files(folder, files) == [f"{path}: is damaged, its content does not fit the manifest's checksum"]
    path.unlink()
    assert check_files(folder, files) == [f"{path}: is missing"]


def test_what_is_no_file_is_not_read(run: tuple[Recipe, Journal]) -> None:
    """Reading it might never end."""
    path = checkpoint_folder(run[0].directory / "checkpoints", 1) / "weights"
    path.unlink()
    os.mkfifo(path)
    assert check_files(path.parent, {"weights": FileEntry(size=0, xxh3_128="")}) == [f"{path}: is no file"]


@pytest.mark.parametrize("name", ["../weights", "/dev/zero", "a/../../b", "a//b", "", "."])
def test_a_manifest_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    manifest = {"files": {name: {"size": 0, "xxh3_128": ""}}}
    (tmp_path / MANIFEST).write_bytes(sealed(manifest))
    with pytest.raises(SrpoError, match=r"manifest\.json: names no files .* is no file of the folder"):
        files_of(tmp_path)


def test_another_model_is_refused(run: tuple[Recipe, Journal]) -> None:
    made, journal = run
    Provenance(made, journal).check()
    file = made.model.path / "config.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(SrpoError, match=r"model\.path .*: its content is not what it was .* of step 2"):
        Provenance(made, journal).check()


def test_another_journal_is_refused(run: tuple[Recipe, Journal]) -> None:
    made, journal = run
    journal.step_path(1).write_bytes(journal.step_path(0).read_bytes())
    with pytest.raises(
        SrpoError, match=r"step-000001\.parquet: is not the file that the checkpoint of step 2.* remove"
    ):
        Provenance(made, journal).check()
    # Training from the beginning needs choices of experts that are not kept.
    experts = made.trainer.experts.model_copy(update={"replay_routing": True})
    replaying = made.model_copy(update={"trainer": made.trainer.model_copy(update={"experts": experts})})
    with pytest.raises(SrpoError, match="restore it, or start a new run$"):
        Provenance(replaying, journal).check()
    journal.step_path(1).unlink()
    with pytest.raises(SrpoError, match=r"step-000001\.parquet: is missing, and the checkpoint of step 2"):
        Provenance(made, journal).check()


def command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["checkpoint", *arguments])
    return (2 if isinstance(result.exception, SrpoError) else result.exit_code), result.output + str(
        result.exception or ""
    )


def test_the_commands(run: tuple[Recipe, Journal], tmp_path: Path) -> None:
    directory = run[0].directory
    assert checkpoint_versions(directory / "checkpoints") == [1, 2]
    code, text = command("list", str(directory))
    assert code == 0 and "step-000002" in text and "tp 2, pp 1, dp 3, ep 1" in text
    assert command("verify", str(directory)) == (0, "step-000001: whole\nstep-000002: whole\n")
    folder = checkpoint_folder(directory / "checkpoints", 2)
    os.truncate(folder / "weights", 3)
    code, text = command("verify", str(directory))
    assert code == 2 and "step-000001: whole" in text and "weights: has 3 bytes, the manifest says 2000" in text
    assert "1 of 2 checkpoints broken, step-000002" in text
    assert text.endswith("or set checkpoint.fall_back=true to go on from a whole one before")
    code, text = command("verify", str(folder))
    assert code == 2 and text.endswith("restore the files named above"), "there is none before it to fall back to"
    (folder / MANIFEST).unlink()
    code, text = command("verify", str(directory))
    assert code == 2 and "manifest.json: is missing" in text
    assert "broken" in command("list", str(directory))[1]
    code, text = command("verify", str(tmp_path / "elsewhere"))
    assert code == 2 and "elsewhere: there is no such folder" in text
    code, text = command("verify", str(tmp_path))
    assert code == 2 and "no checkpoints; expected" in text
