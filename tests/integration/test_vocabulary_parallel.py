"""Log-probs, entropy and gradients over a split, padded vocabulary against float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.integration.ranks import Layout, recipe_values, run_ranks
from tests.log_probs_reference import Case, expected


def test_against_float64(tiny_hf: Callable[..., Path], tmp_path: Path) -> None:
    """Seven tokens on two ranks: one column is padding; blocks of all, of two columns, and of one."""
    case = Case.random(rows=5, vocabulary=7)
    jobs = [
        {
            "kind": "vocabulary",
            "hidden": case.hidden.tolist(),
            "weight": case.weight.tolist(),
            "targets": case.targets.tolist(),
            "weights": case.weights.tolist(),
            "temperature": case.temperature,
            "block_elements": elements,
        }
        for elements in (100, 10, 1)
    ]
    ranks = run_ranks(tmp_path / "ranks", recipe_values(tiny_hf(), Layout(tensor=2)), jobs)
    want = expected(case)
    for job in range(len(jobs)):
        for rank in ranks:
            got = rank["results"][job]
            assert got["log_probs"] == pytest.approx(want.log_probs.tolist(), abs=1e-6)
            assert got["entropy"] == pytest.approx(want.entropy.tolist(), abs=1e-6)
            hidden = torch.tensor(got["hidden_gradient"], dtype=torch.float64)
            torch.testing.assert_close(hidden, want.hidden_gradient, atol=1e-6, rtol=0)
        parts = [torch.tensor(rank["results"][job]["weight_gradient"], dtype=torch.float64) for rank in ranks]
        gradient = torch.cat(parts)
        torch.testing.assert_close(gradient[:7], want.weight_gradient, atol=1e-6, rtol=0)
        assert not gradient[7:].any(), "padding takes no part"
