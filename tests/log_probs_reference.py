"""What log-probs in blocks must equal: the same out of the whole matrix of logits, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Case:
    """hidden [rows, width], weight [vocabulary, width], targets [rows], what multiplies the log-probs [rows]."""

    hidden: torch.Tensor
    weight: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    temperature: float

    @classmethod
    def random(cls, rows: int, vocabulary: int, width: int = 6) -> Case:
        """Far from uniform, so that the entropy and the largest logit differ from row to row."""
        torch.manual_seed(0)
        return cls(
            hidden=torch.randn(rows, width, dtype=torch.float64) * 2,
            weight=torch.randn(vocabulary, width, dtype=torch.float64),
            targets=torch.randint(0, vocabulary, (rows,)),
            weights=torch.randn(rows, dtype=torch.float64),
            temperature=0.7,
        )


@dataclass(frozen=True)
class Expected:
    """log_probs, entropy [rows]; the gradients of sum(weights * log_probs)."""

    log_probs: torch.Tensor
    entropy: torch.Tensor
    hidden_gradient: torch.Tensor
    weight_gradient: torch.Tensor


def expected(case: Case) -> Expected:
    """By torch's own functions on the whole logits."""
    hidden, weight = case.hidden.clone().requires_grad_(), case.weight.clone().requires_grad_()
    distribution = (hidden @ weight.T / case.temperature).log_softmax(-1)
    log_probs = distribution.gather(1, case.targets[:, None])[:, 0]
    (log_probs * case.weights).sum().backward()
    assert hidden.grad is not None and weight.grad is not None
    entropy = -(distribution.exp() * distribution).sum(-1)
    return Expected(log_probs.detach(), entropy.detach(), hidden.grad, weight.grad)
