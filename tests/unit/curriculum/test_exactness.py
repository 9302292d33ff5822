"""Whatever ends in whatever order and dies whenever: the run draws the same, and knows the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.curriculum.curriculum import Curriculum
from tests.unit.curriculum.folder import Folder
from tests.unit.curriculum.world import Chaos, Memory, Trace, World, assert_same_state, copy_state, simulate
from tests.unit.curriculum.worlds import worlds

STEPS = 9


@settings(max_examples=150)
@given(worlds(), st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.25]))
def test_order_and_crashes_change_nothing(world: World, chaos: int, crash: float) -> None:
    calm = simulate(world, Memory(), STEPS)
    assert_same_run(calm, simulate(world, Memory(), STEPS, Chaos(chaos, crash)))


@settings(max_examples=8)
@given(worlds(), st.integers(0, 10**6))
def test_order_and_crashes_change_nothing_on_a_real_disk(world: World, chaos: int) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        calm = simulate(world, Folder(Path(one)), STEPS // 2)
        assert_same_run(calm, simulate(world, Folder(Path(other)), STEPS // 2, Chaos(chaos)))


def assert_same_run(calm: Trace, wild: Trace) -> None:
    assert wild.ended == calm.ended
    assert wild.story() == calm.story()
    assert wild.switches == calm.switches
    for one, other in zip(calm.steps, wild.steps, strict=True):
        if other.state is not None:
            assert one.state is not None
            assert_same_state(one.state, other.state)


@settings(max_examples=80)
@given(worlds(), st.integers(0, 10**6), st.data())
def test_fold_equals_live_state(world: World, chaos: int, data: st.DataObject) -> None:
    disk = Memory()
    trace = simulate(world, disk, STEPS, Chaos(chaos, crash=0, snapshot=0))
    folded = Curriculum(world.recipe, world.ids)
    states = [copy_state(folded)]
    for (stage, outcomes), step in zip(disk.closed, trace.steps, strict=True):
        folded.replay_step(outcomes, stage)
        states.append(copy_state(folded))
        assert step.state is not None
        assert_same_state(states[-1], step.state)
    start = data.draw(st.integers(0, len(disk.closed)), label="snapshot")
    loaded = Curriculum(world.recipe, world.ids)
    changed = loaded.load_state_dict(states[start])
    assert set(changed.values()) == {(0, 0)}
    assert_same_state(copy_state(loaded), states[start])
    for stage, outcomes in disk.closed[start:]:
        loaded.replay_step(outcomes, stage)
    assert_same_state(copy_state(loaded), states[-1])
    assert loaded.due_switch(False) == folded.due_switch(False)
