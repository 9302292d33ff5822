"""The draws of one step: which prompts to sample now, and when the step has enough groups.

Invariants:
1. group n of the step is the same prompt whatever order groups finish in and wherever a crash fell;
2. at most `prompts_per_step` groups that the strategy keeps are trained on, and none is drawn in excess: as many
   groups are on their way as are missing;
3. a step draws at most `max_draws` x prompts_per_step groups.
"""

from __future__ import annotations

from collections.abc import Iterable

from megatron_srpo.curriculum.curriculum import Curriculum, Drawn
from megatron_srpo.curriculum.outcomes import GroupOutcome
from megatron_srpo.curriculum.pool import EpochPool
from megatron_srpo.errors import SrpoError


class StepDraws:
    """One step, from its first draw to its last group."""

    def __init__(self, curriculum: Curriculum, recorded: Iterable[GroupOutcome]) -> None:
        """Begin the curriculum's next step, or go on with it: `recorded` are its groups in the journal."""
        self._curriculum = curriculum
        recipe = curriculum.recipe.at_stage(curriculum.stage_name)
        self.wanted = recipe.rollout.prompts_per_step
        self._cap = max(self.wanted, int(self.wanted * recipe.curriculum.dynamic.max_draws))
        self._at_cap = recipe.curriculum.dynamic.at_cap
        self.outcomes: dict[int, GroupOutcome] = {}
        self.kept: set[int] = set()
        self.began: list[EpochPool] = []
        self._next = 0
        self._missing: str | None = None
        for outcome in sorted(recorded, key=lambda outcome: outcome.place):
            self._take(outcome)

    def _take(self, outcome: GroupOutcome) -> None:
        self.outcomes[outcome.number] = outcome
        if self.keeps(outcome):
            self.kept.add(outcome.number)
        began = self._curriculum.record(outcome)
        if began is not None:
            self.began.append(began)

    def keeps(self, outcome: GroupOutcome) -> bool:
        """Whether the strategy trains on the group."""
        return self._curriculum.strategy.keeps(outcome.correct, outcome.samples)

    @property
    def _total(self) -> int:
        """Groups that the step needs as far as is known: every dropped one calls for another, up to the cap."""
        dropped = len(self.outcomes) - len(self.kept)
        # A cap that was lowered while the step was open must not leave a hole before a recorded group.
        return max(min(self._cap, self.wanted + dropped), max(self.outcomes, default=-1) + 1)

    def draw(self) -> list[Drawn]:
        """What can be sampled now; none while an epoch's last groups are on their way, or when enough are."""
        drawn: list[Drawn] = []
        while self._next < self._total:
            self._missing = self._missing or self._curriculum.mixture.next()
            if self._next not in self.outcomes:
                pool = self._curriculum.pools[self._missing]
                before = pool.pool
                found = pool.draw()
                if pool.pool is not before:
                    self.began.append(self._curriculum.note(pool.pool))
                if found is None:
                    break
                drawn.append(Drawn(self._next, self._missing, *found))
            self._next, self._missing = self._next + 1, None
        return drawn

    def record(self, outcome: GroupOutcome) -> None:
        """Take in a group that has just been finished and journaled."""
        self._take(outcome)

    def trained(self) -> list[int]:
        """Numbers of the groups to train on, when all drawn ones are recorded.

        Raises SrpoError when the strategy kept too few and the recipe says to stop then.
        """
        if len(self.kept) == self.wanted:
            return sorted(self.kept)
        if self._at_cap == "stop":
            raise SrpoError(
                f"step {self._curriculum.steps}: {len(self.outcomes)} groups gave only {len(self.kept)} with "
                f"mixed results of the {self.wanted} wanted (curriculum.dynamic.max_draws); raise max_draws, set "
                "at_cap to fill, or train on harder prompts"
            )
        dropped = sorted(set(self.outcomes) - self.kept)
        return sorted([*self.kept, *dropped[: self.wanted - len(self.kept)]])

    def close(self) -> None:
        """Finish the step in the curriculum."""
        self._curriculum.close_step([self.outcomes[number] for number in sorted(self.outcomes)])
