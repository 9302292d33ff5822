"""The losses and their gradients against float64 loops over tokens and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from megatron_srpo.actor.loss import k3, summed_loss, surrogate_loss

LOW, HIGH = 0.2, 0.28


def reference(
    new: list[float], old: list[float], engine: list[float], advantages: list[float], cap: float | None
) -> tuple[float, list[float], list[str]]:
    """Loss, its derivative by each new log-prob and which side is clipped, written out case by case."""
    total, gradient, sides = 0.0, [], []
    for n, o, e, a in zip(new, old, engine, advantages, strict=True):
        ratio = math.exp(n - o)
        weight = 1.0 if cap is None else min(math.exp(o - e), cap)
        side = "high" if a > 0 and ratio > 1 + HIGH else "low" if a < 0 and ratio < 1 - LOW else ""
        bounded = min(max(ratio, 1 - LOW), 1 + HIGH)
        total -= weight * (bounded * a if side else ratio * a)
        gradient.append(0.0 if side else -weight * ratio * a)
        sides.append(side)
    return total, gradient, sides


def random_tokens(count: int, size: int = 200) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(size, dtype=torch.float64) * 0.4 for _ in range(count)]


@pytest.mark.parametrize("cap", [None, 1.1])
def test_value_and_gradient(cap: float | None) -> None:
    new, old, engine, advantages = random_tokens(4)
    new.requires_grad_()
    got = surrogate_loss(new, old, engine, advantages, LOW, HIGH, cap)
    got.per_token.sum().backward()
    value, gradient, sides = reference(*(t.tolist() for t in (new.detach(), old, engine, advantages)), cap)
    assert got.per_token.sum().item() == pytest.approx(value, abs=1e-12)
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx(gradient, abs=1e-12)
    assert got.clipped_low.tolist() == [side == "low" for side in sides]
    assert got.clipped_high.tolist() == [side == "high" for side in sides]
    assert got.clipped.tolist() == [side != "" for side in sides]
    assert {"low", "high", ""} == set(sides), "the test must reach every branch"


def test_truncated_importance() -> None:
    """min(exp(old - engine), cap): weights below the cap stay, those above are cut, none has a gradient."""
    old, engine, advantages = random_tokens(3)
    new = old.clone().requires_grad_()
    got = surrogate_loss(new, old, engine, advantages, LOW, HIGH, 1.1)
    want = [min(math.exp(o - e), 1.1) for o, e in zip(old.tolist(), engine.tolist(), strict=True)]
    assert got.importance is not None
    assert got.importance.tolist() == pytest.approx(want, abs=1e-12)
    assert min(want) < 0.9 < max(want) == 1.1
    got.per_token.sum().backward()
    assert new.grad is not None
    wanted = [-w * a for w, a in zip(want, advantages.tolist(), strict=True)]
    assert new.grad.tolist() == pytest.approx(wanted, abs=1e-12)


def test_on_policy_gradient_is_the_policy_gradient() -> None:
    log_probs = torch.randn(6, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(6, dtype=torch.float64)
    own = log_probs.detach()
    surrogate_loss(log_probs, own, own, advantages, LOW, HIGH, None).per_token.sum().backward()
    assert log_probs.grad is not None
    assert torch.equal(log_probs.grad, -advantages)


def test_k3_by_the_papers_formula() -> None:
    """ref/new - log(ref/new) - 1, in probabilities."""
    new, other = random_tokens(2)
    want = []
    for n, o in zip(new.tolist(), other.tolist(), strict=True):
        quotient = math.exp(o) / math.exp(n)
        want.append(quotient - math.log(quotient) - 1)
    assert k3(new, other).tolist() == pytest.approx(want, abs=1e-12)
    assert min(want) >= 0
    assert not k3(new, new).any()


def test_k3_estimates_the_divergence_of_the_own_policy() -> None:
    """Weighted by the own probabilities it is KL(own || other) exactly; the other way round is another number."""
    own, other = (torch.randn(50, dtype=torch.float64).log_softmax(0) for _ in range(2))
    divergence = float((own.exp() * (own - other)).sum())
    assert float((own.exp() * k3(own, other)).sum()) == pytest.approx(divergence, rel=1e-12)
    assert float((other.exp() * (other - own)).sum()) != pytest.approx(divergence, rel=1e-2)


def test_k3_keeps_small_differences_in_float32() -> None:
    small = torch.full((1,), 1e-4)
    assert float(k3(torch.zeros(1), small)) == pytest.approx(5e-9, rel=1e-3)


def test_sum_over_tokens_and_mean_of_samples() -> None:
    surrogate, kl = random_tokens(2, size=6)
    lengths, bounds = torch.tensor([1.0, 3, 3, 3, 2, 2], dtype=torch.float64), [(0, 1), (1, 4), (4, 6)]
    s, k = surrogate.tolist(), kl.tolist()
    per_token = [a + 0.3 * b for a, b in zip(s, k, strict=True)]
    assert float(summed_loss(surrogate, None, 0.0, None)) == pytest.approx(sum(s), abs=1e-12)
    assert float(summed_loss(surrogate, kl, 0.3, None)) == pytest.approx(sum(per_token), abs=1e-12)
    means = [sum(per_token[start:end]) / (end - start) for start, end in bounds]
    assert float(summed_loss(surrogate, kl, 0.3, lengths)) == pytest.approx(sum(means), abs=1e-12)


@pytest.mark.parametrize("cap", [None, 1.1])
@pytest.mark.parametrize("over_samples", [False, True])
def test_gradient_by_finite_differences(cap: float | None, over_samples: bool) -> None:
    new, old, engine, advantages, other = random_tokens(5, size=40)
    lengths = torch.arange(1, 41, dtype=torch.float64) if over_samples else None

    def loss(log_probs: torch.Tensor) -> torch.Tensor:
        surrogate = surrogate_loss(log_probs, old, engine, advantages, LOW, HIGH, cap)
        return summed_loss(surrogate.per_token, k3(log_probs, other), 0.3, lengths)

    assert torch.autograd.gradcheck(loss, (new.requires_grad_(),))
