"""Samples -> microbatches -> data-parallel ranks, as a pure function.  No torch.

Invariants of `plan_microbatches`:
1. every sample is in exactly one microbatch of one rank;
2. a microbatch holds at most `max_tokens` tokens, unless it holds one sample alone;
3. every rank gets the same number of microbatches, a multiple of `multiple` (empty ones where samples run out);
4. the answer depends on nothing but the arguments, and every rank computes the same one.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def plan_microbatches(
    lengths: Sequence[int], max_tokens: int, data_parallel: int, multiple: int = 1
) -> list[list[list[int]]]:
    """Distribute samples of the given token counts; returns [rank][microbatch] -> indices of samples.

    Longest first into the least loaded bin, with the fewest bins (a multiple of `data_parallel` x `multiple`) that
    keep the limit: balanced to within one sample, in n log n for each number of bins that is tried.
    """
    if not lengths:
        raise ValueError("no samples to pack")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    unit = data_parallel * multiple
    largest = -(-len(lengths) // unit) * unit
    bins_wanted = -(-max(1, -(-sum(lengths) // max_tokens)) // unit) * unit
    while True:
        bins = _longest_first(lengths, order, bins_wanted)
        if bins_wanted >= largest or all(_fits(lengths, members, max_tokens) for members in bins):
            break
        bins_wanted += unit
    # Neighbours in load go to different ranks, so that the ranks' k-th microbatches take alike long.
    bins.sort(key=lambda members: (-sum(lengths[i] for i in members), members))
    return [bins[rank::data_parallel] for rank in range(data_parallel)]


def _longest_first(lengths: Sequence[int], order: Sequence[int], count: int) -> list[list[int]]:
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, index) for index in range(count)]
    for i in order:
        load, index = heapq.heappop(loads)
        bins[index].append(i)
        heapq.heappush(loads, (load + lengths[i], index))
    return bins


def _fits(lengths: Sequence[int], members: Sequence[int], max_tokens: int) -> bool:
    return len(members) <= 1 or sum(lengths[i] for i in members) <= max_tokens
