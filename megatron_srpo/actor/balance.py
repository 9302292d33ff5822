"""Balance of cost between data-parallel ranks: bins of samples are dealt out, then samples exchanged.  No torch.

Costs and sizes are whole numbers, so that every rank computes the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 2000  # a rank is heavy from one part in so many above the mean
EXCHANGES = 4  # a rank, at most
SAMPLES = 64  # of a rank that are looked at; where ranks have fewer, those of more light ranks are

Integers = NDArray[np.int64]


class Balance:
    """Samples in bins, and as many bins on every rank.

    size, cost: tokens and cost of each sample; where: its bin; load, free: cost of each bin, and the tokens that
    it has room for; owner: its rank; total: cost of each rank.
    """

    def __init__(
        self, size: Integers, cost: Integers, where: Integers, bins: int, capacity: int, ranks: int
    ) -> None:
        self.size, self.cost, self.where = size, cost, where
        self.load, self.free = np.zeros(bins, np.int64), np.full(bins, capacity, np.int64)
        np.add.at(self.load, where, cost)
        np.subtract.at(self.free, where, size)
        self.owner, self.total = np.zeros(bins, np.int64), np.zeros(ranks, np.int64)

    def deal(self) -> None:
        """Give every rank as many bins, of like costs from rank to rank, their sums balanced.

        By cost the bins are cut into rounds of one bin a rank, and in each the heaviest goes to the lightest rank.
        """
        for bins in np.argsort(-self.load, kind="stable").reshape(-1, len(self.total)):
            lightest = np.argsort(self.total, kind="stable")
            self.owner[bins] = lightest
            self.total[lightest] += self.load[bins]

    def relieve(self) -> None:
        """Exchange samples of the heaviest rank with light ones, as long as it is heavy and that helps."""
        mean = self.total.sum() // len(self.total)
        for _ in range(EXCHANGES * len(self.total)):
            heavy = int(np.argmax(self.total))
            if self.total[heavy] - mean <= mean // TOLERANCE or not self._exchange(heavy):
                return

    def _exchange(self, heavy: int) -> bool:
        """Exchange a sample of the rank with one of a light rank, or just move it there.

        It is the exchange after which the heavier of the two ranks costs least; returns whether there is any that
        makes that less than the cost of `heavy` before.
        """
        per_rank = -(-len(self.size) // len(self.total))
        step = -(-per_rank // SAMPLES)
        light = np.zeros(len(self.total), bool)
        light[np.argsort(self.total, kind="stable")[: max(1, (SAMPLES // per_rank) ** 2)]] = True
        rank = self.owner[self.where]
        give, take = np.flatnonzero(rank == heavy)[::step], np.flatnonzero(light[rank])[::step]
        # Behind the samples that can be taken in return stand the bins of the light ranks: nothing is taken there.
        bins = np.concatenate([self.where[take], np.flatnonzero(light[self.owner])])
        nothing = np.zeros(len(bins) - len(take), np.int64)
        longer = self.size[give][:, None] - np.concatenate([self.size[take], nothing])
        dearer = self.cost[give][:, None] - np.concatenate([self.cost[take], nothing])
        fits = (longer <= self.free[bins]) & (-longer <= self.free[self.where[give]][:, None])
        now = self.total[heavy]
        heavier = np.where(fits, np.maximum(now - dearer, self.total[self.owner[bins]] + dearer), now)
        one, other = np.unravel_index(np.argmin(heavier), heavier.shape)
        if heavier[one, other] >= now:
            return False
        source = self.where[give[one]]
        self._move(int(give[one]), int(bins[other]))
        if other < len(take):
            self._move(int(take[other]), int(source))
        return True

    def _move(self, sample: int, target: int) -> None:
        source, size, cost = self.where[sample], self.size[sample], self.cost[sample]
        for place, sign in ((source, -1), (target, 1)):
            self.free[place] -= sign * size
            self.load[place] += sign * cost
            self.total[self.owner[place]] += sign * cost
        self.where[sample] = target
