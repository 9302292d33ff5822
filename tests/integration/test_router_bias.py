"""The routers' bias follows the use of experts: the formula, written out with transformers, on several layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_srpo.rollout.journal import Journal
from tests.architectures import read_tensors, write_tiny
from tests.integration.ranks import PLAIN, Layout, recipe_values, run_ranks
from tests.support import journal_row

Tensors = dict[str, torch.Tensor]
RATE = 0.02
EXPERTS = 8
PROMPT = 4
# With the prompt all are multiples of 8, and an update is two full microbatches, or one on each of two ranks: no
# layout pads, and padding would be counted.
RESPONSES = (4, 12, 20, 4, 28, 12, 4, 20)
LIMIT = 40
BIAS = "e_score_correction_bias"
EXPERTS_BY_BIAS = {"experts": {"balancing": "bias", "bias_update_rate": RATE}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "one rank": {},
    "dp2": {},
    "tp2-ep2": {"tensor_parallel": 2, "sequence_parallel": True, "expert_parallel": 2},
    "cp2": {"context_parallel": 2},
    "pp2-virtual2": {"pipeline_parallel": 2, "virtual_pipeline_parallel": 2},
    "pp2-uneven-recompute": {
        "pipeline_parallel": 2,
        "pipeline_layers": (1, 3),
        "recompute": {"granularity": "full"},
    },
}
# On one rank too: other numbers, or the bias as it is.
OTHERS: dict[str, dict[str, Any]] = {
    "bf16": {"dtype": "bfloat16"},
    "none": {"experts": {"balancing": "none"}},
    "aux_loss": {"experts": {"balancing": "aux_loss"}},
    "none, bf16": {"experts": {"balancing": "none"}, "dtype": "bfloat16"},
}


def record(root: Path) -> tuple[list[str], list[list[list[int]]]]:
    """Two steps of two groups, each an update; and the samples of every update."""
    rng, journal = np.random.default_rng(0), Journal(root)
    updates = []
    for step in range(2):
        for group in range(2):
            rows, samples = [], []
            prompt = rng.integers(0, 511, size=PROMPT).tolist()
            for sample, length in enumerate(RESPONSES[4 * group : 4 * group + 4]):
                tokens = rng.integers(0, 511, size=length).tolist()
                changes = {"prompt_tokens": prompt, "tokens": tokens, "log_probs": [-6.0] * length}
                rows.append(journal_row(group, sample, step, response_length=length, **changes))
                samples.append(prompt + tokens)
            journal.append(rows)
            updates.append(samples)
        journal.close(step, 2, range(2))
    return [str(journal.step_path(step)) for step in range(2)], updates


def written_out(folder: Path, updates: Sequence[list[list[int]]]) -> Tensors:
    """bias + rate * sign(mean of the counts - count) after each update, of every layer with experts."""
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(folder, dtype=torch.float32)
    routers = {name: module for name, module in model.named_modules() if hasattr(module, BIAS)}
    chosen: dict[str, list[torch.Tensor]] = {}
    for name, router in routers.items():
        router.register_forward_hook(lambda _, __, output, name=name: chosen[name].append(output[2].flatten()))
    for samples in updates:
        chosen |= {name: [] for name in routers}
        with torch.no_grad():
            for sample in samples:
                model(torch.tensor([sample]))
        for name, router in routers.items():
            counts = torch.bincount(torch.cat(chosen[name]), minlength=EXPERTS).float()
            bias = getattr(router, BIAS)
            bias += RATE * torch.sign(counts.mean() - counts)
    return {f"{name}.{BIAS}": getattr(router, BIAS) for name, router in routers.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("glm4_moe", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def biases(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensors]:
    """All tensors after a step of two updates, by layout; after the second step, at once and resumed, on one.

    The weights hardly move, so that the formula need not know them.  A reference's pass and one for the second
    update's old log-probs see the same tokens, and must not be counted.
    """
    root = tmp_path_factory.mktemp("bias")
    steps, updates = record(root / "rollouts")
    before = {name: tensor for name, tensor in read_tensors(folder).items() if name.endswith(BIAS)}
    first, second, both = (written_out(folder, part) for part in (updates[:1], updates[1:2], updates[:2]))
    found = {"before": before, "formula": both}
    for name, bias in both.items():
        # Counting what passes without a gradient see would add up both updates' samples in the first one.
        assert not bias.equal(before[name]) and not first[name].equal(second[name])
    optimizer = {"learning_rate": 1e-12}
    for ranks in (1, 2):
        jobs = []
        layouts = {name: changes for name, changes in LAYOUTS.items() if (name == "one rank") == (ranks == 1)}
        for name, changes in (layouts | OTHERS if ranks == 1 else layouts).items():
            job = {"kind": "train", "model": str(folder), "steps": steps[:1], "to": str(root / name)}
            jobs.append(job | {"trainer": PLAIN | EXPERTS_BY_BIAS | changes, "algorithm": {"kl_coefficient": 0.1}})
        if ranks == 2:
            trainer = {
                "trainer": PLAIN | EXPERTS_BY_BIAS | LAYOUTS["tp2-ep2"] | {"optimizer": {"learning_rate": 1e-3}}
            }
            train = {"kind": "train", "model": str(folder)} | trainer
            jobs.append(train | {"steps": steps, "to": str(root / "undisturbed")})
            jobs.append(train | {"steps": steps[:1], "save": str(root / "checkpoints")})
            load = {"load": str(root / "checkpoints"), "version": 1}
            jobs.append(train | load | {"steps": steps[1:], "to": str(root / "resumed")})
        recipe = recipe_values(folder, Layout(data=ranks), max_tokens_per_microbatch=LIMIT, optimizer=optimizer)
        recipe["rollout"]["prompts_per_step"] = 2
        run_ranks(root / f"ranks-{ranks}", recipe, jobs)
    names = (*LAYOUTS, *OTHERS, "undisturbed", "resumed")
    return found | {name: read_tensors(root / name) for name in names}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bias_is_that_of_the_formula(biases: dict[str, Tensors], layout: str) -> None:
    assert len(biases["formula"]) == 3
    for name, bias in biases["formula"].items():
        torch.testing.assert_close(biases[layout][name], bias, rtol=0, atol=1e-7)


def test_without_this_balancing_it_stays_as_it_is(biases: dict[str, Tensors]) -> None:
    for of in ("none", "aux_loss", "none, bf16"):
        for name, bias in biases["before"].items():
            assert biases[of][name].dtype == torch.float32
            assert biases[of][name].equal(bias)


def test_in_16_bits_it_moves_by_whole_steps(biases: dict[str, Tensors]) -> None:
    """Choices differ from float32's; a bias that had been rounded would be off by more than a ten-thousandth."""
    for name, bias in biases["before"].items():
        moved = (biases["bf16"][name] - bias) / RATE
        assert moved.any()
        torch.testing.assert_close(moved, moved.round(), rtol=0, atol=1e-4)


def test_a_run_that_goes_on_has_the_same_bits(biases: dict[str, Tensors]) -> None:
    got, want = biases["resumed"], biases["undisturbed"]
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].equal(tensor), name
    assert any(not want[name].equal(bias) for name, bias in biases["formula"].items())
