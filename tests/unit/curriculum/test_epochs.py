"""What an epoch draws: every prompt of its pool once, and the pool that the strategy says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.curriculum.outcomes import GroupOutcome
from tests.unit.curriculum.world import (
    SAMPLES,
    Chaos,
    Memory,
    Trace,
    World,
    build_recipe,
    ids_of,
    simulate,
)
from tests.unit.curriculum.worlds import worlds

STEPS = 12


def finished_epochs(trace: Trace) -> Iterator[tuple[str, int, set[str], dict[str, GroupOutcome]]]:
    """(source, epoch, drawn prompts, newest group of each prompt before it) of epochs with one behind them."""
    newest: dict[tuple[str, int], dict[str, GroupOutcome]] = {}
    past: dict[str, dict[str, GroupOutcome]] = {}
    drawn = {epoch: set(prompts) for epoch, prompts in trace.drawn().items()}
    for step in trace.steps:
        for group in step.groups.values():
            newest.setdefault((group.source, group.epoch), dict(past.get(group.source, {})))
            past.setdefault(group.source, {})[group.prompt_id] = group
    for (source, epoch), before in newest.items():
        if (source, epoch + 1) in drawn:
            yield source, epoch, drawn[source, epoch], before


@settings(max_examples=120)
@given(worlds(), st.integers(0, 10**6))
def test_no_prompt_is_drawn_twice_in_an_epoch_and_none_is_lost(world: World, chaos: int) -> None:
    disk = Memory()
    trace = simulate(world, disk, STEPS, Chaos(chaos))
    recorded = [(g.source, g.epoch, g.prompt_id) for _, groups in disk.closed for g in groups]
    assert len(recorded) == len(set(recorded))
    for (source, epoch), prompts in trace.drawn().items():
        assert len(prompts) == len(set(prompts))
        assert epoch == 0 or (source, epoch - 1) in trace.drawn()
    for source, epoch, prompts, before in finished_epochs(trace):
        everything = set(world.ids[source])
        if epoch == 0 or world.recipe.curriculum.strategy in ("none", "dynamic"):
            assert prompts == everything
        assert everything - set(before) <= prompts  # those without a past


def pool_by_hand(world: World, source: str, epoch: int, before: dict[str, GroupOutcome]) -> set[str]:
    """Strategy `history` without easy_pool, prompt by prompt."""
    section = world.recipe.curriculum
    everything, chosen = set(world.ids[source]), set()
    least = section.min_pool or min(world.recipe.rollout.prompts_per_step, max(1, len(everything) // 2))
    back = section.history.readmit_after
    for prompt in everything:
        group = before.get(prompt)
        if group is None or group.correct < SAMPLES or (back is not None and epoch - group.epoch - 1 >= back):
            chosen.add(prompt)
    return chosen if len(chosen) >= least else everything


@settings(max_examples=100)
@given(worlds(("history",)), st.integers(0, 10**6))
def test_history_draws_what_is_not_solved(world: World, chaos: int) -> None:
    options = world.recipe.curriculum.history.model_copy(update={"easy_pool": 0.0})
    curriculum = world.recipe.curriculum.model_copy(update={"history": options})
    world = World(world.recipe.model_copy(update={"curriculum": curriculum}), world.ids, world.seed)
    for source, epoch, prompts, before in finished_epochs(simulate(world, Memory(), STEPS, Chaos(chaos))):
        assert prompts == pool_by_hand(world, source, epoch, before)


def rounds(world: World, count: int) -> list[set[str]]:
    """The prompts of the first epochs of source a."""
    steps = count * len(world.ids["a"]) // world.recipe.rollout.prompts_per_step + 1
    drawn = simulate(world, Memory(), steps).drawn()
    return [set(drawn["a", epoch]) for epoch in range(count)]


@pytest.mark.parametrize("readmit_after", [0, 1, 2, 3])
def test_solved_prompts_come_back_after_so_many_epochs(readmit_after: int) -> None:
    recipe = build_recipe(
        prompts_per_step=1, strategy="history", history={"readmit_after": readmit_after}, min_pool=1
    )
    world = World(recipe, ids_of({"a": 6}), correct=lambda prompt, epoch, step: SAMPLES * (prompt == "a0"))
    seen = ["a0" in prompts for prompts in rounds(world, 2 * readmit_after + 3)]
    period = readmit_after + 1
    assert seen == [epoch % period == 0 for epoch in range(len(seen))]


def test_easy_pool_draws_its_share_anew_in_every_epoch() -> None:
    recipe = build_recipe(prompts_per_step=8, strategy="history", history={"easy_pool": 0.25})
    world = World(recipe, ids_of({"a": 1200}), correct=lambda p, e, s: SAMPLES if int(p[1:]) < 1000 else 1)
    first, second, third = ({p for p in prompts if int(p[1:]) < 1000} for prompts in rounds(world, 3))
    assert len(first) == 1000
    assert 200 < len(second) < 300
    assert 200 < len(third) < 300
    assert 30 < len(second & third) < 100


@pytest.mark.parametrize("at_min_pool", ["readmit", "end_stage"])
def test_everything_solved(at_min_pool: str) -> None:
    """The whole source comes back, and with end_stage the stage ends with that step."""
    recipe = build_recipe(
        prompts_per_step=4,
        strategy="history",
        at_min_pool=at_min_pool,
        stages=[{"name": "one", "end": {"steps": 100}}, {"name": "two"}],
    )
    world = World(recipe, ids_of({"a": 6}), correct=lambda *_: SAMPLES)
    trace = simulate(world, Memory(), 9)
    sizes = [len(prompts) for prompts in trace.drawn().values()]
    began = [(p.epoch, p.chosen, p.readmitted, p.size) for p in trace.began]
    assert began == [(epoch, 0, True, 6) for epoch in range(1, len(sizes))]
    switches = [(s.step, s.stage, s.to, s.cause) for s in trace.switches]
    if at_min_pool == "readmit":
        assert not switches
        assert sizes == [6] * 6
    else:
        # Epoch 1 begins in step 1; after the switch epoch 2 does in step 3, which ends the run.
        assert switches == [(2, "one", "two", "min_pool"), (4, "two", None, "min_pool")]
        assert sizes == [6, 6, 4]


@pytest.mark.parametrize(("size", "per_step"), [(1, 1), (1, 4), (2, 5), (5, 4)])
def test_a_step_over_the_end_of_an_epoch(size: int, per_step: int) -> None:
    world = World(build_recipe(prompts_per_step=per_step), ids_of({"a": size}))
    trace = simulate(world, Memory(), 6, Chaos(1))
    groups = [(group.epoch, group.prompt_id) for step in trace.steps for group in step.groups.values()]
    assert [epoch for epoch, _ in groups] == [number // size for number in range(6 * per_step)]
    assert len(set(groups)) == 6 * per_step


def test_the_order_depends_on_seed_source_and_epoch() -> None:
    orders = []
    for seed in (0, 1):
        recipe = build_recipe(("a", "b"), seed=seed)
        trace = simulate(World(recipe, {"a": list("0123456789"), "b": list("0123456789")}), Memory(), 10)
        orders += [tuple(prompts) for prompts in trace.drawn().values()]
    assert len(orders) == len(set(orders)) == 8
