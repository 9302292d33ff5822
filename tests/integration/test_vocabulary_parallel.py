"""Log-probs and entropy over a split, padded vocabulary against float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.integration.ranks import Layout, recipe_values, run_ranks

VOCABULARY, TOKENS, TEMPERATURE = 7, 5, 0.7


def test_against_float64(tiny_hf: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    logits = torch.randn(TOKENS, VOCABULARY, dtype=torch.float64) * 3
    targets, weights = torch.randint(0, VOCABULARY, (TOKENS,)), torch.randn(TOKENS, dtype=torch.float64)
    job = {
        "kind": "vocabulary",
        "logits": logits.tolist(),
        "targets": targets.tolist(),
        "weights": weights.tolist(),
        "temperature": TEMPERATURE,
    }
    ranks = run_ranks(tmp_path / "ranks", recipe_values(tiny_hf(), Layout(tensor=2)), [job])

    logits.requires_grad_()
    distribution = (logits / TEMPERATURE).log_softmax(-1)
    log_probs = distribution.gather(1, targets[:, None])[:, 0]
    (log_probs * weights).sum().backward()
    entropy = -(distribution.exp() * distribution).sum(-1)
    for rank in ranks:
        got = rank["results"][0]
        assert got["log_probs"] == pytest.approx(log_probs.tolist(), abs=1e-5)
        assert got["entropy"] == pytest.approx(entropy.tolist(), abs=1e-5)
    gradient = torch.cat([torch.tensor(rank["results"][0]["gradient"]) for rank in ranks], dim=1)
    assert logits.grad is not None
    assert torch.allclose(gradient[:, :VOCABULARY].double(), logits.grad, atol=1e-5)
    assert not gradient[:, VOCABULARY:].any(), "padding takes no part"
