"""Log-probabilities and entropy of tokens whose logits are split over the vocabulary."""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy


def scale_logits(logits: torch.Tensor, temperature: float, vocab_size: int, vocab_start: int) -> torch.Tensor:
    """Logits as the engine samples from them: float32 (or wider), divided by the temperature.

    logits: [tokens, local vocabulary]; vocab_start: id of the first local column.  Columns from `vocab_size`
    on are padding of the split vocabulary and get a logit so low that their probability is exactly 0.
    Returns a new tensor, so that later in-place work does not touch the model's output.
    """
    scaled = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    padding = vocab_start + scaled.shape[-1] - vocab_size
    if padding > 0:
        keep = max(0, scaled.shape[-1] - padding)
        mask = torch.arange(scaled.shape[-1], device=scaled.device) >= keep
        scaled = scaled.masked_fill(mask, -1e30)
    return scaled


def token_log_probs(scaled_logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the target tokens, differentiable.

    scaled_logits: [tokens, local vocabulary] from `scale_logits`, overwritten; targets: [tokens] int64, ids
    in the whole vocabulary.  Returns [tokens].
    """
    return -vocab_parallel_cross_entropy(scaled_logits, targets)


@torch.no_grad()
def token_entropy(scaled_logits: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Entropy in nats of each token's distribution, without gradient.

    scaled_logits: [tokens, local vocabulary]; group: the tensor-parallel group.  Returns [tokens].
    Uses H = log Z - E[x] with the maximum taken out, in two all-reduces, of [tokens] and [2, tokens].
    """
    largest = scaled_logits.amax(dim=-1)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    shifted = scaled_logits - largest[:, None]
    weights = shifted.exp()
    sums = torch.stack([weights.sum(dim=-1), (weights * shifted).sum(dim=-1)])
    dist.all_reduce(sums, group=group)
    return sums[0].log() - sums[1] / sums[0]
