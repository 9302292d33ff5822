"""Prompts that come and go between two starts of a run."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.keys import prompt_keys
from megatron_srpo.errors import SrpoError
from tests.unit.curriculum.world import (
    SAMPLES,
    Chaos,
    Crashed,
    Memory,
    Trace,
    World,
    build_recipe,
    process,
    simulate,
)

POOL = [f"a{number}" for number in range(24)]
subsets = st.sets(st.sampled_from(POOL), min_size=1).map(sorted)


def newest_epoch(disk: Memory) -> int:
    groups = [group for _, closed in disk.closed for group in closed] + disk.open
    return max((group.epoch for group in groups), default=0)


def known(curriculum: Curriculum) -> dict[int, tuple[Any, ...]]:
    """All that is known of every prompt, gone or not, by its key."""
    state = curriculum.pools["a"].state_dict()
    columns = [state[name].tolist() for name in ("last_epoch", "correct", "samples", "successes", "failures")]
    return dict(zip(state["keys"].tolist(), zip(*columns, strict=True), strict=True))


def folded(world: World, disk: Memory) -> Curriculum:
    curriculum = Curriculum(world.recipe, world.ids)
    for stage, outcomes in disk.closed:
        curriculum.replay_step(outcomes, stage)
    return curriculum


@settings(max_examples=120)
@given(
    st.lists(subsets, min_size=2, max_size=5),
    st.sampled_from(["none", "history", "dynamic", "predictive"]),
    st.integers(1, 7),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_nobody_is_drawn_twice_and_all_are_drawn(
    data: list[list[str]], strategy: str, per_step: int, keep: bool, solved: bool, seed: int
) -> None:
    """A process for each data set, which ends or dies somewhere; with snapshots, or folding all."""
    recipe = build_recipe(prompts_per_step=per_step, strategy=strategy)
    disk, drawn = Memory(), set()
    for number, ids in enumerate(data):

        def correct(prompt: str, epoch: int, step: int, ids: list[str] = ids) -> int:
            assert prompt in ids
            assert (epoch, prompt) not in drawn
            drawn.add((epoch, prompt))
            least = SAMPLES if solved else 0
            return random.Random(f"{seed}/{prompt}/{epoch}").randint(least, SAMPLES)

        world = World(recipe, {"a": ids}, correct=correct)
        present, seen = newest_epoch(disk), {prompt for _, prompt in drawn}
        chaos = Chaos(seed + number, crash=0.05, snapshot=0.5 if keep else 0.0, left=1)
        with suppress(Crashed):
            process(world, disk, len(disk.closed) + 6, chaos, Trace())
        if newest_epoch(disk) > present:
            all_of_them = strategy in ("none", "dynamic")
            assert {(present, prompt) for prompt in ids if all_of_them or prompt not in seen} <= drawn
    restored = Curriculum(recipe, {"a": data[-1]})
    disk.restore(restored)
    assert known(restored).items() >= known(folded(world, disk)).items()


@settings(max_examples=60)
@given(subsets, subsets, st.integers(1, 5), st.integers(0, 3), st.booleans(), st.integers(0, 5))
def test_the_others_keep_their_order(
    before: list[str], after: list[str], per_step: int, steps: int, keep: bool, seed: int
) -> None:
    recipe = build_recipe(prompts_per_step=per_step, seed=seed)
    orders = []
    for ids in (before, after):
        disk = Memory()
        simulate(World(recipe, {"a": before}), disk, steps, Chaos(0, crash=0, snapshot=float(keep)))
        trace = simulate(World(recipe, {"a": ids}), disk, steps + 50)
        last = max(epoch for _, epoch in trace.drawn())
        orders.append({e: [p for p in d if p in before and p in after] for (_, e), d in trace.drawn().items()})
        del orders[-1][last]
    for epoch in set(orders[0]) & set(orders[1]):
        assert orders[0][epoch] == orders[1][epoch]


@pytest.mark.parametrize("keep", [True, False])
def test_a_prompt_that_comes_back_is_not_drawn_again_in_its_epoch(keep: bool) -> None:
    recipe, disk = build_recipe(prompts_per_step=4, strategy="history"), Memory()
    drawn = []
    for step, ids in enumerate([POOL, POOL[:12], POOL, POOL, POOL, POOL, POOL]):
        world = World(recipe, {"a": ids}, correct=lambda *_: 1)
        trace = simulate(world, disk, step + 1, Chaos(0, crash=0, snapshot=float(keep)))
        drawn += [group.prompt_id for group in trace.steps[0].groups.values() if group.epoch == 0]
    assert sorted(drawn) == sorted(POOL)
    assert folded(world, disk).pools["a"].epoch == 1


def test_a_fold_over_prompts_that_the_epoch_would_not_choose_any_more() -> None:
    """Everything was solved and readmitted; with the added prompts the epoch would not have been."""
    recipe, disk = build_recipe(prompts_per_step=4, strategy="history"), Memory()
    simulate(World(recipe, {"a": POOL[:6]}, correct=lambda *_: SAMPLES), disk, 2)
    trace = simulate(World(recipe, {"a": POOL[:11]}, correct=lambda *_: 1), disk, 4)
    assert [(group.epoch, group.prompt_id in POOL[6:11]) for group in trace.steps[0].groups.values()] == [
        (1, True)
    ] * 4
    assert [group.epoch for group in trace.steps[1].groups.values()] == [1, 2, 2, 2]
    assert len({group.prompt_id for group in [*trace.steps[0].groups.values(), trace.steps[1].groups[0]]}) == 5


def test_a_pool_passes_over_what_was_recorded_without_being_drawn() -> None:
    pool = Curriculum(build_recipe(), {"a": POOL}).pools["a"]
    drawn = [pool.draw()]
    pool.record(POOL[drawn[0][1]], 0, 1, SAMPLES)
    recorded = next(index for index in range(len(POOL)) if index != drawn[0][1])
    pool.record(POOL[recorded], 0, 1, SAMPLES)
    while (one := pool.draw()) is not None:
        drawn.append(one)
    assert sorted(drawn) == [(0, index) for index in range(len(POOL)) if index != recorded]


def test_a_snapshot_says_what_has_come_and_gone() -> None:
    recipe, disk = build_recipe(prompts_per_step=3), Memory()
    simulate(World(recipe, {"a": POOL}), disk, 1, Chaos(0, crash=0, snapshot=1))
    less = Curriculum(recipe, {"a": [*POOL[4:], "new"]})
    assert less.load_state_dict(disk.snapshots[1]) == {"a": (1, 4)}
    again = Curriculum(recipe, {"a": [*POOL[2:], "new"]})
    assert again.load_state_dict(less.state_dict()) == {"a": (2, 0)}
    assert set(known(again)) == set(prompt_keys([*POOL, "new"]).tolist())


def test_the_same_id_twice_is_refused() -> None:
    for ids in (["x", "y", "x"], pa.array(["x", "y", "x"])):
        with pytest.raises(SrpoError, match="source a: the ids 'x' and 'x' are the same"):
            Curriculum(build_recipe(), {"a": ids})
    with pytest.raises(SrpoError, match="source a: has no prompts"):
        Curriculum(build_recipe(), {"a": []})


def test_a_solved_prompt_that_comes_back_stays_out_as_in_a_fold() -> None:
    """It was away when the epoch began, so the snapshot cannot say whether it was chosen."""
    recipe = build_recipe(prompts_per_step=4, strategy="history", min_pool=1)
    first = Curriculum(recipe, {"a": POOL[:4]})
    for prompt in POOL[:4]:
        first.pools["a"].record(prompt, 0, SAMPLES if prompt == POOL[0] else 1, SAMPLES)
    without = Curriculum(recipe, {"a": POOL[1:4]})
    without.load_state_dict(first.state_dict())
    without.pools["a"].record(POOL[1], 1, 1, SAMPLES)
    again = Curriculum(recipe, {"a": POOL[:5]})
    again.load_state_dict(without.state_dict())
    left = [POOL[one[1]] for one in iter(again.pools["a"].draw, None)]
    assert sorted(left) == sorted(POOL[2:5]), "the solved one stays out, the new one joins"
