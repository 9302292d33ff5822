"""The invariants of microbatch planning, for any lengths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megatron_srpo.actor.packing import plan_microbatches

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(LENGTHS, st.integers(20, 120), st.integers(1, 5), st.integers(1, 4))
def test_invariants(lengths: list[int], max_tokens: int, data_parallel: int, multiple: int) -> None:
    plan = plan_microbatches(lengths, max_tokens, data_parallel, multiple)
    assert len(plan) == data_parallel
    assert all(len(rank) > 0 and len(rank) % multiple == 0 for rank in plan)
    assert len({len(rank) for rank in plan}) == 1, "ranks have different numbers of microbatches"
    members = [i for rank in plan for microbatch in rank for i in microbatch]
    assert sorted(members) == list(range(len(lengths))), "every sample exactly once"
    for rank in plan:
        for microbatch in rank:
            assert len(microbatch) <= 1 or sum(lengths[i] for i in microbatch) <= max_tokens


@given(LENGTHS, st.integers(1, 5))
def test_without_pressure_one_microbatch_a_rank(lengths: list[int], data_parallel: int) -> None:
    plan = plan_microbatches(lengths, 10**6, data_parallel)
    assert all(len(rank) == 1 for rank in plan)
    loads = [sum(lengths[i] for i in rank[0]) for rank in plan]
    assert max(loads) - min(loads) <= max(lengths), "balanced to within one sample"


def test_sample_above_the_limit_is_alone() -> None:
    plan = plan_microbatches([300, 10, 10, 10], 100, 1)
    alone = [microbatch for microbatch in plan[0] if 0 in microbatch]
    assert alone == [[0]]
