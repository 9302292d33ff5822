"""The surrogate loss and its gradient against a float64 loop over tokens."""

from __future__ import annotations

import math

import pytest
import torch

from megatron_srpo.actor.loss import surrogate_loss

LOW, HIGH = 0.2, 0.28


def reference(
    new: list[float], old: list[float], engine: list[float], advantages: list[float], cap: float | None
) -> tuple[float, list[float]]:
    """Loss and its derivative by each new log-prob, written out case by case."""
    total, gradient = 0.0, []
    for n, o, e, a in zip(new, old, engine, advantages, strict=True):
        ratio = math.exp(n - o)
        weight = 1.0 if cap is None else min(math.exp(o - e), cap)
        outside = (a > 0 and ratio > 1 + HIGH) or (a < 0 and ratio < 1 - LOW)
        bounded = min(max(ratio, 1 - LOW), 1 + HIGH)
        total -= weight * (bounded * a if outside else ratio * a)
        gradient.append(0.0 if outside else -weight * ratio * a)
    return total, gradient


@pytest.mark.parametrize("cap", [None, 1.1])
def test_value_and_gradient(cap: float | None) -> None:
    torch.manual_seed(0)
    new, old, engine, advantages = (torch.randn(200, dtype=torch.float64) * 0.4 for _ in range(4))
    new.requires_grad_()
    got = surrogate_loss(new, old, engine, advantages, LOW, HIGH, cap)
    got.total.backward()
    value, gradient = reference(*(t.tolist() for t in (new.detach(), old, engine, advantages)), cap)
    assert got.total.item() == pytest.approx(value, abs=1e-12)
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx(gradient, abs=1e-12)
    assert 0 < got.clipped.sum() < 200, "the test must reach both branches"


def test_on_policy_gradient_is_the_policy_gradient() -> None:
    log_probs = torch.randn(6, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(6, dtype=torch.float64)
    surrogate_loss(log_probs, log_probs.detach(), log_probs.detach(), advantages, LOW, HIGH, None).total.backward()
    assert log_probs.grad is not None
    assert torch.equal(log_probs.grad, -advantages)
