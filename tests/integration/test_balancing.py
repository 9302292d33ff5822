"""The loss against uneven use of experts: the formula, written out on transformers' router, on several layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_srpo.rollout.journal import Journal
from tests.architectures import read_tensors, write_tiny
from tests.integration.ranks import Layout, recipe_values, run_ranks
from tests.support import journal_row

COEFFICIENT = 0.3
EXPERTS, CHOSEN = 8, 3
PROMPT = 4
# With the prompt all are multiples of 8, so that no layout pads: padding would go through the router too.
RESPONSES = (4, 12, 20, 4, 28, 12, 4, 20)
LAYOUTS: dict[str, dict[str, Any]] = {
    "one rank": {},
    "tp2": {"tensor_parallel": 2, "sequence_parallel": True},
    "cp2": {"context_parallel": 2},
}


def record(root: Path) -> tuple[Path, list[list[int]]]:
    """A step of one update of two groups whose rewards are all equal: only balancing has a gradient."""
    rng, journal = np.random.default_rng(0), Journal(root)
    samples = []
    for group in range(2):
        rows = []
        prompt = rng.integers(0, 511, size=PROMPT).tolist()
        for sample, length in enumerate(RESPONSES[4 * group : 4 * group + 4]):
            tokens = rng.integers(0, 511, size=length).tolist()
            changes = {"prompt_tokens": prompt, "tokens": tokens, "log_probs": [-6.0] * length}
            rows.append(journal_row(group, sample, response_length=length, reward=1.0, accuracy=1.0, **changes))
            samples.append(prompt + tokens)
        journal.append(rows)
    journal.close(0, 2, range(2))
    return journal.step_path(0), samples


def written_out(folder: Path, samples: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    """Gradients of COEFFICIENT x experts x sum over experts of (share of choices) x (mean probability)."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits = [
        model(torch.tensor([sample]), output_router_logits=True).router_logits[0].view(len(sample), EXPERTS)
        for sample in samples
    ]
    probabilities = torch.cat(logits).softmax(-1)
    chosen = probabilities.topk(CHOSEN).indices
    shares = torch.bincount(chosen.flatten(), minlength=EXPERTS) / chosen.numel()
    assert shares.max() > 1.2 / EXPERTS, "use is even already, so there would be hardly a gradient"
    (COEFFICIENT * EXPERTS * (shares * probabilities.mean(0)).sum()).backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Of the formula, and of every layout and normalisation of the loss."""
    root = tmp_path_factory.mktemp("balancing")
    folder = write_tiny("qwen3_moe", root / "model", num_hidden_layers=1, tie_word_embeddings=False)
    step, samples = record(root / "rollouts")
    found = {"formula": written_out(folder, samples)}
    balanced = {"experts": {"balancing": "aux_loss", "aux_loss_coefficient": COEFFICIENT}, "updates_per_step": 1}
    recipe = recipe_values(folder, Layout(data=1), max_tokens_per_microbatch=100_000, **balanced)
    recipe["rollout"]["prompts_per_step"] = 2
    for ranks in (1, 2):
        jobs, names = [], []
        for layout, changes in LAYOUTS.items():
            if (2 if changes else 1) != ranks:
                continue
            plain = {"tensor_parallel": 1, "sequence_parallel": False, "context_parallel": 1}
            for over in ("tokens", "samples"):
                name = f"{layout}, {over}"
                trainer = {"trainer": plain | changes} if ranks > 1 else {}
                algorithm = {"algorithm": {"loss_over": over}}
                job = {"kind": "gradients", "model": str(folder), "step": str(step), "to": str(root / name)}
                jobs.append(job | trainer | algorithm)
                names.append(name)
        run_ranks(root / f"ranks-{ranks}", recipe | {"trainer": recipe["trainer"] | {"ranks": ranks}}, jobs)
        found |= {name: read_tensors(root / name) for name in names}
    return found


@pytest.mark.parametrize("over", ["tokens", "samples"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_is_that_of_the_formula(
    gradients: dict[str, dict[str, torch.Tensor]], layout: str, over: str
) -> None:
    want, got = gradients["formula"], gradients[f"{layout}, {over}"]
    checked = 0
    for name, tensor in got.items():
        if name not in want:  # transformers joins the experts, which this loss does not reach in a single layer
            assert ".experts." in name and not tensor.any()
            continue
        checked += 1
        largest = float(want[name].abs().max())
        assert float((tensor - want[name]).abs().max()) <= 1e-5 * largest, name
    assert checked > 8 and got["model.layers.0.mlp.gate.weight"].any()
