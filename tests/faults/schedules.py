"""Random schedules of strikes, each a function of its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.faults.lives import Strike
from tests.faults.moments import MOMENTS, TIME

# Weights of the victims: the controller's death is everybody's.
VICTIMS = {
    "controller": 4,
    "trainer": 4,
    "engine": 3,
    "trainer guard": 2,
    "engine guard": 1,
    "reward host": 1,
    "reward worker": 2,
}
LONGEST_LIFE_SECONDS = 16.0
LONGEST_DELAY_SECONDS = 0.05
AIMED_SHARE = 0.65


@dataclass(frozen=True)
class Schedule:
    """A run's form and the strikes on it."""

    layout: str
    sync: str
    strikes: tuple[Strike, ...]


def schedule(seed: int, run: int, kills: int) -> Schedule:
    """The schedule of a soak's run; the same numbers give the same one."""
    chance = random.Random(f"{seed}/{run}")
    layout, sync = chance.choice([("tensor", "distributed"), ("data", "disk")])
    return Schedule(layout, sync, tuple(_strike(chance, sync) for _ in range(kills)))


def _strike(chance: random.Random, sync: str) -> Strike:
    [role] = chance.choices(list(VICTIMS), weights=list(VICTIMS.values()))
    moments = [name for name in MOMENTS if sync == "disk" or name != "weights are written for the engines"]
    if chance.random() < AIMED_SHARE:
        return Strike(
            role, chance.choice(moments), chance.uniform(0.0, LONGEST_DELAY_SECONDS), pick=chance.random()
        )
    return Strike(role, TIME, chance.uniform(0.0, LONGEST_LIFE_SECONDS), pick=chance.random())
