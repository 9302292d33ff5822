"""Log-probabilities and entropy of tokens, fused with the output projection whose logits never exist as a whole.

The rows of a microbatch are taken in chunks.  The forward pass keeps four numbers a row, from which the
tensor-parallel ranks agree on log Z; the backward pass computes each chunk's logits again.  What is in memory at
one time is one chunk, whose size depends neither on the vocabulary nor on the number of rows; the last chunk is
kept for the backward pass, so that what fits into one is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

# What the logits of the vocabulary's padding become: their probability is exactly 0 in float32 and float64.
_NEVER = -1e30


@dataclass(frozen=True)
class Vocabulary:
    """How the output projection is split and how tokens are sampled from it.

    size: tokens of the whole vocabulary; columns from there on are padding and have probability 0.
    start: id of this rank's first column.  group: the tensor-parallel ranks.  temperature: divides the logits.
    chunk_elements: logits that exist at one time.
    """

    size: int
    start: int
    group: dist.ProcessGroup | None
    temperature: float
    chunk_elements: int


def linear_log_probs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, vocabulary: Vocabulary
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the targets and the entropy, in nats, of softmax(hidden weight^T / temperature).

    Args:
        hidden: [rows, width], the same on all tensor-parallel ranks; its gradient is this rank's part of a sum
            over them.
        weight: [local vocabulary, width] in the type of `hidden`; its gradient goes to `weight.main_grad` where
            Megatron has made one, like that of Megatron's own layers with fused gradient accumulation.
        targets: [rows] int64, ids in the whole vocabulary.
        vocabulary: the split.

    Returns:
        log_probs, differentiable, and entropy, not so: [rows], float32, or float64 if `hidden` is.
    """
    if hidden.dtype != weight.dtype:
        raise TypeError(f"hidden states are {hidden.dtype}, the output projection is {weight.dtype}")
    log_probs, entropy = _LinearLogProbs.apply(hidden, weight, targets, vocabulary)  # type: ignore[no-untyped-call]
    return log_probs, entropy


@dataclass
class _Kept:
    """Of the forward pass's last chunk: exp(logits - largest) [rows, local vocabulary], largest [rows]."""

    exponentials: torch.Tensor
    largest: torch.Tensor


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, vocabulary: Vocabulary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept = None
        # Of each row: the largest local logit m, sum exp(x - m), sum exp(x - m) (x - m), the target's x or 0.
        rows = torch.zeros(4, len(hidden), dtype=_wide(hidden.dtype), device=hidden.device)
        for part in _chunks(len(hidden), weight, vocabulary):
            logits = _logits(hidden[part], weight, vocabulary)
            column, inside = _columns(targets[part], weight, vocabulary)
            rows[3, part] = logits.gather(1, column)[:, 0] * inside
            largest = logits.amax(dim=1)
            logits -= largest[:, None]
            exponentials = logits.exp()
            rows[0, part], rows[1, part] = largest, exponentials.sum(dim=1)
            rows[2, part] = logits.mul_(exponentials).sum(dim=1)
            if part.stop == len(hidden):
                kept = _Kept(exponentials, largest)
        log_z, entropy, target = _combine(rows, vocabulary.group)
        ctx.save_for_backward(hidden, weight, targets, log_z)
        ctx.vocabulary = vocabulary
        ctx.kept = kept if any(ctx.needs_input_grad) else None
        ctx.mark_non_differentiable(entropy)
        return target - log_z, entropy

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, log_z = ctx.saved_tensors
        vocabulary, kept, scale = ctx.vocabulary, ctx.kept, gradients[0] / ctx.vocabulary.temperature
        ctx.kept = None
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = _WeightGradient(weight, vocabulary) if ctx.needs_input_grad[1] else None
        # The last first: its exponentials are still there, and can go.
        for part in reversed(list(_chunks(len(hidden), weight, vocabulary))):
            if kept is not None:
                exponent = kept.largest - log_z[part]
                probabilities = kept.exponentials.mul_(exponent.exp()[:, None])
                kept = None
            else:
                probabilities = _logits(hidden[part], weight, vocabulary).sub_(log_z[part, None]).exp_()
            # d log p(target) / d logits = onehot(target) - p
            column, inside = _columns(targets[part], weight, vocabulary)
            of_logits = probabilities.mul_(-scale[part, None])
            of_logits.scatter_add_(1, column, (scale[part] * inside)[:, None])
            of_logits = of_logits.to(hidden.dtype)
            torch.mm(of_logits, weight, out=hidden_gradient[part])
            if weight_gradient is not None:
                weight_gradient.add(of_logits, hidden[part])
        return hidden_gradient, None if weight_gradient is None else weight_gradient.result(), None, None


class _WeightGradient:
    """Sums the weight's gradient over chunks: in Megatron's float32 buffer where there is one."""

    def __init__(self, weight: torch.Tensor, vocabulary: Vocabulary) -> None:
        self._weight = weight
        self._buffer: torch.Tensor | None = getattr(weight, "main_grad", None)
        if self._buffer is None:
            self._into = torch.zeros_like(weight, dtype=_wide(weight.dtype))
        else:
            self._into = self._buffer
        self._rows = max(1, vocabulary.chunk_elements // weight.shape[1])

    def add(self, of_logits: torch.Tensor, hidden: torch.Tensor) -> None:
        """Add of_logits^T hidden, [local vocabulary, width]."""
        if self._into.dtype == hidden.dtype:
            self._into.addmm_(of_logits.T, hidden)
            return
        for start in range(0, len(self._into), self._rows):  # so that no second copy of the whole is there
            rows = slice(start, start + self._rows)
            self._into[rows] += of_logits[:, rows].T @ hidden

    def result(self) -> torch.Tensor:
        """What autograd is given.

        With Megatron's buffer only a placeholder, marked as Megatron marks its own: the hook that would add it
        to the buffer then leaves it, except for a tied weight (`zero_out_wgrad`), to which the embedding's
        gradient has been added by then.
        """
        if self._buffer is None:
            return self._into.to(self._weight.dtype)
        self._weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
        if getattr(self._weight, "zero_out_wgrad", False):
            return torch.zeros_like(self._weight)
        return torch.empty_like(self._weight)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What sums are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _chunks(rows: int, weight: torch.Tensor, vocabulary: Vocabulary) -> Iterator[slice]:
    size = max(1, vocabulary.chunk_elements // len(weight))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _logits(hidden: torch.Tensor, weight: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
    """Logits as the engine samples from them, [rows, local vocabulary]: float32 or wider, over the temperature."""
    logits = (hidden @ weight.T).to(_wide(hidden.dtype)).div_(vocabulary.temperature)
    padding = vocabulary.start + len(weight) - vocabulary.size
    if padding > 0:
        logits[:, max(0, len(weight) - padding) :] = _NEVER
    return logits


def _columns(
    targets: torch.Tensor, weight: torch.Tensor, vocabulary: Vocabulary
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each target's local column [rows, 1], and whether it has one [rows] bool."""
    local = targets - vocabulary.start
    inside = (local >= 0) & (local < len(weight))
    return torch.where(inside, local, 0)[:, None], inside


def _combine(
    rows: torch.Tensor, group: dist.ProcessGroup | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log Z, entropy and the target's logit, each [rows], from all ranks' four numbers a row, in one exchange."""
    size = 1 if group is None else group.size()
    parts = [rows]
    if size > 1:
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows, group=group)
    largest, total, weighted, target = torch.stack(parts, dim=1)  # each [ranks, rows]
    top = largest.amax(dim=0)
    shift = largest - top
    share = shift.exp()
    z = (share * total).sum(dim=0)
    log_z = top + z.log()
    # H = log Z - E[x], both with the largest logit taken out.
    mean = (share * (weighted + shift * total)).sum(dim=0) / z
    return log_z, z.log() - mean, target.sum(dim=0)
