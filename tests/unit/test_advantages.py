"""Group advantages against a plain float64 reference."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from megatron_srpo.actor.advantages import group_advantages


def reference(rewards: list[float], cut_off: list[bool], epsilon: float) -> list[float]:
    mean, deviation = statistics.fmean(rewards), statistics.pstdev(rewards)
    return [0.0 if cut else (r - mean) / (deviation + epsilon) for r, cut in zip(rewards, cut_off, strict=True)]


def test_matches_reference() -> None:
    rng = np.random.default_rng(0)
    rewards, cut_off = rng.normal(size=(7, 5)), rng.random((7, 5)) < 0.3
    got = group_advantages(rewards, cut_off, 1e-6)
    for row, rewards_row, cut_row in zip(got, rewards, cut_off, strict=True):
        assert row == pytest.approx(reference(rewards_row.tolist(), cut_row.tolist(), 1e-6), abs=1e-12)


def test_equal_rewards_give_no_signal() -> None:
    assert not group_advantages(np.ones((2, 4)), np.zeros((2, 4), dtype=bool), 1e-6).any()


def test_cut_off_counts_in_the_mean_but_gets_zero() -> None:
    got = group_advantages(np.array([[1.0, 0.0]]), np.array([[False, True]]), 1e-6)
    assert got[0, 1] == 0.0
    assert got[0, 0] == pytest.approx(1.0, abs=1e-5)
