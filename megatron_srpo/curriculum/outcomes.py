"""What is known of every prompt of a source: its newest group, and the evidence of all its groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class GroupOutcome:
    """What the curriculum learns from a finished group.

    `number` is its place in the step; `correct` counts the samples whose accuracy is 1; `reward` and `accuracy`
    are means over the `samples`, `tokens` is the sum of their response tokens.
    """

    number: int
    source: str
    epoch: int
    prompt_id: str
    samples: int
    correct: int
    reward: float
    accuracy: float
    tokens: int

    @property
    def place(self) -> tuple[int, int]:
        """Sorts a step's groups as they are to be taken in.

        By epoch first: when prompts are removed while a step is open, what is drawn anew can belong to a later
        epoch than groups behind it that are recorded already.
        """
        return self.epoch, self.number


@dataclass
class Outcomes:
    """One entry a prompt, in the order of the data set.

    last_epoch: int32, the epoch of the newest group, -1 without one; correct, samples: uint16, of that group;
    successes, failures: float32, samples of all groups, each epoch weighing `forgetting` times the one after it,
    as of `last_epoch`.
    """

    last_epoch: NDArray[np.int32]
    correct: NDArray[np.uint16]
    samples: NDArray[np.uint16]
    successes: NDArray[np.float32]
    failures: NDArray[np.float32]

    @classmethod
    def unknown(cls, size: int) -> Outcomes:
        """Of prompts that nothing is known of."""
        return cls(
            np.full(size, -1, np.int32),
            np.zeros(size, np.uint16),
            np.zeros(size, np.uint16),
            np.zeros(size, np.float32),
            np.zeros(size, np.float32),
        )

    @property
    def all_correct(self) -> NDArray[np.bool_]:
        """Whether every sample of the newest group was correct; false without a group."""
        solved: NDArray[np.bool_] = (self.last_epoch >= 0) & (self.correct == self.samples)
        return solved

    def record(self, index: int, epoch: int, correct: int, samples: int, forgetting: float) -> None:
        """Take in the group of one prompt in one epoch."""
        last = int(self.last_epoch[index])
        kept = forgetting ** (epoch - last) if last >= 0 else 0.0
        self.successes[index] = self.successes[index] * kept + correct
        self.failures[index] = self.failures[index] * kept + (samples - correct)
        self.last_epoch[index] = epoch
        self.correct[index] = correct
        self.samples[index] = samples

    def take(self, other: Outcomes, here: NDArray[np.int32], there: NDArray[np.int32]) -> None:
        """Copy the entries `there` of `other` to the places `here`."""
        for field in fields(self):
            getattr(self, field.name)[here] = getattr(other, field.name)[there]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The entries as arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def only(self, index: int) -> Outcomes:
        """A copy of one entry."""
        return Outcomes(**{name: array[index : index + 1].copy() for name, array in self.arrays().items()})

    def followed_by(self, others: Iterable[Outcomes]) -> Outcomes:
        """A copy of all entries with those of `others` behind them."""
        rows = [self.arrays(), *(other.arrays() for other in others)]
        return Outcomes(**{name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
