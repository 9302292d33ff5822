"""The training loop: draw prompts, sample and score groups, journal them, train, exchange weights.  No torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from megatron_srpo.curriculum.sampler import EpochSampler
from megatron_srpo.data.problems import Problem
from megatron_srpo.errors import SrpoError
from megatron_srpo.observe.metrics import JsonLines, RunMetrics
from megatron_srpo.observe.progress import Progress
from megatron_srpo.observe.summary import summarize
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.collect import Prompt, RolloutCollector
from megatron_srpo.rollout.evaluate import HeldOut
from megatron_srpo.rollout.journal import Journal, read_step, rows_of
from megatron_srpo.sync.announce import WeightPath


class TrainerRanks(Protocol):
    """What the loop asks of the trainer; `launch.trainer.Trainer` is one."""

    version: int

    async def train(self, path: Path) -> dict[str, float]:
        """Train on a closed step file."""

    async def save(self) -> None:
        """Write a checkpoint of the present version."""


@dataclass
class Rollouts:
    """Everything that needs engines; `served_version` is the weight version that they have."""

    collector: RolloutCollector
    path: WeightPath
    problems: Sequence[Problem]
    prompts: Sequence[list[int]]
    held_out: HeldOut | None
    served_version: int = 0


@dataclass
class Observers:
    """Where the loop tells what it does."""

    metrics: RunMetrics
    events: JsonLines
    progress: Progress


class Controller:
    """Drives a run from the trainer's version to the recipe's last step."""

    def __init__(
        self,
        recipe: Recipe,
        journal: Journal,
        trainer: TrainerRanks,
        rollouts: Rollouts | None,
        observers: Observers,
    ) -> None:
        self.recipe, self.journal, self.trainer = recipe, journal, trainer
        self.rollouts, self.observers = rollouts, observers
        self._tell_start()

    async def run(self, steps: int) -> None:
        """Train until `steps` steps are done; without rollouts all of them must be in the journal."""
        await self._evaluate()
        for step in range(self.trainer.version, steps):
            started = time.monotonic()
            rollout = await self._rollout(step)
            self.observers.progress.phase(f"step {step}: training")
            trained = await self.trainer.train(self.journal.step_path(step))
            summary = summarize(read_step(self.journal.step_path(step)))
            self._record(step, {**summary, **rollout, **trained, "seconds_step": time.monotonic() - started})
            if self.trainer.version % self.recipe.checkpoint.every == 0 or self.trainer.version == steps:
                await self._save()
        await self._evaluate()

    async def _rollout(self, step: int) -> dict[str, float]:
        """Make sure that the step is closed in the journal; a step that already is costs nothing."""
        if self.journal.is_closed(step) or self.rollouts is None:
            return {}
        timings = await self._exchange(self.rollouts)
        self.observers.progress.phase(f"step {step}: sampling {self.recipe.samples_per_step} responses")
        started = time.monotonic()
        done = self.journal.open_groups(step)
        missing = [prompt for prompt in self.draw(step, self.rollouts) if prompt.number not in done]
        tokens = 0
        async for group in self.rollouts.collector.groups(missing, self.recipe.rollout.samples_per_prompt):
            rows = rows_of(group, step)
            self.journal.append(rows)
            tokens += sum(len(row.tokens) for row in rows)
        self.journal.close(step, self.recipe.rollout.prompts_per_step)
        seconds = time.monotonic() - started
        return timings | {"seconds_rollout": seconds, "tokens_per_second": tokens / seconds}

    def draw(self, step: int, rollouts: Rollouts) -> list[Prompt]:
        """The prompts of a step, each with its place."""
        count = self.recipe.rollout.prompts_per_step
        sampler = EpochSampler(len(rollouts.problems), self.recipe.seed)
        return [
            Prompt(
                number,
                d.epoch,
                rollouts.problems[d.index],
                rollouts.prompts[d.index],
                f"step-{step}-{number}",
            )
            for number, d in enumerate(sampler.draw(step * count, count))
        ]

    async def _exchange(self, rollouts: Rollouts) -> dict[str, float]:
        """Bring the engines to the trainer's version."""
        if rollouts.served_version == self.trainer.version:
            return {"seconds_sync": 0.0}
        self.observers.progress.phase(f"exchanging weights, version {self.trainer.version}")
        exchange = await rollouts.path.exchange()
        rollouts.served_version = self.trainer.version
        return {"seconds_sync": exchange.seconds, "sync_bytes": float(exchange.bytes)}

    async def _evaluate(self) -> None:
        """Held-out accuracy of the present version, unless the run already knows it."""
        if self.rollouts is None or self.rollouts.held_out is None:
            return
        held_out, version = self.rollouts.held_out, self.trainer.version
        if version not in (0, self.recipe.steps):
            return
        before = held_out.recorded(0)
        accuracy = held_out.recorded(version)
        if accuracy is None:
            await self._exchange(self.rollouts)
            self.observers.progress.phase(f"held-out accuracy of weight version {version}")
            accuracy = await held_out.measure(self.rollouts.collector, version)
            self._event("evaluation", weight_version=version, accuracy=accuracy)
        gained = f", before training {before:.1%}" if before is not None and version else ""
        self.observers.progress.say(f"held-out accuracy at weight version {version}: {accuracy:.1%}{gained}")

    async def _save(self) -> None:
        self.observers.progress.phase("saving a checkpoint")
        started = time.monotonic()
        await self.trainer.save()
        self._event("checkpoint", weight_version=self.trainer.version, seconds=time.monotonic() - started)

    def _record(self, step: int, values: dict[str, float]) -> None:
        self.observers.metrics.record(step, values)
        self.observers.progress.step(step, values)

    def _event(self, name: str, **values: object) -> None:
        self.observers.events.write({"event": name, **values})

    def _tell_start(self) -> None:
        """Say what a restarted run begins with; raises SrpoError when its journal has lost steps."""
        version, closed = self.trainer.version, self.journal.closed_steps()
        if version > len(closed):
            raise SrpoError(
                f"{self.journal.root}: holds {len(closed)} steps, but the newest checkpoint is of step {version}; "
                "restore the missing step files, or remove the checkpoints that are newer than them"
            )
        replayed = len([step for step in closed if step >= version])
        self._event("start", weight_version=version, closed_steps=len(closed), replayed_steps=replayed)
        if version or closed:
            self.observers.progress.say(
                f"going on from weight version {version}; {replayed} recorded steps are replayed, not sampled"
            )
