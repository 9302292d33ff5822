"""Which prompts a step draws: a seeded permutation an epoch, read off position by position.

Invariants:
1. in every epoch each prompt is drawn exactly once, in an order that depends on (seed, epoch) alone;
2. a draw is a function of (seed, position), so a restarted run draws what the first one would have drawn;
3. a step may span two epochs; the epoch of each of its prompts is told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draw:
    """A prompt's index in the data set and the epoch it is drawn in."""

    epoch: int
    index: int


class EpochSampler:
    """Draws from `size` prompts, without end."""

    def __init__(self, size: int, seed: int) -> None:
        if size <= 0:
            raise ValueError("a sampler needs at least one prompt")
        self._size, self._seed = size, seed

    def draw(self, position: int, count: int) -> list[Draw]:
        """Draws number `position` to `position + count - 1` since the beginning of the run."""
        draws: list[Draw] = []
        while len(draws) < count:
            epoch, offset = divmod(position + len(draws), self._size)
            order = np.random.default_rng((self._seed, epoch)).permutation(self._size)
            rest = order[offset : offset + count - len(draws)]
            draws += [Draw(epoch, int(index)) for index in rest]
        return draws
