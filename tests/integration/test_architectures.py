"""Every architecture on many parallel layouts: log-probs equal transformers', exports equal what was loaded.

Starting ranks takes longest, so one start of four ranks goes through all layouts and models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.architectures import MOE, TINY, read_tensors, reference_log_probs, write_tiny
from tests.integration.ranks import PLAIN, Layout, recipe_values, record_steps, run_ranks

# On a busy machine one start of four ranks with all its jobs takes longer than other tests may.
pytestmark = pytest.mark.timeout(900)

Results = dict[str, Any]
RANKS = 4
TIMEOUT_SECONDS = 700
# Long enough for the scaled rotary frequencies to matter.
SAMPLES = [
    np.random.default_rng(i).integers(0, 511, size=n).tolist() for i, n in enumerate((400, 12, 90, 40, 200))
]
# Layouts of four ranks; what is left of them is data parallelism.
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp4": {},
    "tp2-dp2": {"tensor_parallel": 2},
    "tp2-pp2-uneven": {
        "tensor_parallel": 2,
        "sequence_parallel": True,
        "pipeline_parallel": 2,
        "pipeline_layers": (1, 3),
    },
    "pp2-virtual2-dp2": {"pipeline_parallel": 2, "virtual_pipeline_parallel": 2},
    "ep4-dp4": {"expert_parallel": 4},
    "tp2-ep4-dp2": {"tensor_parallel": 2, "sequence_parallel": True, "expert_parallel": 4},
    "pp2-ep2-dp2": {"pipeline_parallel": 2, "expert_parallel": 2},
    "tp2-pp2-ep2-uneven": {
        "tensor_parallel": 2,
        "sequence_parallel": True,
        "pipeline_parallel": 2,
        "pipeline_layers": (3, 1),
        "expert_parallel": 2,
    },
    "pp2-virtual2-ep2-uneven": {
        "pipeline_parallel": 2,
        "virtual_pipeline_parallel": 2,
        "pipeline_layers": (1, 1, 2, 1),
        "expert_parallel": 2,
    },
    "cp2-dp2": {"context_parallel": 2},
    "tp2-cp2": {"tensor_parallel": 2, "sequence_parallel": True, "context_parallel": 2},
    "pp2-cp2-ep2": {"pipeline_parallel": 2, "context_parallel": 2, "expert_parallel": 2},
    "dp4-overlap-recompute": {
        "overlap_gradient_reduce": True,
        "overlap_parameter_gather": True,
        "bucket_parameters": 5_000,
        "recompute": {"granularity": "full"},
    },
    "tp2-pp2-overlap-recompute": {
        "tensor_parallel": 2,
        "sequence_parallel": True,
        "pipeline_parallel": 2,
        "virtual_pipeline_parallel": 2,
        "overlap_gradient_reduce": True,
        "overlap_parameter_gather": True,
        "bucket_parameters": 5_000,
        "recompute": {"granularity": "selective", "modules": ("core_attn", "mlp")},
    },
}
# The last layout's model: five layers, so that its chunks differ.
FIVE = "qwen2_moe with five layers"
STEPS = 2
# Layouts on which a checkpoint of another goes on.
CONTINUED = ("pp2-virtual2-dp2", "ep4-dp4", "tp2-cp2")


def models_of(layout: str) -> list[str]:
    """The models that a layout is for."""
    values = LAYOUTS[layout]
    if len(values.get("pipeline_layers", ())) == 4:
        return [FIVE]
    if "recompute" in values or values.get("context_parallel", 1) > 1:
        # Attention and schedules are the same in all: one dense model, and one with experts.
        return ["qwen2_moe"] if "expert_parallel" in values else ["qwen3", "qwen2_moe"]
    dense = [name for name in TINY if name not in MOE]
    if values.get("expert_parallel", 1) > 1:
        return list(MOE)
    # Experts need sequence parallelism beside tensor parallelism.
    return dense if layout == "tp2-dp2" else [*dense, *MOE]


PAIRS = [(layout, model) for layout in LAYOUTS for model in models_of(layout)]
# Tied embeddings with norms on queries and keys; experts with a shared one, in all layers or all but the first.
TRAINED = [
    (layout, model)
    for layout in LAYOUTS
    for model in ("qwen3", "qwen2_moe", "glm4_moe", FIVE)
    if layout != "dp4" and model in models_of(layout)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("architectures")
    made = {name: write_tiny(name, root / name) for name in TINY}
    return made | {FIVE: write_tiny("qwen2_moe", root / "five", num_hidden_layers=5)}


@pytest.fixture(scope="module")
def steps(tmp_path_factory: Any) -> list[str]:
    return [str(path) for path in record_steps(tmp_path_factory.mktemp("rollouts"), STEPS)]


@pytest.fixture(scope="module")
def found(folders: dict[str, Path], steps: list[str], tmp_path_factory: Any) -> Results:
    """Every rank's results by (layout, model, kind of job), and the folder with the exports."""
    root = tmp_path_factory.mktemp("layouts")
    jobs: list[dict[str, Any]] = []
    keys: list[tuple[str, str, str]] = []
    for layout, changes in LAYOUTS.items():
        jobs.append({"kind": "rearrange", "trainer": PLAIN | changes | {"max_tokens_per_microbatch": 410}})
        keys.append((layout, "", "rearrange"))
        for model in models_of(layout):
            shared = {"model": str(folders[model])}
            jobs.append(shared | {"kind": "log_probs", "samples": SAMPLES})
            jobs.append(shared | {"kind": "export", "to": str(root / f"{layout} {model}")})
            keys += [(layout, model, "log_probs"), (layout, model, "export")]
            if (layout, model) in TRAINED:
                jobs.append(shared | {"kind": "train", "steps": steps, "max_tokens_per_microbatch": 64})
                to = str(root / f"{layout} {model} gradients")
                small = {"max_tokens_per_microbatch": 64, "step": steps[0], "to": to}
                jobs.append(shared | {"kind": "gradients"} | small)
                keys += [(layout, model, "train"), (layout, model, "gradients")]
    # A checkpoint of one layout is continued on others.
    saved = {"save": str(root / "checkpoints"), "steps": steps[:1]}
    loaded = {"load": str(root / "checkpoints"), "version": 1, "steps": steps[1:]}
    for layout, part in (("tp2-pp2-ep2-uneven", saved), *((to, loaded) for to in CONTINUED)):
        values = {"trainer": PLAIN | LAYOUTS[layout], "model": str(folders["qwen2_moe"])}
        jobs.append({"kind": "train", **values, **part})
        keys.append((layout, "qwen2_moe", "resume"))
    ranks = run_ranks(root / "ranks", recipe_values(folders["qwen3"], Layout(data=RANKS)), jobs, TIMEOUT_SECONDS)
    results = {key: [rank["results"][i] for rank in ranks] for i, key in enumerate(keys)}
    return {"root": root, "results": results}


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> dict[str, list[list[float]]]:
    return {name: reference_log_probs(folder, SAMPLES) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def single(folders: dict[str, Path], steps: list[str], tmp_path_factory: Any) -> Results:
    """Training on one rank, with the whole step in one microbatch."""
    trained = sorted({model for _, model in TRAINED})
    root = tmp_path_factory.mktemp("single")
    jobs: list[dict[str, Any]] = []
    for model in trained:
        shared = {"model": str(folders[model])}
        jobs.append(shared | {"kind": "train", "steps": steps})
        for limit, name in ((1, "one by one"), (100_000, "packed")):
            to = str(root / f"{model} {name}")
            limits = {"max_tokens_per_microbatch": limit, "step": steps[0], "to": to}
            jobs.append(shared | {"kind": "gradients"} | limits)
    recipe = recipe_values(folders["qwen3"], Layout(), max_tokens_per_microbatch=100_000)
    results = run_ranks(root / "ranks", recipe, jobs)[0]["results"]
    metrics = {model: result["metrics"] for model, result in zip(trained, results[::3], strict=True)}
    losses = dict(zip(trained, results[1::3], strict=True))
    return {"root": root, "metrics": metrics, "losses": losses}


@pytest.mark.parametrize(("layout", "model"), PAIRS)
def test_log_probs_equal_transformers(
    found: Results, reference: dict[str, list[list[float]]], layout: str, model: str
) -> None:
    # With data parallelism each rank has its own samples, in its own order.
    got = sorted(sample for rank in found["results"][layout, model, "log_probs"] for sample in rank)
    want = sorted(reference[model])
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(("layout", "model"), PAIRS)
def test_export_is_byte_equal(found: Results, folders: dict[str, Path], layout: str, model: str) -> None:
    got, want = read_tensors(found["root"] / f"{layout} {model}"), read_tensors(folders[model])
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize(("layout", "model"), TRAINED)
def test_training_equals_the_single_rank(found: Results, single: Results, layout: str, model: str) -> None:
    for rank in found["results"][layout, model, "train"]:
        assert_same_metrics(rank["metrics"], single["metrics"][model])


@pytest.mark.parametrize(("layout", "model"), TRAINED)
def test_gradients_equal_one_sample_after_the_other(
    found: Results, single: Results, layout: str, model: str
) -> None:
    """Packed and spread over ranks, or every sample alone on one rank: same loss, same gradients."""
    for loss in found["results"][layout, model, "gradients"]:
        assert loss == pytest.approx(single["losses"][model], rel=1e-5)
    assert_same_tensors(found["root"] / f"{layout} {model} gradients", single["root"] / f"{model} one by one")


@pytest.mark.parametrize("model", ["qwen3", "qwen2_moe", "glm4_moe", FIVE])
def test_packing_changes_no_gradient(single: Results, model: str) -> None:
    assert_same_tensors(single["root"] / f"{model} packed", single["root"] / f"{model} one by one")


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    """Within 1e-5 of each tensor's largest value."""
    got, want = read_tensors(ours), read_tensors(theirs)
    assert set(got) == set(want)
    for name, tensor in want.items():
        largest = float(tensor.abs().max())
        # An expert that no token visits has none.
        assert largest > 0 or ".experts." in name, f"{name} has no gradient, comparing it shows nothing"
        assert float((got[name] - tensor).abs().max()) <= 1e-5 * largest, name


def test_a_checkpoint_goes_on_where_it_was_on_other_layouts(found: Results, single: Results) -> None:
    for layout in CONTINUED:
        for rank in found["results"][layout, "qwen2_moe", "resume"]:
            assert_same_metrics(rank["metrics"], single["metrics"]["qwen2_moe"][1:])


def assert_same_metrics(ours: list[Results], theirs: list[Results]) -> None:
    """Loss and gradient norm of every step, which are means over its two updates."""
    assert len(ours) == len(theirs)
    for step, expected in zip(ours, theirs, strict=True):
        for name in ("loss", "grad_norm", "entropy", "log_prob"):
            assert step[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-7), name
        for name in ("response_tokens", "gradient_tokens"):
            assert step[name] == expected[name]
