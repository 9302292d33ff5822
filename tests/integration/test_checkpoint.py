"""Training checkpoints: bit-identical continuation, other layouts, broken files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from megatron_srpo.bridge.torch_dist import read_index
from megatron_srpo.checkpoints.manifest import Manifest
from megatron_srpo.checkpoints.verify import check_files
from megatron_srpo.errors import SrpoError
from tests.architectures import write_tiny
from tests.integration.ranks import Layout, recipe_values, record_steps, run_ranks
from tests.stored import read_piece


@pytest.fixture(scope="module")
def run(tiny_hf: Callable[..., Path], tmp_path_factory: Any) -> dict[str, Any]:
    """Four steps in one go, and two steps with a checkpoint behind them, on two tensor-parallel ranks."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny_hf(layers=4, tied=True)
    steps = [str(path) for path in record_steps(folder / "rollouts", 4)]
    jobs = [
        {"kind": "train", "model": str(model), "steps": steps},
        {"kind": "train", "model": str(model), "steps": steps[:2], "save": str(folder / "checkpoints")},
    ]
    ranks = run_ranks(folder / "ranks", recipe_values(model, Layout(tensor=2)), jobs)
    return {"folder": folder, "model": model, "steps": steps, "straight": [r["results"][0] for r in ranks]}


def resume(run: dict[str, Any], layout: Layout) -> list[dict[str, Any]]:
    job = {
        "kind": "train",
        "model": str(run["model"]),
        "steps": run["steps"][2:],
        "load": str(run["folder"] / "checkpoints"),
        "version": 2,
    }
    ranks = run_ranks(run["folder"] / f"resume-{layout}", recipe_values(run["model"], layout), [job])
    return [rank["results"][0] for rank in ranks]


def test_resume_is_bit_identical(run: dict[str, Any]) -> None:
    for resumed, straight in zip(resume(run, Layout(tensor=2)), run["straight"], strict=True):
        assert resumed["version"] == straight["version"] == 4
        assert resumed["weights"] == straight["weights"]


def test_resume_on_another_layout(run: dict[str, Any]) -> None:
    for resumed in resume(run, Layout(pipeline=2)):
        for ours, theirs in zip(resumed["metrics"], run["straight"][0]["metrics"][2:], strict=True):
            for name in ("loss", "grad_norm", "learning_rate"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


def contents(folder: Path) -> dict[str, torch.Tensor]:
    """Every global tensor of a checkpoint, each element from exactly one piece."""
    found = {}
    for key, pieces in read_index(folder).items():
        if pieces[0].dtype is None:
            continue
        whole = torch.zeros(pieces[0].shape, dtype=pieces[0].dtype)
        times = torch.zeros(pieces[0].shape, dtype=torch.int8)
        for piece in pieces:
            place = tuple(slice(o, o + s) for o, s in zip(piece.offsets, piece.sizes, strict=True))
            whole[place] = read_piece(folder, piece)
            times[place] += 1
        assert times.min() == times.max() == 1, key
        found[key] = whole
    return found


def objects(folder: Path) -> set[str]:
    return {key for key, pieces in read_index(folder).items() if pieces[0].dtype is None}


# Model, the layout that saves, more of its trainer section, and a layout that loads what was saved.
CASES: dict[str, tuple[str, Layout, dict[str, Any], Layout | None]] = {
    "tied, data parallel": ("qwen3", Layout(data=2), {}, None),
    "virtual stages": ("llama3", Layout(pipeline=2), {"virtual_pipeline_parallel": 2}, Layout(tensor=2)),
    "experts, expert parallel": ("qwen2_moe", Layout(data=2), {"expert_parallel": 2}, None),
    # The routers' bias, which changes in the backward passes, is that of the step too.
    "a layer without experts, bias": (
        *("glm4_moe", Layout(pipeline=2)),
        *({"experts": {"balancing": "bias"}}, Layout(data=2)),
    ),
    "experts, tensor parallel": (
        *("qwen3_moe", Layout(tensor=2, sequence_parallel=True)),
        *({"expert_parallel": 2}, Layout(pipeline=2)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_is_what_megatron_would_save(case: str, tmp_path: Path) -> None:
    architecture, layout, trainer, other = CASES[case]
    model = write_tiny(architecture, tmp_path / "model")
    steps = [str(path) for path in record_steps(tmp_path / "rollouts", 2)]
    job = {"kind": "checkpoint", "model": str(model), "steps": steps, "to": str(tmp_path)}
    found = run_ranks(tmp_path / "ranks", recipe_values(model, layout, **trainer), [job])
    ours, stock = tmp_path / "ours" / "step-000002", tmp_path / "stock"
    mine, theirs = contents(ours), contents(stock)
    assert set(mine) == set(theirs) and any(key.startswith("optimizer.state.exp_avg.") for key in mine)
    for key, tensor in theirs.items():
        assert mine[key].dtype == tensor.dtype and torch.equal(mine[key], tensor), key
    assert objects(ours) == objects(stock) | {f"rng_state/shard_{r}_{layout.ranks}" for r in range(layout.ranks)}
    # Megatron writes the parameter groups of all ranks alike, as we do.
    assert torch.load(ours / "common.pt") == torch.load(stock / "common.pt", weights_only=False)
    manifest = Manifest.read(ours)
    assert manifest.weight_version == 2 and manifest.layout.expert == trainer.get("expert_parallel", 1)
    assert check_files(ours, manifest.files) == []
    assert set(manifest.files) | {"manifest.json"} == {path.name for path in ours.iterdir()}
    beside = Manifest.read(tmp_path / "beside" / "step-000002")
    assert beside.files == manifest.files, "the next update waits until the state is copied"
    (saved,) = found[0]["results"][0]
    assert saved["weight_version"] == 2 and saved["stall_seconds"] > 0
    assert found[1]["results"][0] == []
    if other is not None:
        job = {"kind": "reshard", "model": str(model), "load": str(tmp_path / "ours"), "version": 2}
        job["to"] = str(tmp_path / "other")
        found = run_ranks(tmp_path / "other ranks", recipe_values(model, other), [job])
        assert [rank["results"] for rank in found] == [[4]] * other.ranks, "two updates a step"
        resharded = contents(tmp_path / "other" / "step-000002")
        for key, tensor in mine.items():
            # The vocabulary is padded to a multiple of the tensor-parallel ranks.
            rows = min(len(tensor), len(resharded[key]))
            assert torch.equal(resharded[key][:rows], tensor[:rows]) and not resharded[key][rows:].any(), key


def test_a_rank_that_fails_or_hangs_in_a_save_is_told_on_all(run: dict[str, Any], tmp_path: Path) -> None:
    job = {"kind": "saves_badly", "model": str(run["model"]), "to": str(tmp_path / "c")}
    ranks = run_ranks(tmp_path / "ranks", recipe_values(run["model"], Layout(tensor=2)), [job])
    for rank in ranks:
        failed, hung = rank["results"][0]
        assert "the checkpoint of step 0 is not saved: " in failed
        assert "__1_0.distcp: cannot be written (ZeroDivisionError: " in failed
        assert "the checkpoint of step 0 is not whole after 3 seconds (checkpoint.timeout_seconds)" in hung
    assert not list((tmp_path / "c").glob("step-*"))


def test_every_cut_and_every_flip_is_seen(run: dict[str, Any], tmp_path: Path) -> None:
    """Each file cut at the start, in the middle, by its last byte, and missing; one bit flipped at many places."""
    whole = run["folder"] / "checkpoints" / "step-000002"
    names = sorted(path.name for path in whole.iterdir())
    assert problems(whole) == []
    random, seen = Random(5), 0
    for name in names:
        content = (whole / name).read_bytes()
        cuts = {0, 1, len(content) // 2, len(content) - 1}
        places = range(len(content)) if name == "manifest.json" else random.sample(range(len(content)), 40)
        damaged = [content[:cut] for cut in cuts] + [flipped(content, place, random) for place in places]
        shutil.copytree(whole, tmp_path / name)
        for bad in damaged:
            (tmp_path / name / name).write_bytes(bad)
            assert any(str(tmp_path / name / name) in problem for problem in problems(tmp_path / name))
            seen += 1
        (tmp_path / name / name).unlink()
        assert "is missing" in problems(tmp_path / name)[0]
    assert seen > 300


def flipped(content: bytes, place: int, random: Random) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << random.randrange(8)
    return bytes(changed)


def problems(folder: Path) -> list[str]:
    try:
        return check_files(folder, Manifest.read(folder).files)
    except SrpoError as error:
        return [str(error)]


def test_updates_of_experts_are_counted_where_the_first_rank_has_none(tmp_path: Path) -> None:
    """Adam's bias correction goes by the count, of which every rank reads what rank 0 has written."""
    model = write_tiny("glm4_moe", tmp_path / "model")
    steps = [str(path) for path in record_steps(tmp_path / "rollouts", 3)]
    job = {"kind": "train", "model": str(model)}
    jobs = [
        job | {"steps": steps},
        job | {"steps": steps[:2], "save": str(tmp_path / "saved")},
        job | {"steps": steps[2:], "load": str(tmp_path / "saved"), "version": 2},
    ]
    recipe = recipe_values(model, Layout(pipeline=2), pipeline_layers=(1, 3))
    for rank in run_ranks(tmp_path / "ranks", recipe, jobs):
        straight, _, resumed = rank["results"]
        assert resumed["weights"] == straight["weights"]
        assert resumed["metrics"][0]["grad_norm"] == straight["metrics"][2]["grad_norm"]
