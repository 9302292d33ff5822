"""The curriculum of a run: stages over mixtures of sources, each resampled by its history.

It is a fold over the journal: `StepDraws` draws and records a step live, `Curriculum.replay_step` takes a step out
of the journal, and both end in the same state.  What a step draws follows from (recipe, seed, data, the steps
before it) and, within the step, from the groups recorded so far, in whatever order they finish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_srpo.curriculum.keys import Ids
from megatron_srpo.curriculum.mixture import Mixture
from megatron_srpo.curriculum.outcomes import GroupOutcome
from megatron_srpo.curriculum.pool import EpochPool, PoolSettings, SourcePool
from megatron_srpo.curriculum.stages import StageProgress, Switch
from megatron_srpo.curriculum.strategies import build_strategy
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.schema import Recipe


@dataclass(frozen=True)
class Drawn:
    """A prompt to sample: its place in the step, and the prompt by source, epoch and index in the data set."""

    number: int
    source: str
    epoch: int
    index: int


class Curriculum:
    """Where the run is: the stage, every source's pool, and the tokens spent."""

    def __init__(self, recipe: Recipe, ids: Mapping[str, Ids]) -> None:
        """Begin at step 0; `ids` are the prompts of every source that a stage draws from, in its file's order."""
        self.recipe = recipe
        section = recipe.curriculum
        self.strategy = build_strategy(section, recipe.rollout.samples_per_prompt)
        self.pools = {source: self._pool(source, of_source) for source, of_source in ids.items()}
        self.steps, self.response_tokens, self.ended = 0, 0, False
        self._enter(0)

    def _pool(self, source: str, ids: Ids) -> SourcePool:
        section = self.recipe.curriculum
        at_most_half = min(self.recipe.rollout.prompts_per_step, max(1, len(ids) // 2))
        settings = PoolSettings(
            self.recipe.seed,
            self.strategy,
            section.min_pool or at_most_half,
            section.predictive.forgetting,
        )
        return SourcePool(source, ids, settings)

    def _enter(self, stage: int) -> None:
        self.stage = stage
        section = self.recipe.curriculum.stages[stage]
        self.mixture = Mixture(self.recipe.mixture(section))
        self.progress = StageProgress(section, self._epochs_done())

    @property
    def stage_name(self) -> str:
        """Name of the present stage."""
        return self.progress.stage.name

    def _epochs_done(self) -> dict[str, int]:
        return {source: self.pools[source].epochs_done for source in self.mixture.counts}

    def record(self, outcome: GroupOutcome) -> EpochPool | None:
        """Take in one finished group of the present step; returns the pool of an epoch that it began, if any."""
        pool = self.pools.get(outcome.source)
        if pool is None:
            raise SrpoError(
                f"the journal has groups of source {outcome.source}, which is not in data.train; restore it there"
            )
        before = pool.pool
        pool.record(outcome.prompt_id, outcome.epoch, outcome.correct, outcome.samples)
        return None if pool.pool is before else self.note(pool.pool)

    def note(self, pool: EpochPool) -> EpochPool:
        """Remember that an epoch has begun, and with how many prompts."""
        if pool.readmitted and self.recipe.curriculum.at_min_pool == "end_stage":
            self.progress.pool_ran_out = True
        return pool

    def close_step(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Finish a step whose groups are all recorded."""
        weights = np.array([outcome.samples for outcome in outcomes])
        self.progress.close_step(
            float(np.average([outcome.reward for outcome in outcomes], weights=weights)),
            float(np.average([outcome.accuracy for outcome in outcomes], weights=weights)),
        )
        self.response_tokens += sum(outcome.tokens for outcome in outcomes)
        self.steps += 1

    def replay_step(self, outcomes: Sequence[GroupOutcome], stage: str) -> None:
        """Take in a closed step of the journal, which says itself what stage it was of."""
        if stage != self.stage_name:
            self._enter(self._stage_named(stage))
        for outcome in sorted(outcomes, key=lambda outcome: outcome.place):
            self.mixture.next()
            self.record(outcome)
        self.close_step(outcomes)

    def _stage_named(self, name: str) -> int:
        names = [stage.name for stage in self.recipe.curriculum.stages]
        if name not in names:
            raise SrpoError(
                f"the journal has a stage {name}; the recipe's are {', '.join(names)}; restore it there"
            )
        return names.index(name)

    def due_switch(self, requested: bool) -> Switch | None:
        """The end of the present stage when it is due before the next step: by itself, or as requested.

        A stage has one step at least; a request waits for it.
        """
        if self.ended or not self.progress.steps:
            return None  # a switch must not take the place of the one that began the stage before the same step
        cause = ("request", {"steps": float(self.progress.steps)}) if requested else None
        cause = cause or self.progress.ended_by(self._epochs_done())
        if cause is None:
            return None
        stages = self.recipe.curriculum.stages
        to = stages[self.stage + 1].name if self.stage + 1 < len(stages) else None
        return Switch(self.steps, self.stage_name, to, *cause)

    def switch(self, switch: Switch) -> None:
        """Carry out a switch."""
        if switch.to is None:
            self.ended = True
        else:
            self._enter(self._stage_named(switch.to))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The state between two steps, as arrays by name."""
        state: dict[str, NDArray[Any]] = {
            "position": np.array([self.steps, self.response_tokens, self.stage, self.progress.pool_ran_out]),
            "mixture": np.array(list(self.mixture.counts.values()), np.int64),
            "epochs_before": np.array(list(self.progress.epochs_before.values()), np.int64),
            "reward": np.array(self.progress.metrics["reward"], np.float64),
            "accuracy": np.array(self.progress.metrics["accuracy"], np.float64),
        }
        for source, pool in self.pools.items():
            state |= {f"{source}/{name}": array for name, array in pool.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, int]]:
        """Take over a state; returns for every source how many prompts were added and removed since."""
        steps, tokens, stage, ran_out = (int(value) for value in state["position"])
        self._enter(stage)
        self.steps, self.response_tokens, self.progress.pool_ran_out = steps, tokens, bool(ran_out)
        self.mixture.counts = dict(zip(self.mixture.counts, state["mixture"].tolist(), strict=True))
        before = state["epochs_before"].tolist()
        self.progress.epochs_before = dict(zip(self.progress.epochs_before, before, strict=True))
        self.progress.metrics = {name: state[name].tolist() for name in self.progress.metrics}
        changed = {}
        for source, pool in self.pools.items():
            prefix = source + "/"
            own = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
            changed[source] = pool.load_state_dict(own)
        return changed
