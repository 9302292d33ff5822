"""Log-probabilities and entropy of tokens, fused with the output projection whose logits never exist as a whole.

The vocabulary is taken in blocks.  The forward pass keeps four numbers a row, from which blocks and ranks agree on
log Z; the backward pass computes each block's logits again.  What is in memory at one time is one block, of a size
that depends neither on the vocabulary nor on the number of rows; the last block is kept for the backward pass, so
that what fits into one is computed once.  Blocks are of the vocabulary, not of rows: each part of the weight's
gradient is then complete at once, which saves a pass over that large buffer for every block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

# What the logits of the vocabulary's padding become: their probability is exactly 0 in float32 and float64.
_NEVER = -1e30
# GPUs multiply matrices fastest whose sizes divide by this.
_COLUMNS = 128


@dataclass(frozen=True)
class Vocabulary:
    """How the output projection is split and how tokens are sampled from it.

    size: tokens of the whole vocabulary; columns from there on are padding and have probability 0.
    start: id of this rank's first column.  group: the tensor-parallel ranks.  temperature: divides the logits.
    block_elements: logits of a block; with exponentials and products in 16 bits up to three times this exists.
    """

    size: int
    start: int
    group: dist.ProcessGroup | None
    temperature: float
    block_elements: int


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
    """Of the forward pass's last block: exp(logits - largest) [rows, columns], largest [rows]."""

    exponentials: torch.Tensor
    largest: torch.Tensor


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, vocabulary: Vocabulary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept, sums = None, None
        for block in _blocks(hidden, weight, vocabulary):
            logits = _logits(hidden, weight[block], block.start, vocabulary)
            column, inside = _columns(targets, block, vocabulary)
            target = logits.gather(1, column)[:, 0] * inside
            largest = logits.amax(dim=1)
            logits -= largest[:, None]
            exponentials = logits.exp()
            total, weighted = exponentials.sum(dim=1), logits.mul_(exponentials).sum(dim=1)
            found = torch.stack([largest, total, weighted, target])
            sums = found if sums is None else _merge([sums, found])
            if block.stop == len(weight):
                kept = _Kept(exponentials, largest)
        assert sums is not None
        largest, total, weighted, target = _merge(_of_all_ranks(sums, vocabulary.group))
        log_total = total.log()
        log_z = largest + log_total
        ctx.save_for_backward(hidden, weight, targets, log_z)
        ctx.vocabulary = vocabulary
        ctx.kept = kept if any(ctx.needs_input_grad) else None
        entropy = log_total - weighted / total  # log Z - E[x], both with the largest logit taken out
        ctx.mark_non_differentiable(entropy)
        # Not target - log Z, which loses digits when all logits are far from 0.
        return target - largest - log_total, entropy

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, log_z = ctx.saved_tensors
        vocabulary, kept, scale = ctx.vocabulary, ctx.kept, gradients[0] / ctx.vocabulary.temperature
        ctx.kept = None
        hidden_gradient = torch.zeros_like(hidden, dtype=_wide(hidden.dtype))
        weight_gradient = _WeightGradient(weight) if ctx.needs_input_grad[1] else None
        # The last first: its exponentials are still there, and can go.
        for block in reversed(list(_blocks(hidden, weight, vocabulary))):
            if kept is not None:
                probabilities = kept.exponentials.mul_((kept.largest - log_z).exp()[:, None])
                kept = None
            else:
                probabilities = _logits(hidden, weight[block], block.start, vocabulary)
                probabilities.sub_(log_z[:, None]).exp_()
            # d log p(target) / d logits = onehot(target) - p
            column, inside = _columns(targets, block, vocabulary)
            of_logits = probabilities.mul_(-scale[:, None])
            of_logits.scatter_add_(1, column, (scale * inside)[:, None])
            of_logits = of_logits.to(hidden.dtype)
            _add_product(hidden_gradient, of_logits, weight[block])
            if weight_gradient is not None:
                weight_gradient.add(block, of_logits, hidden)
        of_weight = None if weight_gradient is None else weight_gradient.result()
        return hidden_gradient.to(hidden.dtype), of_weight, None, None


class _WeightGradient:
    """Adds up the weight's gradient: in Megatron's float32 buffer where there is one."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight
        self._buffer: torch.Tensor | None = getattr(weight, "main_grad", None)
        self._into = torch.zeros_like(weight) if self._buffer is None else self._buffer

    def add(self, block: slice, of_logits: torch.Tensor, hidden: torch.Tensor) -> None:
        """Add of_logits^T hidden, [columns, width], to the rows of a block."""
        _add_product(self._into[block], of_logits.T, hidden)

    def result(self) -> torch.Tensor:
        """What autograd is given.

        With Megatron's buffer only a placeholder, marked as Megatron marks its own: the hook that would add it
        to the buffer then leaves it, except for a tied weight (`zero_out_wgrad`), to which the embedding's
        gradient has been added by then.
        """
        if self._buffer is None:
            return self._into
        self._weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
        if getattr(self._weight, "zero_out_wgrad", False):
            return torch.zeros_like(self._weight)
        return torch.empty_like(self._weight)


def _add_product(into: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """into += left right; sums in a wider type take the product rounded to that of its factors."""
    if into.dtype == left.dtype:
        into.addmm_(left, right)
    else:
        into += left @ right


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What sums are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _blocks(hidden: torch.Tensor, weight: torch.Tensor, vocabulary: Vocabulary) -> Iterator[slice]:
    """Columns of the vocabulary, as rows of the weight."""
    size = max(1, vocabulary.block_elements // max(1, len(hidden)))
    size -= size % _COLUMNS if size > _COLUMNS else 0
    return (slice(start, min(start + size, len(weight))) for start in range(0, len(weight), size))


def _logits(hidden: torch.Tensor, weight: torch.Tensor, first: int, vocabulary: Vocabulary) -> torch.Tensor:
    """Logits of the local columns from `first` on as the engine samples from them: [rows, columns], over the
    temperature, in float32 or wider.
    """
    logits = (hidden @ weight.T).to(_wide(hidden.dtype)).div_(vocabulary.temperature)
    real = vocabulary.size - vocabulary.start - first
    if real < len(weight):
        logits[:, max(0, real) :] = _NEVER
    return logits


def _columns(targets: torch.Tensor, block: slice, vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """Each target's column in the block [rows, 1], and whether it has one [rows] bool."""
    column = targets - (vocabulary.start + block.start)
    inside = (column >= 0) & (column < block.stop - block.start)
    return torch.where(inside, column, 0)[:, None], inside


def _merge(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of each row, over disjoint parts of the vocabulary and over all: [4, rows].

    The largest logit m, sum exp(x - m), sum exp(x - m) (x - m), and the target's x or 0.
    """
    largest, total, weighted, target = torch.stack(list(parts), dim=1)  # each [parts, rows]
    top = largest.amax(dim=0)
    shift = largest - top
    share = shift.exp()
    weighted = share * (weighted + shift * total)
    return torch.stack([top, (share * total).sum(dim=0), weighted.sum(dim=0), target.sum(dim=0)])


def _of_all_ranks(sums: torch.Tensor, group: dist.ProcessGroup | None) -> list[torch.Tensor]:
    """Every tensor-parallel rank's four numbers a row, in one exchange."""
    if group is None or group.size() == 1:
        return [sums]
    parts = [torch.empty_like(sums) for _ in range(group.size())]
    dist.all_gather(parts, sums, group=group)
    return parts
