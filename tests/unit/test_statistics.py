"""Metrics of an update against float64 loops, and the counts that losses are divided by."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_srpo.actor.batch import Packing, TrainingSample, build_microbatch, training_samples
from megatron_srpo.actor.loss import surrogate_loss
from megatron_srpo.actor.statistics import SUMS, LogProbs, metrics_of, token_statistics
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import Journal, read_step
from tests.integration.ranks import Layout, recipe_values, record_steps

CPU = Platform(torch.device("cpu"), "gloo", "local")
LOW, HIGH = 0.2, 0.28


def k3(own: float, other: float) -> float:
    return math.exp(other - own) - 1 - (other - own)


@pytest.fixture
def tokens() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    names = ("present", "old", "engine", "reference", "advantages", "entropy")
    found = {name: torch.randn(100, dtype=torch.float64) * 0.4 for name in names}
    found["advantages"][:30] = 0.0
    return found


def metrics(tokens: dict[str, torch.Tensor], count: int, with_reference: bool = True) -> dict[str, float]:
    known = LogProbs(*(tokens[name] for name in ("present", "old", "engine")), tokens["reference"])
    surrogate = surrogate_loss(known.present, known.old, known.engine, tokens["advantages"], LOW, HIGH, None)
    loss, counted = torch.tensor(-6.0), torch.tensor(count)
    part = token_statistics(loss, counted, surrogate, known, tokens["advantages"], tokens["entropy"])
    return metrics_of(dict(zip(SUMS, part.sums.tolist(), strict=True)), with_reference)


def test_against_loops(tokens: dict[str, torch.Tensor]) -> None:
    got, lists = metrics(tokens, 100), {name: tensor.tolist() for name, tensor in tokens.items()}
    rows = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    ratios = [math.exp(row["present"] - row["old"]) for row in rows]
    low = [r < 1 - LOW and row["advantages"] < 0 for r, row in zip(ratios, rows, strict=True)]
    high = [r > 1 + HIGH and row["advantages"] > 0 for r, row in zip(ratios, rows, strict=True)]
    want = {
        "response_tokens": 100,
        "gradient_tokens": 70,
        "clip_fraction_low": sum(low) / 100,
        "clip_fraction_high": sum(high) / 100,
        "clip_fraction": (sum(low) + sum(high)) / 100,
        "ratio": sum(ratios) / 100,
        "kl_rollout": sum(k3(row["engine"], row["present"]) for row in rows) / 100,
        "kl_reference": sum(k3(row["present"], row["reference"]) for row in rows) / 100,
        "mismatch_kl": sum(k3(row["engine"], row["old"]) for row in rows) / 100,
        "loss": -0.06,
    }
    assert {name: got[name] for name in want} == pytest.approx(want, rel=1e-12)
    assert 0 < sum(low) != sum(high) > 0


def test_loss_is_divided_by_its_own_count(tokens: dict[str, torch.Tensor]) -> None:
    over_samples = metrics(tokens, 4, with_reference=False)
    assert over_samples["loss"] == -1.5
    assert over_samples["entropy"] == pytest.approx(float(tokens["entropy"].mean()))
    assert "kl_reference" not in over_samples


def sample(prompt: int, response: int) -> TrainingSample:
    return TrainingSample(np.arange(prompt + response), np.zeros(response, np.float32), 1.0)


def test_a_microbatch_knows_lengths_and_samples() -> None:
    batch = build_microbatch([sample(3, 2), sample(4, 0), sample(1, 3)], CPU, Packing(multiple=4))
    assert batch.lengths.tolist() == [2, 2, 3, 3, 3]
    assert batch.samples == 3
    assert batch.targets.tolist() == [3, 4, 1, 2, 3]


def test_a_microbatch_without_samples_counts_nothing() -> None:
    batch = build_microbatch([], CPU)
    assert (batch.samples, len(batch.lengths)) == (0, 0)


def recorded(root: Path) -> Path:
    """One group of four: right, wrong, wrong and cut off at 8 tokens, wrong and short."""
    columns = zip([1.0, 0.0, 0.0, 0.0], [2, 3, 8, 1], ["stop", "stop", "length", "stop"], strict=True)
    original = read_step(record_steps(root / "original", 1)[0])
    rows = [
        replace(
            row, reward=accuracy, accuracy=accuracy, tokens=[7] * n, log_probs=[-1.0] * n, finish_reason=reason
        )
        for row, (accuracy, n, reason) in zip(original[:4], columns, strict=True)
    ]
    journal = Journal(root / "changed")
    journal.append(rows)
    return journal.close(0, 1, [0])


@pytest.mark.parametrize(
    ("algorithm", "want"),
    [
        ({}, [0.75, -0.25, 0.0, -0.25]),
        ({"overlong": "none"}, [0.75, -0.25, -0.25, -0.25]),
        ({"overlong": "soft_penalty", "overlong_buffer": 4}, [1.0, 0.0, -1.0, 0.0]),
        ({"pass_rate_exponent": 1.0}, [0.5625, -0.1875, 0.0, -0.1875]),
    ],
)
def test_a_step_file_gets_the_recipes_advantages(
    tmp_path: Path, algorithm: dict[str, object], want: list[float]
) -> None:
    """Rewards, accuracy, lengths and finish reasons of the journal reach the advantages."""
    values = recipe_values(tmp_path, Layout()) | {"algorithm": {"advantage": "mean_centered"} | algorithm}
    values["rollout"] |= {"max_response_tokens": 8}
    path = recorded(tmp_path)
    got = [s.advantage for s in training_samples(path, read_step(path), Recipe.model_validate(values))]
    assert got == pytest.approx(want)
