"""Samples -> microbatches -> data-parallel ranks, as a pure function.  No torch.

Invariants of `plan_microbatches`:
1. every sample is in exactly one microbatch of one rank;
2. a microbatch holds at most `max_tokens` tokens, unless it holds one sample alone;
3. every rank gets the same number of microbatches, a multiple of `multiple`, and as few as the packing finds
   (empty ones where samples run out);
4. the answer depends on nothing but the arguments, and every rank computes the same one;
5. the heaviest rank costs hardly more than the mean, and the ranks' k-th microbatches cost about the same: each
   rank begins with its most expensive one.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from megatron_srpo.actor.balance import Balance

COST_BITS = 32  # of the most expensive sample: the sum of a billion fits into an int64


def plan_microbatches(
    lengths: Sequence[int],
    max_tokens: int,
    data_parallel: int,
    multiple: int = 1,
    costs: Sequence[float] | None = None,
) -> list[list[list[int]]]:
    """Distribute samples of the given token counts; returns [rank][microbatch] -> indices of samples.

    `costs` are what the samples take to compute, in any unit; by default their lengths.  The samples are packed
    into as few microbatches as will do, of about the same cost where there is room for it; the microbatches are
    dealt to the ranks; and last single samples are exchanged.  Raises ValueError for no samples, and for lengths
    or costs that are not one positive number a sample.
    """
    size = np.array(lengths, dtype=np.int64)
    cost = np.array(lengths if costs is None else costs, dtype=np.float64)
    if not size.size or size.shape != cost.shape or size.min() <= 0 or not 0 < cost.min() <= cost.max() < np.inf:
        raise ValueError(f"{size.size} samples to pack with {cost.size} costs: one at least, all positive")
    order = np.argsort(-size, kind="stable")
    size = np.minimum(size[order], max_tokens)  # a sample above the limit fills a microbatch
    # Whole numbers add up to the same in any order, and so on every machine.
    cost = np.maximum(cost[order] / cost.max() * 2**COST_BITS, 1).astype(np.int64)
    bins, count = _pack(size.tolist(), cost.tolist(), max_tokens, data_parallel * multiple)
    balance = Balance(size, cost, np.array(bins), count, max_tokens, data_parallel)
    balance.deal()
    balance.relieve()
    members: list[list[int]] = [[] for _ in range(count)]
    for sample, place in zip(order.tolist(), balance.where.tolist(), strict=True):
        members[place].append(sample)
    plan: list[list[list[int]]] = [[] for _ in range(data_parallel)]
    for place in np.argsort(-balance.load, kind="stable").tolist():
        plan[balance.owner[place]].append(members[place])
    return plan


def _pack(sizes: list[int], costs: list[int], capacity: int, unit: int) -> tuple[list[int], int]:
    """The bin of each sample (the longest come first), and how many bins: a multiple of `unit`, the fewest found.

    The more samples are spread by cost, the more alike are the bins; the fewer, the more bins can be filled up.
    With none it is plain best fit, which says how many bins it needs.
    """
    halves = sum(2 * size > capacity for size in sizes)  # no two of these share a bin
    needed = max(halves, -(-sum(sizes) // capacity))
    while True:
        count = -(-needed // unit) * unit
        for spread in (len(sizes), 3 * count, 2 * count, count, 0):
            where, needed = _fill(sizes, costs, capacity, count, spread)
            if needed <= count:
                return where, count


def _fill(sizes: list[int], costs: list[int], capacity: int, count: int, spread: int) -> tuple[list[int], int]:
    """The first `spread` samples each into the cheapest of `count` bins, until that is full; the rest by best fit.

    Returns what `_best_fit` does.
    """
    free = [capacity] * count
    cheapest = [(0, index) for index in range(count)]
    where: list[int] = []
    for size, cost in zip(sizes[:spread], costs[:spread], strict=True):
        load, index = cheapest[0]
        if size > free[index]:
            break
        free[index] -= size
        heapq.heapreplace(cheapest, (load + cost, index))
        where.append(index)
    rest, used = _best_fit(sizes[len(where) :], free, capacity)
    return where + rest, used


def _best_fit(sizes: list[int], free: list[int], capacity: int) -> tuple[list[int], int]:
    """Each sample into the fullest bin that has room, or a new one.

    `free` are the rooms of bins that are there already.  Returns the bin of each sample, and the number of bins.
    """
    used = len(free)
    rooms = sorted((room, index) for index, room in enumerate(free))
    where: list[int] = []
    for size in sizes:
        at = bisect_left(rooms, (size,))
        if at < len(rooms):
            room, index = rooms.pop(at)
        else:
            room, index = capacity, used
            used += 1
        insort(rooms, (room - size, index))
        where.append(index)
    return where, used
