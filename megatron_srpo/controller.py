"""The training loop: draw prompts, sample and score groups, journal them, train, exchange weights.  No torch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from megatron_srpo.checkpoints.manifest import CurriculumState, RunFacts
from megatron_srpo.checkpoints.provenance import Provenance
from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.draws import StepDraws
from megatron_srpo.curriculum.history import outcome_of
from megatron_srpo.curriculum.restore import CurriculumStore, Restored
from megatron_srpo.data.problem import Problem
from megatron_srpo.errors import SrpoError
from megatron_srpo.observe.metrics import JsonLines, RunMetrics
from megatron_srpo.observe.progress import Progress
from megatron_srpo.observe.summary import error_alarm, pool_metrics, summarize
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.collect import Prompt, RolloutCollector
from megatron_srpo.rollout.evaluate import HeldOut
from megatron_srpo.rollout.journal import Journal, Row, read_step, rows_of
from megatron_srpo.sync.announce import WeightPath


class TrainerRanks(Protocol):
    """What the loop asks of the trainer; `launch.trainer.Trainer` is one."""

    version: int
    broken_checkpoints: list[str]

    async def train(self, path: Path) -> dict[str, float]:
        """Train on a closed step file."""

    async def save(self, run: RunFacts) -> None:
        """Begin to write a checkpoint of the present version."""

    async def settle(self) -> None:
        """Wait until the checkpoint that is being written is whole."""

    def take_saved(self) -> list[dict[str, Any]]:
        """What became whole since the last call: weight_version, bytes, seconds and stall_seconds of each."""


@dataclass
class Rollouts:
    """Everything that needs engines; `served_version` is the weight version that they have.

    `problems` and `prompts` (as token ids) hold every source's data in the file's order.
    """

    collector: RolloutCollector
    path: WeightPath
    curriculum: Curriculum
    store: CurriculumStore
    restored: Restored
    problems: Mapping[str, Sequence[Problem]]
    prompts: Mapping[str, Sequence[list[int]]]
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
        provenance: Provenance,
    ) -> None:
        self.recipe, self.journal, self.trainer = recipe, journal, trainer
        self.provenance = provenance
        self.rollouts, self.observers = rollouts, observers
        self._saved_version = trainer.version

    async def run(self, steps: int) -> str:
        """Train until `steps` steps are done, or the curriculum or the token budget ends the run before.

        Without rollouts all steps must be in the journal.  Returns what ended it: steps, curriculum or budget.
        """
        self._tell_start(steps)
        while self.trainer.version < steps:
            step = self.trainer.version
            if ended := self._ended(step):
                break
            await self._evaluate(is_last=False)
            started = time.monotonic()
            rollout = await self._rollout(step)
            self.observers.progress.phase(f"step {step}: training")
            trained = await self.trainer.train(self.journal.step_path(step))
            rows = read_step(self.journal.step_path(step))
            self._alarm(step, rows)
            self._record(
                step, {**summarize(rows), **rollout, **trained, "seconds_step": time.monotonic() - started}
            )
            self._tell_saved()
            if self.trainer.version % self.recipe.checkpoint.every == 0:
                await self._save()
        else:
            ended = "steps"
        if self._saved_version != self.trainer.version:
            await self._save()
        await self._settle()
        await self._evaluate(is_last=True)
        return ended

    def _alarm(self, step: int, rows: Sequence[Row]) -> None:
        """Say so when many responses could not be judged: what the policy learns from is then not what it did."""
        self._warn(f"step {step}", error_alarm(rows, self.recipe.reward.alarm_error_share))

    def _warn(self, where: str, warning: str | None) -> None:
        if warning is not None:
            self._event("reward_errors", where=where, text=warning)
            self.observers.progress.say(f"{where}: warning: {warning}")

    def _ended(self, step: int) -> str | None:
        """What ends the run before this step; a stage that ends goes over to the next one here."""
        if self.rollouts is None or self.journal.is_closed(step):
            return None
        curriculum, store = self.rollouts.curriculum, self.rollouts.store
        if self.recipe.budget_tokens is not None and curriculum.response_tokens >= self.recipe.budget_tokens:
            return "budget"
        requested = store.is_requested(curriculum.stage_name)
        switch = None if self.journal.open_paths(step) else curriculum.due_switch(requested)
        if switch is not None:
            store.record_switch(switch)
            curriculum.switch(switch)
            self._event("stage", **asdict(switch))
            self.observers.progress.say(
                f"stage {switch.stage} ends before step {step} ({switch.cause}: "
                f"{', '.join(f'{name} {value:.4g}' for name, value in switch.numbers.items())}); "
                + (f"now stage {switch.to}" if switch.to is not None else "it was the last")
            )
        return "curriculum" if curriculum.ended else None

    async def _rollout(self, step: int) -> dict[str, float]:
        """Make sure that the step is closed in the journal; a step that already is costs nothing."""
        if self.rollouts is None:
            return {}
        if self.journal.is_closed(step):
            # The curriculum stands at the journal's end; of steps before it the record was written before.
            is_last = self.rollouts.curriculum.steps == step + 1
            return pool_metrics(self.rollouts.curriculum) if is_last else {}
        timings = await self._exchange(self.rollouts)
        started = time.monotonic()
        curriculum = self.rollouts.curriculum
        recipe, stage = self.recipe.at_stage(curriculum.stage_name), curriculum.stage_name
        self.observers.progress.phase(f"step {step}, stage {stage}: sampling {recipe.samples_per_step} responses")
        draws = StepDraws(curriculum, self.rollouts.store.open_groups(step))
        prompts = partial(self._prompts, step, self.rollouts, draws)
        tokens = 0
        async for group in self.rollouts.collector.groups(prompts, recipe):
            rows = rows_of(group, step, stage)
            self.journal.append(rows, [response.generation.routed_experts for response in group.responses])
            draws.record(outcome_of(rows))
            tokens += sum(row.response_length for row in rows)
        self.journal.close(step, len(draws.outcomes), draws.trained())
        draws.close()
        for pool in draws.began:
            self._event("epoch", step=step, stage=stage, **asdict(pool), size=pool.size)
        seconds = time.monotonic() - started
        return (
            timings
            | pool_metrics(curriculum)
            | {"seconds_rollout": seconds, "tokens_per_second": tokens / seconds}
        )

    def _prompts(self, step: int, rollouts: Rollouts, draws: StepDraws) -> list[Prompt]:
        """What the step wants sampled now."""
        return [
            Prompt(
                drawn.number,
                drawn.source,
                drawn.epoch,
                rollouts.problems[drawn.source][drawn.index],
                rollouts.prompts[drawn.source][drawn.index],
                f"step-{step}-{drawn.number}",
            )
            for drawn in draws.draw()
        ]

    async def _exchange(self, rollouts: Rollouts) -> dict[str, float]:
        """Bring the engines to the trainer's version."""
        if rollouts.served_version == self.trainer.version:
            return {"seconds_sync": 0.0}
        self.observers.progress.phase(f"exchanging weights, version {self.trainer.version}")
        exchange = await rollouts.path.exchange()
        rollouts.served_version = self.trainer.version
        return {"seconds_sync": exchange.seconds, "sync_bytes": float(exchange.bytes)}

    async def _evaluate(self, is_last: bool) -> None:
        """Held-out accuracy of the present version when it is due, unless the run already knows it."""
        if self.rollouts is None or self.rollouts.held_out is None:
            return
        held_out, version, every = self.rollouts.held_out, self.trainer.version, self.recipe.evaluation.every
        if not (is_last or version == 0 or (every is not None and version % every == 0)):
            return
        found = held_out.recorded(version)
        if found is None:
            await self._exchange(self.rollouts)
            self.observers.progress.phase(f"held-out accuracy of weight version {version}")
            found = await held_out.measure(self.rollouts.collector, version)
            self._event("evaluation", weight_version=version, **found)
            self._warn(f"held-out accuracy of weight version {version}", held_out.warning)
        before = held_out.recorded(0) if version else None
        gained = f", before training {before['accuracy']:.1%}" if before is not None else ""
        self.observers.progress.say(
            f"held-out accuracy at weight version {version}: {found['accuracy']:.1%}{gained}"
        )

    async def _save(self) -> None:
        """Begin to write a checkpoint; training goes on while it is written."""
        self.observers.progress.phase("saving a checkpoint")
        version, curriculum = self.trainer.version, None
        if self.rollouts is not None and self.rollouts.curriculum.steps == version:
            digest = self.rollouts.store.save(self.rollouts.curriculum)
            curriculum = CurriculumState(steps=version, xxh3_128=digest)
        await self.trainer.save(self.provenance.facts(version, curriculum))
        self._saved_version = version

    async def _settle(self) -> None:
        """Wait for the last checkpoint: the run's end is its own proof."""
        await self.trainer.settle()
        self._tell_saved()

    def _tell_saved(self) -> None:
        told = self.trainer.take_saved()
        for saved in told:
            self._event("checkpoint", **saved)
        if told and not self.recipe.trainer.experts.keep_routing:
            self.journal.drop_experts(before=self.provenance.oldest_version())

    def _record(self, step: int, values: dict[str, float]) -> None:
        self.observers.metrics.record(step, values)
        self.observers.progress.step(step, values)

    def _event(self, name: str, **values: object) -> None:
        self.observers.events.write({"event": name, **values})

    def _tell_start(self, steps: int) -> None:
        """Say what a restarted run begins with; raises SrpoError when its journal has lost steps."""
        version, closed = self.trainer.version, self.journal.closed_steps()
        if version > len(closed):
            raise SrpoError(
                f"{self.journal.root}: holds {len(closed)} steps, but the newest checkpoint is of step {version}; "
                "restore the missing step files, or remove the checkpoints that are newer than them"
            )
        replayed = [step for step in closed if version <= step < steps]
        broken = self.trainer.broken_checkpoints
        self._event(
            "start",
            weight_version=version,
            closed_steps=len(closed),
            replayed_steps=len(replayed),
            broken_checkpoints=broken,
        )
        for problem in broken:
            self.observers.progress.say(f"warning: {problem}; checkpoint.fall_back lets the run go on without it")
        if self.rollouts is not None:
            self._tell_restored(self.rollouts.restored)
        if version or closed:
            origin = f"checkpoint step-{version:06d}, checksums right" if version else "no checkpoint yet"
            opened = len(self.journal.open_paths(len(closed)))
            begun = f"; step {len(closed)} has {opened} groups already" if opened else ""
            self.observers.progress.say(
                f"going on from weight version {version} ({origin}); {_replayed(replayed)}{begun}"
            )

    def _tell_restored(self, restored: Restored) -> None:
        """Say how the curriculum came back, and which prompts have come and gone since."""
        self._event("curriculum", snapshot_steps=restored.from_snapshot, folded_steps=restored.folded)
        for source, (added, removed) in restored.changed.items():
            if added or removed:
                self._event("data", source=source, added=added, removed=removed)
                self.observers.progress.say(
                    f"data.train.{source} has changed since this run's last checkpoint: {added} prompts added, "
                    f"{removed} removed; added ones join the present epoch"
                )


def _replayed(steps: Sequence[int]) -> str:
    if not steps:
        return "no recorded step is left to be replayed"
    if len(steps) == 1:
        return f"recorded step {steps[0]} is replayed, not sampled"
    return f"{len(steps)} recorded steps ({steps[0]} to {steps[-1]}) are replayed, not sampled"
