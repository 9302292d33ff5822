"""How an update's samples are spread over microbatches and ranks, and what that wastes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_srpo.actor.batch import Packing


@dataclass(frozen=True)
class Spread:
    """plan: [data-parallel rank][microbatch] -> indices of samples; their tokens and training operations."""

    plan: Sequence[Sequence[Sequence[int]]]
    lengths: Sequence[int]
    costs: Sequence[float]

    def metrics(self, max_tokens: int, packing: Packing) -> dict[str, float]:
        """Of the whole update, the same on every rank.

        microbatches: of each rank.  microbatch_fill: tokens over `max_tokens` of every microbatch.  padding:
        tokens that are added behind sequences and microbatches over those of samples.  rank_imbalance: cost of
        the heaviest rank over the mean, less 1.  microbatch_imbalance: the same of the ranks' k-th microbatches,
        which run side by side and wait for each other, in sum.
        """
        tokens = sum(self.lengths)
        count = len(self.plan[0])
        by_microbatch = [[sum(self.costs[i] for i in members) for members in rank] for rank in self.plan]
        total = sum(self.costs)
        heaviest = max(sum(rank) for rank in by_microbatch)
        lockstep = sum(max(side_by_side) for side_by_side in zip(*by_microbatch, strict=True))
        added = 0
        for rank in self.plan:
            for members in rank:
                padded = sum(packing.padded(self.lengths[i]) for i in members)
                added += padded + packing.filler(padded) - sum(self.lengths[i] for i in members)
        return {
            "microbatches": float(count),
            "microbatch_fill": tokens / (len(self.plan) * count * max_tokens),
            "padding": added / tokens,
            "rank_imbalance": heaviest * len(self.plan) / total - 1,
            "microbatch_imbalance": lockstep * len(self.plan) / total - 1,
        }
