"""Which groups a step trains on, and which sources it draws from."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.draws import StepDraws
from megatron_srpo.curriculum.mixture import Mixture
from megatron_srpo.errors import SrpoError
from tests.unit.curriculum.world import (
    SAMPLES,
    Chaos,
    Memory,
    World,
    build_recipe,
    calm,
    collect,
    ids_of,
    simulate,
)
from tests.unit.curriculum.worlds import worlds


@settings(max_examples=100)
@given(worlds(("dynamic",)), st.integers(0, 10**6))
def test_dynamic_trains_on_the_first_mixed_groups(world: World, chaos: int) -> None:
    trace = simulate(world, Memory(), 9, Chaos(chaos))
    options = world.recipe.curriculum.dynamic
    for step in trace.steps:
        wanted = world.recipe.at_stage(step.stage).rollout.prompts_per_step
        mixed = [number for number, group in step.groups.items() if 0 < group.correct < SAMPLES]
        assert len(step.groups) <= max(wanted, int(options.max_draws * wanted))
        assert len(step.trained) == wanted
        if len(mixed) >= wanted:
            assert step.trained == mixed == mixed[:wanted]
            assert len(step.groups) == mixed[-1] + 1  # no group behind the last one that was needed
        else:
            assert options.at_cap == "fill"
            assert len(step.groups) == max(wanted, int(options.max_draws * wanted))
            others = [number for number in step.groups if number not in mixed]
            assert step.trained == sorted(mixed + others[: wanted - len(mixed)])


@settings(max_examples=30)
@given(worlds(("none", "history", "predictive")))
def test_other_strategies_train_on_all(world: World) -> None:
    for step in simulate(world, Memory(), 9).steps:
        wanted = world.recipe.at_stage(step.stage).rollout.prompts_per_step
        assert step.trained == list(step.groups) == list(range(wanted))


def test_stop_at_the_cap() -> None:
    recipe = build_recipe(
        prompts_per_step=3, strategy="dynamic", dynamic={"max_draws": 2, "at_cap": "stop"}, min_pool=1
    )
    world = World(recipe, ids_of({"a": 20}), correct=lambda *_: 0)
    disk = Memory()
    assert simulate(world, disk, 3).ended == "stop"
    assert len(disk.open) == 6
    with pytest.raises(SrpoError, match=r"step 0: 6 groups gave only 0 with mixed results of the 3 wanted"):
        StepDraws(Curriculum(recipe, world.ids), disk.open).trained()


def test_a_cap_lowered_in_mid_step_leaves_no_hole() -> None:
    """What is recorded stays; the groups before it are drawn too."""
    recipe = build_recipe(prompts_per_step=2, strategy="dynamic", dynamic={"max_draws": 4}, min_pool=1)
    world = World(recipe, ids_of({"a": 20}), correct=lambda *_: 0)
    disk = Memory()
    simulate(world, disk, 1)
    recorded = [outcome for outcome in disk.closed[0][1] if outcome.number in (0, 1, 6)]
    lower = build_recipe(prompts_per_step=2, strategy="dynamic", dynamic={"max_draws": 1}, min_pool=1)
    draws = StepDraws(Curriculum(lower, world.ids), recorded)
    assert [drawn.number for drawn in draws.draw()] == [2, 3, 4, 5]


def test_nothing_is_drawn_while_an_epochs_last_group_is_on_its_way() -> None:
    world = World(build_recipe(prompts_per_step=4), ids_of({"a": 3}))
    curriculum = Curriculum(world.recipe, world.ids)
    draws = StepDraws(curriculum, [])
    first = draws.draw()
    assert [drawn.number for drawn in first] == [0, 1, 2]
    for drawn in reversed(first):
        assert draws.draw() == []
        draws.record(world.outcome(0, drawn.number, "a", 0, world.ids["a"][drawn.index]))
    assert [(drawn.number, drawn.epoch) for drawn in draws.draw()] == [(3, 1)]
    assert [(pool.source, pool.epoch) for pool in draws.began] == [("a", 1)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 200))
def test_the_mixture_is_never_off_by_one(weights: list[int], count: int) -> None:
    """|drawn - n x share| of k sources is at most 1 - 1/(2k - 2) after every prompt, in exact numbers."""
    mixture = Mixture({str(number): float(weight) for number, weight in enumerate(weights)})
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    for drawn in range(1, count + 1):
        mixture.next()
        for share, number in zip(shares, mixture.counts.values(), strict=True):
            assert abs(number - drawn * share) <= 1 - Fraction(1, max(1, 2 * len(weights) - 2))


@settings(max_examples=60)
@given(worlds(), st.integers(0, 10**6))
def test_stages_keep_their_mixture(world: World, chaos: int) -> None:
    """Over steps, epochs and crashes: the prompts of a stage follow its shares."""
    trace = simulate(world, Memory(), 9, Chaos(chaos))
    for stage in world.recipe.curriculum.stages:
        weights = world.recipe.mixture(stage)
        sources = [g.source for step in trace.steps if step.stage == stage.name for g in step.groups.values()]
        assert set(sources) <= set(weights)
        for count in range(len(sources) + 1):
            for source, weight in weights.items():
                share = weight / sum(weights.values())
                assert abs(sources[:count].count(source) - count * share) < 1


def test_a_journal_with_a_prompt_twice_in_an_epoch_is_refused() -> None:
    world = World(build_recipe(prompts_per_step=2), ids_of({"a": 4}))
    disk = Memory()
    simulate(world, disk, 2)
    stage, outcomes = disk.closed[0]
    for twice in (0, 1):
        curriculum = Curriculum(world.recipe, world.ids)
        curriculum.replay_step(outcomes, stage)
        with pytest.raises(SrpoError, match=rf"prompt {outcomes[twice].prompt_id} of source a twice in epoch 0"):
            curriculum.record(outcomes[twice])
    curriculum = Curriculum(world.recipe, world.ids)
    simulate(world, disk, 4)
    for stage, outcomes in disk.closed:
        curriculum.replay_step(outcomes, stage)
    with pytest.raises(SrpoError, match="twice in epoch 0, or after its end"):
        curriculum.record(disk.closed[0][1][0])


def test_unknown_sources_and_stages_in_the_journal_are_named() -> None:
    world = World(build_recipe(), ids_of({"a": 4}))
    curriculum = Curriculum(world.recipe, world.ids)
    with pytest.raises(SrpoError, match="groups of source b, which is not in data.train"):
        curriculum.record(world.outcome(0, 0, "b", 0, "b0"))
    with pytest.raises(SrpoError, match="the journal has a stage other; the recipe's are all"):
        curriculum.replay_step([], "other")


def test_collecting_twice_changes_nothing() -> None:
    """A step whose groups are all recorded draws none."""
    world = World(build_recipe(), ids_of({"a": 9}))
    disk, curriculum = Memory(), Curriculum(world.recipe, world.ids)
    draws = StepDraws(curriculum, [])
    collect(world, disk, draws, curriculum, calm())
    again = StepDraws(Curriculum(world.recipe, world.ids), disk.open)
    assert again.draw() == []
    assert again.trained() == draws.trained() == [0, 1, 2, 3]
