"""The reference model beside the actor: it disturbs nothing, stays the recipe's model, and gradients are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_srpo.rollout.journal import Row, read_step
from tests.integration.ranks import Layout, recipe_values, record_steps, run_ranks

NEGLIGIBLE = 1e-30  # builds a reference whose KL is lost in the rounding of every sum
SEED = 1  # of step files whose first step has responses that were cut off
KL = {"kl_coefficient": 0.1}
OBJECTIVES = ("tokens", "samples")


@pytest.fixture(scope="module")
def run(tiny_hf: Callable[..., Path], tmp_path_factory: Any) -> dict[str, Any]:
    """Training with and without a reference on two tensor-parallel ranks, in one start."""
    folder = tmp_path_factory.mktemp("reference")
    model = tiny_hf(tied=True)
    steps = [str(path) for path in record_steps(folder / "rollouts", 3, SEED)]
    checkpoints = str(folder / "checkpoints")
    train = {"kind": "train", "model": str(model), "steps": steps[:1]}
    jobs = {
        "without": train,
        "negligible": train | {"algorithm": {"kl_coefficient": NEGLIGIBLE}},
        "straight": train | {"steps": steps, "algorithm": KL},
        "saved": train | {"save": checkpoints, "algorithm": KL},
        "resumed": train | {"steps": steps[1:], "load": checkpoints, "version": 1, "algorithm": KL},
        "resumed without": train | {"steps": [], "load": checkpoints, "version": 1},
        **{name: train | {"algorithm": {"loss_over": name}} for name in OBJECTIVES},
    }
    recipe = recipe_values(model, Layout(tensor=2), updates_per_step=1)
    ranks = run_ranks(folder / "ranks", recipe, list(jobs.values()))
    results = {name: [rank["results"][i] for rank in ranks] for i, name in enumerate(jobs)}
    assert any(row.finish_reason == "length" for row in read_step(Path(steps[0])))
    return {"model": model, "step": Path(steps[0]), **results}


def weights(results: list[dict[str, Any]]) -> list[str]:
    return [result["weights"] for result in results]


def test_building_a_reference_disturbs_nothing(run: dict[str, Any]) -> None:
    assert weights(run["negligible"]) == weights(run["without"])
    assert "kl_reference" not in run["without"][0]["metrics"][0]
    kl = run["negligible"][0]["metrics"][0]["kl_reference"]
    assert 0 <= kl < 1e-10, "before the first update they are the same, up to rounding"


def test_a_resumed_run_has_the_same_reference(run: dict[str, Any]) -> None:
    """Were the reference restored with the checkpoint, the KL of step 1 would begin at 0 again."""
    assert weights(run["resumed"]) == weights(run["straight"]) != weights(run["without"])
    resumed, straight = run["resumed"][0]["metrics"], run["straight"][0]["metrics"][1:]
    assert [m["kl_reference"] for m in resumed] == [m["kl_reference"] for m in straight]
    assert resumed[0]["kl_reference"] > 1e-4


def test_the_checkpoint_holds_the_actor_alone(run: dict[str, Any]) -> None:
    assert weights(run["resumed without"]) == weights(run["saved"])


@pytest.mark.parametrize("loss_over", OBJECTIVES)
def test_gradient_of_the_first_update_equals_transformers(run: dict[str, Any], loss_over: str) -> None:
    """The norm of the whole gradient: advantages, aggregation, and Megatron's division by the count."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run["model"], dtype=torch.float64)
    samples = list(zip(read_step(run["step"]), advantages(read_step(run["step"])), strict=True))
    tokens = sum(len(row.tokens) for row, _ in samples)
    for row, advantage in samples:
        whole = torch.tensor([[*row.prompt_tokens, *row.tokens]])
        log_probs = model(whole).logits[0].log_softmax(-1)[len(row.prompt_tokens) - 1 : -1]
        chosen = log_probs.gather(1, torch.tensor(row.tokens)[:, None]).sum()
        divisor = tokens if loss_over == "tokens" else len(samples) * len(row.tokens)
        (-advantage * chosen / divisor).backward()
    norm = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) ** 0.5
    for rank in run[loss_over]:
        assert rank["metrics"][0]["grad_norm"] == pytest.approx(norm, rel=1e-4)


def advantages(rows: list[Row]) -> list[float]:
    """(r - mean) / deviation in groups of four, 0 for what was cut off."""
    found: list[float] = []
    for start in range(0, len(rows), 4):
        group = torch.tensor([row.reward for row in rows[start : start + 4]], dtype=torch.float64)
        normalized = (group - group.mean()) / (group.std(correction=0) + 1e-6)
        cut = [row.finish_reason != "stop" for row in rows[start : start + 4]]
        found += [0.0 if c else float(a) for c, a in zip(cut, normalized, strict=True)]
    return found
