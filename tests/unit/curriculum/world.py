"""A simulated run: real `Curriculum` and `StepDraws`, made-up results, and a crash wherever one is wanted.

`simulate` does what the controller does with them; `Trace` is what came of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.draws import StepDraws
from megatron_srpo.curriculum.outcomes import GroupOutcome
from megatron_srpo.curriculum.pool import EpochPool
from megatron_srpo.curriculum.stages import Switch
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.schema import Recipe

SAMPLES = 4
Ids = Mapping[str, Sequence[str]]
State = dict[str, NDArray[Any]]


def build_recipe(
    sources: Sequence[str] = ("a",), prompts_per_step: int = 4, seed: int = 0, **curriculum: object
) -> Recipe:
    """A recipe of which only the curriculum matters."""
    return Recipe.model_validate(
        {
            "name": "world",
            "seed": seed,
            "steps": 1000,
            "model": {"path": "none"},
            "data": {"train": dict.fromkeys(sources, "none")},
            "rollout": {"prompts_per_step": prompts_per_step, "samples_per_prompt": SAMPLES},
            "curriculum": curriculum,
        }
    )


def ids_of(sizes: Mapping[str, int]) -> dict[str, list[str]]:
    return {source: [f"{source}{index}" for index in range(size)] for source, size in sizes.items()}


@dataclass(frozen=True)
class World:
    """A recipe, its prompts, and how well the policy does on each of them."""

    recipe: Recipe
    ids: Ids
    seed: int = 0
    correct: Callable[[str, int, int], int] | None = None

    def outcome(self, step: int, number: int, source: str, epoch: int, prompt: str) -> GroupOutcome:
        """The group's results, a pure function of prompt, epoch, step and seed."""
        correct = (self.correct or self._correct)(prompt, epoch, step)
        reward = correct / SAMPLES - 0.1 * (len(prompt) % 3)
        return GroupOutcome(
            number, source, epoch, prompt, SAMPLES, correct, reward, correct / SAMPLES, 7 + len(prompt)
        )

    def _correct(self, prompt: str, epoch: int, step: int) -> int:
        kind = random.Random(f"{self.seed}/{prompt}").choice(["solved", "hopeless", "learnt", "mixed"])
        if kind == "learnt":
            return SAMPLES if epoch + step > 4 else 1
        if kind == "mixed":
            return random.Random(f"{self.seed}/{prompt}/{epoch}/{step}").randint(0, SAMPLES)
        return SAMPLES if kind == "solved" else 0


class Disk(Protocol):
    """What a run directory keeps, as far as the curriculum is concerned."""

    def restore(self, curriculum: Curriculum) -> None: ...

    def open_groups(self, step: int) -> list[GroupOutcome]: ...

    def append(self, outcome: GroupOutcome, step: int, stage: str) -> GroupOutcome:
        """Returns the outcome as the rows have it that were written."""
        ...

    def close(self, step: int, groups: int, trained: Sequence[int]) -> None: ...

    def record_switch(self, switch: Switch) -> None: ...

    def save(self, curriculum: Curriculum) -> None: ...

    def lose_snapshots(self) -> None: ...


@dataclass
class Memory:
    """A run directory in memory; groups come back in the order in which they were written."""

    closed: list[tuple[str, list[GroupOutcome]]] = field(default_factory=list)
    stage: str = ""
    open: list[GroupOutcome] = field(default_factory=list)
    switches: dict[int, Switch] = field(default_factory=dict)
    snapshots: dict[int, State] = field(default_factory=dict)

    def restore(self, curriculum: Curriculum) -> None:
        if self.snapshots:
            curriculum.load_state_dict(self.snapshots[max(self.snapshots)])
        for stage, outcomes in self.closed[curriculum.steps :]:
            curriculum.replay_step(outcomes, stage)
        switch = self.switches.get(len(self.closed))
        if switch is not None and switch.stage == curriculum.stage_name:
            curriculum.switch(switch)

    def open_groups(self, step: int) -> list[GroupOutcome]:
        assert step == len(self.closed)
        return list(self.open)

    def append(self, outcome: GroupOutcome, step: int, stage: str) -> GroupOutcome:
        assert outcome.number not in {other.number for other in self.open}
        self.open.append(outcome)
        self.stage = stage
        return outcome

    def close(self, step: int, groups: int, trained: Sequence[int]) -> None:
        outcomes = sorted(self.open, key=lambda outcome: outcome.number)
        assert [outcome.number for outcome in outcomes] == list(range(groups))
        self.closed.append((self.stage, outcomes))
        self.open = []

    def record_switch(self, switch: Switch) -> None:
        self.switches[switch.step] = switch

    def save(self, curriculum: Curriculum) -> None:
        self.snapshots[curriculum.steps] = copy_state(curriculum)

    def lose_snapshots(self) -> None:
        self.snapshots.clear()


def copy_state(curriculum: Curriculum) -> State:
    return {name: array.copy() for name, array in curriculum.state_dict().items()}


def assert_same_state(one: State, other: State) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@dataclass
class Step:
    """A closed step: its groups by number, the trained ones, and the state behind it (none: it died before)."""

    stage: str
    groups: dict[int, GroupOutcome]
    trained: list[int]
    state: State | None = None


@dataclass
class Trace:
    """What a run did, and what ended it: steps, curriculum or stop."""

    steps: list[Step] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    began: list[EpochPool] = field(default_factory=list)
    ended: str = "going"

    def drawn(self) -> dict[tuple[str, int], list[str]]:
        """The prompts of every (source, epoch), in the order of their groups."""
        found: dict[tuple[str, int], list[str]] = {}
        for step in self.steps:
            for group in step.groups.values():
                found.setdefault((group.source, group.epoch), []).append(group.prompt_id)
        return found

    def story(self) -> list[tuple[str, dict[int, GroupOutcome], list[int]]]:
        """Everything but the states."""
        return [(step.stage, step.groups, step.trained) for step in self.steps]


class Crashed(Exception):
    """The process is gone, and what it had in memory with it."""


@dataclass
class Chaos:
    """Decides when the process dies, which group ends next, and when snapshots are written and lost."""

    seed: int
    crash: float = 0.15
    snapshot: float = 0.4
    lose: float = 0.4
    in_order: bool = False
    left: int = 30

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def point(self) -> None:
        """A moment at which the process may die."""
        if self.left and self.random.random() < self.crash:
            self.left -= 1
            raise Crashed

    def next_of(self, pending: Sequence[Any]) -> int:
        return 0 if self.in_order else self.random.randrange(len(pending))


def calm() -> Chaos:
    return Chaos(0, crash=0, snapshot=0, in_order=True)


def simulate(world: World, disk: Disk, steps: int, chaos: Chaos | None = None) -> Trace:
    """Run until `steps` steps are closed or the curriculum ends, over all crashes."""
    chaos, trace = chaos or calm(), Trace()
    while trace.ended == "going":
        try:
            process(world, disk, steps, chaos, trace)
        except Crashed:
            if chaos.random.random() < chaos.lose:
                disk.lose_snapshots()
    return trace


def process(world: World, disk: Disk, steps: int, chaos: Chaos, trace: Trace) -> None:
    """One process, from what is on the disk to the end of the run; raises Crashed when it dies before."""
    curriculum = Curriculum(world.recipe, world.ids)
    disk.restore(curriculum)
    while trace.ended == "going":
        _step(world, disk, steps, chaos, curriculum, trace)


def _step(world: World, disk: Disk, steps: int, chaos: Chaos, curriculum: Curriculum, trace: Trace) -> None:
    """What the controller does from one step to the next."""
    step = curriculum.steps
    switch = None if disk.open_groups(step) or step == steps else curriculum.due_switch(requested=False)
    if switch is not None:
        disk.record_switch(switch)
        trace.switches.append(switch)
        chaos.point()
        curriculum.switch(switch)
    if step == steps or curriculum.ended:
        trace.ended = "curriculum" if curriculum.ended else "steps"
        return
    chaos.point()
    draws = StepDraws(curriculum, disk.open_groups(step))
    collect(world, disk, draws, curriculum, chaos)
    try:
        trained = draws.trained()
    except SrpoError:
        trace.ended = "stop"
        return
    chaos.point()
    disk.close(step, len(draws.outcomes), trained)
    trace.steps.append(Step(curriculum.stage_name, dict(sorted(draws.outcomes.items())), trained))
    chaos.point()
    draws.close()
    trace.began += draws.began
    trace.steps[-1].state = copy_state(curriculum)
    if chaos.random.random() < chaos.snapshot:
        disk.save(curriculum)
    chaos.point()


def collect(world: World, disk: Disk, draws: StepDraws, curriculum: Curriculum, chaos: Chaos) -> None:
    """Sample the step's groups, all that are drawn at the same time."""
    pending = draws.draw()
    while pending:
        chaos.point()
        drawn = pending.pop(chaos.next_of(pending))
        prompt = world.ids[drawn.source][drawn.index]
        outcome = world.outcome(curriculum.steps, drawn.number, drawn.source, drawn.epoch, prompt)
        written = disk.append(outcome, curriculum.steps, curriculum.stage_name)
        chaos.point()
        draws.record(written)
        pending += draws.draw()
        assert len(draws.kept) + len(pending) <= draws.wanted  # none is drawn in excess
