"""The loss against uneven use of experts (arXiv 2101.03961), weighed the same on every layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core import __version__ as megatron_version
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from packaging.version import Version

from megatron_srpo.actor.batch import Microbatch
from megatron_srpo.actor.parallel import Ranks


def weigh_balancing(
    chunks: Sequence[GPTModel],
    batches: Sequence[Microbatch],
    loss_count: int,
    coefficient: float,
    ranks: Ranks,
) -> None:
    """Let the update's objective have `coefficient` times the mean balancing loss of its microbatches, by tokens.

    Megatron adds the loss of each microbatch times the tokens that this rank's router sees of it, and divides
    everything by what the policy's loss is divided by, of which `loss_count` is this rank's: response tokens or
    samples, which are fewer than the tokens.  What its weight must be for that follows from the update's numbers.
    Padding goes through the router and counts as tokens, which only where there is much of it makes a difference.
    """
    numbers = torch.tensor([sum(batch.tokens.shape[1] for batch in batches), loss_count])
    numbers = numbers.to(batches[0].tokens.device)
    dist.all_reduce(numbers, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
    tokens, count = numbers.tolist()
    # Tensor ranks share a sequence here too: experts need sequence parallelism.  From 0.19 on Megatron counts a
    # rank's tokens once for each rank that it shares them with; before, it left that out.
    counts_all = Version(megatron_version) >= Version("0.19")
    sharing = 1 if counts_all else ranks.tensor_size * ranks.context_size
    for chunk in chunks:
        chunk.config.moe_aux_loss_coeff = coefficient * sharing * count / tokens
