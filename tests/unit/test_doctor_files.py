"""`srpo doctor RECIPE`: what it says of the recipe's files, and of the room that they need."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_srpo.doctor.facts import MachineFacts
from megatron_srpo.doctor.files import check_checkpoints, check_files, check_trainer_memory
from megatron_srpo.doctor.finding import Finding
from megatron_srpo.doctor.gather import look_at_files
from megatron_srpo.recipe.load import load_recipe
from tests.unit.folders import write_recipe
from tests.unit.machines import CPU_MACHINE, H100, gpu_machine, said
from tests.unit.plan.shapes import TINY, recipe


def found(file: Path) -> dict[str, Finding]:
    loaded = load_recipe(file)
    return {one.name: one for one in check_files(loaded, look_at_files(loaded), CPU_MACHINE)}


def test_everything_is_there(tmp_path: Path) -> None:
    findings = found(write_recipe(tmp_path))
    assert [one.status for one in findings.values()] == ["ok"] * 3
    assert set(findings) == {"files", "memory", "checkpoints"}


def test_what_is_missing_cannot_be_started_without(tmp_path: Path) -> None:
    file = write_recipe(tmp_path)
    for name in ("model/model.safetensors", "model/tokenizer.json", "train.parquet", "python"):
        (tmp_path / name).unlink()
    errors = {name: one.found for name, one in found(file).items() if one.status == "error"}
    assert errors == {
        "weights": f"none in {tmp_path / 'model'}",
        "tokenizer": f"no {tmp_path / 'model' / 'tokenizer.json'}; prompts have no lengths without it",
        "data": f"no {tmp_path / 'train.parquet'}",
    }


def test_what_is_wrong_is_the_plans_sentence(tmp_path: Path) -> None:
    file = write_recipe(tmp_path)
    shutil.rmtree(tmp_path / "model")
    (finding,) = found(file).values()
    assert finding.status == "error" and "there is no such folder" in finding.found
    (tmp_path / "train.parquet").unlink()
    assert set(found(file)) == {"files", "data"}


def machine_with(memory: int) -> MachineFacts:
    return replace(CPU_MACHINE.machine, memory=memory)


def test_the_memory_of_all_ranks() -> None:
    at = recipe(device="cpu", dtype="float32", ranks=4, pipeline_parallel=2)
    # Weights, gradients and two moments, of two ranks; the embeddings are not tied.
    layer = 16 * (2 * 32 + 2 * 16) + (32 + 2 * 16) + 3 * 16 * 24 + 2 * 16
    parameters = 8 * layer + 2 * 96 * 16 + 16
    needed = 2 * (4 + 4 + 4) * parameters  # moments are split over two data-parallel ranks
    assert check_trainer_memory(at, TINY, machine_with(needed)).status == "ok"
    short = check_trainer_memory(at, TINY, machine_with(needed - 1))
    assert said(short).startswith("warning: ranks hold ")


def test_memory_of_gpus_is_the_plans(tmp_path: Path) -> None:
    loaded = load_recipe(write_recipe(tmp_path), ["trainer.device=cuda"])
    names = [one.name for one in check_files(loaded, look_at_files(loaded), gpu_machine(H100))]
    assert names == ["files", "checkpoints"]


@pytest.mark.parametrize(("dtype", "width"), [("float32", 16), ("bfloat16", 14)])
def test_kept_checkpoints_go_onto_the_disk(tmp_path: Path, dtype: str, width: int) -> None:
    loaded = load_recipe(
        write_recipe(tmp_path),
        [f"run_dir={tmp_path / 'a' / 'b'}", "checkpoint.keep=3", f"trainer.dtype={dtype}"],
    )
    files = look_at_files(loaded)
    assert files.disk == tmp_path and files.model is not None
    parameters = 260 * 16 + 16 + 2 * (16 * (2 * 16 + 2 * 8) + 16 + 2 * 8 + 3 * 16 * 24 + 2 * 16)
    needed = 3 * width * parameters
    assert check_checkpoints(loaded, files.model, replace(files, free_disk=needed)).status == "ok"
    assert check_checkpoints(loaded, files.model, replace(files, free_disk=needed - 1)).status == "warning"
