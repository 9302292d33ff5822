"""Every parallel layout equals the single rank, and the single rank equals transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.ranks import Layout, recipe_values, record_steps, run_ranks

LAYOUTS = [
    Layout(),
    Layout(tensor=2),
    Layout(pipeline=2),
    Layout(data=2),
    Layout(tensor=2, pipeline=2, sequence_parallel=True),
]
MODELS = {
    "untied": {"architecture": "qwen2", "tied": False},
    "tied": {"architecture": "qwen2", "tied": True},
    "llama": {"architecture": "llama", "tied": False},
}
SAMPLES = [
    np.random.default_rng(i).integers(0, 512, size=n).tolist() for i, n in enumerate((7, 12, 9, 40, 20, 17))
]
TRAINING_STEPS = 5
# The objective with everything that could depend on how samples are spread: two steps of two updates.
OTHER_STEPS = 2
OTHER_OBJECTIVE = {"loss_over": "samples", "kl_coefficient": 0.1}
Results = dict[str, Any]


@pytest.fixture(scope="module")
def folders(tiny_hf: Callable[..., Path]) -> dict[str, Path]:
    return {name: tiny_hf(layers=4, **options) for name, options in MODELS.items()}


def training_jobs(model: Path, steps: list[Path]) -> list[dict[str, Any]]:
    """The recipe's objective on all step files, and the other one on the first of them."""
    train = {"kind": "train", "model": str(model), "steps": [str(path) for path in steps]}
    return [train, train | {"steps": train["steps"][:OTHER_STEPS], "algorithm": OTHER_OBJECTIVE}]


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def found(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path_factory: Any) -> Results:
    """Results of one layout: all jobs in one start, as starting ranks takes longest."""
    layout: Layout = request.param
    folder = tmp_path_factory.mktemp(str(layout))
    steps = record_steps(folder / "rollouts", TRAINING_STEPS)
    jobs: list[dict[str, Any]] = []
    for name, model in folders.items():
        jobs.append({"kind": "log_probs", "model": str(model), "samples": SAMPLES})
        jobs.append({"kind": "export", "model": str(model), "to": str(folder / f"export-{name}")})
    jobs += training_jobs(folders["tied"], steps)
    ranks = run_ranks(folder / "ranks", recipe_values(folders["tied"], layout), jobs)
    last = [rank for rank in ranks if rank["place"]["last"] and rank["place"]["tensor"] == 0]
    return {
        "layout": layout,
        "folder": folder,
        "log_probs": {
            name: [sample for rank in last for sample in rank["results"][2 * i]] for i, name in enumerate(folders)
        },
        "train": [rank["results"][-2]["metrics"] for rank in ranks],
        "other": [rank["results"][-1]["metrics"] for rank in ranks],
    }


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> dict[str, list[list[float]]]:
    """Log-probs by transformers in float32, one sample at a time."""
    from transformers import AutoModelForCausalLM

    result = {}
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        result[name] = []
        for sample in SAMPLES:
            with torch.no_grad():
                log_probs = model(torch.tensor([sample])).logits[0].log_softmax(-1)
            result[name].append(log_probs[:-1].gather(1, torch.tensor(sample[1:])[:, None])[:, 0].tolist())
    return result


@pytest.mark.parametrize("model", MODELS)
def test_log_probs_equal_transformers(found: Results, reference: dict[str, Any], model: str) -> None:
    # With data parallelism each rank has its own samples, in its own order.
    got = sorted(found["log_probs"][model])
    want = sorted(reference[model])
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_export_is_byte_equal(found: Results, folders: dict[str, Path], model: str) -> None:
    from safetensors.torch import load_file

    folder = found["folder"] / f"export-{model}"
    files = sorted(folder.glob("*.safetensors"))
    got = {name: tensor for file in files for name, tensor in load_file(file).items()}
    want = load_file(folders[model] / "model.safetensors")
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    assert len(files) > 1, "the test's file size limit must split the export"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(want)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in want.values())
    assert (folder / "tokenizer.json").read_bytes() == (folders[model] / "tokenizer.json").read_bytes()


def test_training_equals_the_single_rank(found: Results, folders: dict[str, Path], single: Results) -> None:
    """Loss, gradient norm, entropy, ratio and clip fraction over five steps of two updates each."""
    for rank in found["train"]:
        assert_same_metrics(rank, single["train"])


def test_the_other_objective_equals_the_single_rank(found: Results, single: Results) -> None:
    """Mean over samples and KL with the reference model, over two steps of two updates each."""
    for rank in found["other"]:
        assert_same_metrics(rank, single["other"], "kl_reference")


def assert_same_metrics(ours: Results, theirs: Results, *more: str) -> None:
    close = ("loss", "grad_norm", "entropy", "ratio", "log_prob", "mismatch_mean", "mismatch_max", "kl_rollout")
    for step, reference in zip(ours, theirs, strict=True):
        assert set(step) == set(reference)
        for name in (*close, *more):
            assert math.isclose(step[name], reference[name], rel_tol=1e-4, abs_tol=1e-7), name
        for name in ("response_tokens", "gradient_tokens", "learning_rate"):
            assert step[name] == reference[name]


@pytest.fixture(scope="module")
def single(folders: dict[str, Path], tmp_path_factory: Any) -> Results:
    """Training on one rank, with the whole step in one microbatch."""
    folder = tmp_path_factory.mktemp("single")
    steps = record_steps(folder / "rollouts", TRAINING_STEPS)
    recipe = recipe_values(folders["tied"], Layout(), max_tokens_per_microbatch=100_000)
    results = run_ranks(folder / "ranks", recipe, training_jobs(folders["tied"], steps))[0]["results"]
    train, other = (result["metrics"] for result in results)
    losses = [step["loss"] for step in train]
    assert max(losses) - min(losses) > 0.01, "losses must differ, or comparing them shows nothing"
    assert other[1]["kl_reference"] > 1e-3, "the KL must count, or comparing it shows nothing"
    return {"train": train, "other": other}


def test_an_empty_microbatch_changes_nothing(
    folders: dict[str, Path], single: Results, tmp_path_factory: Any
) -> None:
    """Eight samples an update, each alone in its microbatch, on three ranks: one of them has nothing to do."""
    folder = tmp_path_factory.mktemp("empty")
    steps = record_steps(folder / "rollouts", OTHER_STEPS)
    recipe = recipe_values(folders["tied"], Layout(data=3), max_tokens_per_microbatch=1)
    for rank in run_ranks(folder / "ranks", recipe, training_jobs(folders["tied"], steps)):
        for name, result in zip(("train", "other"), rank["results"], strict=True):
            assert_same_metrics(result["metrics"], single[name][:OTHER_STEPS])
