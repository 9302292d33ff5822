"""Resampling strategies: which prompts an epoch draws, and which groups fill a step.

Invariants:
1. a strategy is pure: its answers depend on its arguments alone;
2. `chooses` decides about each prompt by that prompt's own past and random number, never by other prompts, so it
   decides the same for the rest when prompts are added or removed;
3. a prompt without a past is always chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_srpo.curriculum.keys import Keys, uniforms
from megatron_srpo.curriculum.outcomes import Outcomes
from megatron_srpo.recipe.curriculum import CurriculumSection

# Prompts that are worked on at once, so that the temporaries stay in the processor's cache.
_CHUNK = 1 << 16
_TINY = np.finfo(np.float32).tiny


class Strategy(Protocol):
    """How the next epoch's pool follows from the past."""

    def chooses(self, outcomes: Outcomes, keys: Keys, epoch: int, salt: object) -> NDArray[np.bool_]:
        """Which prompts epoch `epoch` draws; [prompts] bool."""

    def keeps(self, correct: int, samples: int) -> bool:
        """Whether a finished group counts towards the step's prompts_per_step."""


class Everything:
    """Strategy `none`, plain GRPO: all prompts in every epoch."""

    def chooses(self, outcomes: Outcomes, keys: Keys, epoch: int, salt: object) -> NDArray[np.bool_]:
        """All."""
        return np.ones(len(keys), np.bool_)

    def keeps(self, correct: int, samples: int) -> bool:
        """All."""
        return True


class Dynamic(Everything):
    """Strategy `dynamic`, DAPO (arXiv 2503.14476): groups all right or all wrong are replaced."""

    def keeps(self, correct: int, samples: int) -> bool:
        """Mixed groups only."""
        return 0 < correct < samples


@dataclass(frozen=True)
class History(Everything):
    """Strategy `history`, SRPO (arXiv 2504.14286): prompts whose newest group was all correct stay out.

    readmit_after: epochs after which such a prompt comes back; none: never.
    easy_pool: probability with which it is drawn nevertheless, anew in every epoch.
    """

    readmit_after: int | None
    easy_pool: float

    def chooses(self, outcomes: Outcomes, keys: Keys, epoch: int, salt: object) -> NDArray[np.bool_]:
        """Mixed and all-wrong prompts, those never drawn, and what the options bring back."""
        chosen = ~outcomes.all_correct
        if self.readmit_after is not None:
            chosen |= epoch - outcomes.last_epoch > self.readmit_after
        if self.easy_pool > 0:
            chosen |= uniforms(keys, salt, "easy", epoch) < self.easy_pool
        return chosen


@dataclass(frozen=True)
class Predictive(Everything):
    """Strategy `predictive`: a Beta posterior of each prompt's pass rate, drawn by the chance of a mixed group.

    The evidence of an epoch weighs `forgetting` times the next one's, seen or not, so what is known of a prompt
    that is left out fades and it comes back.  The chance is relative to that of a prompt without a past, at most
    1 and at least `exploration`.
    """

    prior: float
    forgetting: float
    exploration: float
    samples_per_prompt: int

    def chooses(self, outcomes: Outcomes, keys: Keys, epoch: int, salt: object) -> NDArray[np.bool_]:
        """Each prompt with its probability."""
        chosen = np.empty(len(keys), np.bool_)
        for start in range(0, len(keys), _CHUNK):
            part = slice(start, start + _CHUNK)
            faded = np.float32(self.forgetting) ** (epoch - outcomes.last_epoch[part]).astype(np.float32)
            probability = self._probability(outcomes.successes[part] * faded, outcomes.failures[part] * faded)
            chosen[part] = uniforms(keys[part], salt, "predictive", epoch) < probability
            chosen[part] |= outcomes.last_epoch[part] < 0  # also where a tiny prior leaves nothing of the chance
        return chosen

    def _probability(self, successes: NDArray[np.float32], failures: NDArray[np.float32]) -> NDArray[np.float32]:
        prior = np.array([self.prior], np.float32)
        unknown = mixed_probability(prior, prior, self.samples_per_prompt)
        known = mixed_probability(successes + prior, failures + prior, self.samples_per_prompt)
        probability: NDArray[np.float32] = np.clip(known / np.maximum(unknown, _TINY), self.exploration, 1.0)
        return probability


def mixed_probability(alpha: NDArray[np.float32], beta: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """Chance that `samples` tries are neither all right nor all wrong when the pass rate is Beta(alpha, beta).

    Beta-binomial: P(all right) = prod_j (alpha + j) / (alpha + beta + j), P(all wrong) likewise with beta.
    alpha, beta: [prompts] float32; returns [prompts] float32.
    """
    right, wrong, total = np.ones_like(alpha), np.ones_like(alpha), alpha + beta
    for j in range(samples):
        right *= (alpha + j) / (total + j)
        wrong *= (beta + j) / (total + j)
    return 1 - right - wrong


def build_strategy(section: CurriculumSection, samples_per_prompt: int) -> Strategy:
    """The recipe's strategy."""
    if section.strategy == "history":
        return History(section.history.readmit_after, section.history.easy_pool)
    if section.strategy == "dynamic":
        return Dynamic()
    if section.strategy == "predictive":
        options = section.predictive
        return Predictive(options.prior, options.forgetting, options.exploration, samples_per_prompt)
    return Everything()
