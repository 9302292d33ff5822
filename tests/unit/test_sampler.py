"""Drawing prompts: every prompt once an epoch, restartable anywhere."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from megatron_srpo.curriculum.sampler import EpochSampler


@given(st.integers(1, 30), st.integers(0, 5))
def test_each_prompt_once_an_epoch(size: int, seed: int) -> None:
    draws = EpochSampler(size, seed).draw(0, 3 * size)
    for epoch in range(3):
        assert sorted(d.index for d in draws if d.epoch == epoch) == list(range(size))


@given(st.integers(1, 20), st.integers(0, 100), st.integers(0, 50))
def test_restart_draws_the_same(size: int, position: int, count: int) -> None:
    sampler = EpochSampler(size, 3)
    assert sampler.draw(position, count) == sampler.draw(0, position + count)[position:]


def test_order_depends_on_seed_and_epoch() -> None:
    orders = Counter(
        tuple(d.index for d in EpochSampler(50, seed).draw(50 * epoch, 50)) for seed in (0, 1) for epoch in (0, 1)
    )
    assert len(orders) == 4
