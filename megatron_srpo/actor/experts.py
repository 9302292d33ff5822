"""Even use of experts: a loss (arXiv 2101.03961), weighed the same on every layout, or the routers' bias.

The bias (arXiv 2408.15664) is added to a router's scores for the choice of experts alone.  Megatron counts the
tokens that each expert gets in passes with a gradient, sums over the ranks of a stage, and after the backward
passes of an update adds rate * sign(mean of the counts - count).  So the bias changes before the optimizer's step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from megatron.core import __version__ as megatron_version
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.moe.router import TopKRouter
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


def _biased_routers(chunk: torch.nn.Module) -> list[TopKRouter]:
    """The routers that have a bias."""
    found = [module for module in chunk.modules() if isinstance(module, TopKRouter)]
    return [router for router in found if router.expert_bias is not None]


def freeze_bias(chunks: Sequence[GPTModel]) -> None:
    """Let routers choose by their bias and leave it as it is, without counting tokens."""
    for chunk in chunks:
        for router in _biased_routers(chunk):
            router.enable_expert_bias = False
        chunk.config.moe_router_enable_expert_bias = False


@contextlib.contextmanager
def kept_in_float32(chunk: GPTModel) -> Iterator[None]:
    """Within, a change of the chunk's type does not touch the routers' bias and counts.

    Megatron itself makes the bias float32 again, but what it has been rounded to, and counts above 256 not at all.
    """
    kept = [
        (router, name) for router in _biased_routers(chunk) for name in ("expert_bias", "local_tokens_per_expert")
    ]
    values = [getattr(router, name).data for router, name in kept]
    yield
    for (router, name), value in zip(kept, values, strict=True):
        getattr(router, name).data = value
