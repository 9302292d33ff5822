"""Which source each prompt of a stage is drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction


class Mixture:
    """Deals prompts out to sources by weight, evenly: after n prompts each source has n x share, within one.

    This is Tijdeman's rule (The chairman assignment problem, Discrete Mathematics 32, 1980): with k sources none
    is ever off by more than 1 - 1/(2k - 2).  To take always the one that is furthest behind can be off by more
    than one with six sources.  All in whole numbers, so that no rounding can add up.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        exact = {source: Fraction(weight) for source, weight in weights.items()}
        unit = math.lcm(*(weight.denominator for weight in exact.values()))
        self._weights = {source: int(weight * unit) for source, weight in exact.items()}
        self._sum = sum(self._weights.values())
        self.counts = dict.fromkeys(weights, 0)

    def next(self) -> str:
        """The source of the next prompt: of those behind their share, the one that would be off too far first."""
        drawn, parts, whole = sum(self.counts.values()) + 1, max(1, 2 * len(self.counts) - 2), self._sum
        source, least = "", math.inf
        for name, weight in self._weights.items():
            behind = parts * (weight * drawn - whole * self.counts[name])
            time_left = ((parts - 1) * whole - behind) / weight
            if behind >= whole and time_left < least:
                source, least = name, time_left
        self.counts[source] += 1
        return source
