"""What a spread wastes, in written-out numbers."""

from __future__ import annotations

import pytest

from megatron_srpo.actor.batch import Packing
from megatron_srpo.actor.spread import Spread


def test_metrics() -> None:
    plan = [[[0, 1], [2], [4]], [[3], [], [5]]]
    spread = Spread(plan, lengths=[3, 5, 4, 8, 2, 2], costs=[1.0, 3.0, 2.0, 4.0, 0.5, 1.5])
    found = spread.metrics(16, Packing())
    assert found == {
        "microbatches": 3.0,
        "microbatch_fill": 24 / (2 * 3 * 16),
        "padding": 1 / 24,  # the microbatch without samples
        "rank_imbalance": pytest.approx(6.5 / 6 - 1),
        "microbatch_imbalance": pytest.approx((4 + 2 + 1.5) / 6 - 1),
    }


def test_padding_of_sequences_and_microbatches() -> None:
    """Two context ranks: sequences to multiples of 4, and microbatches to 2 x 8."""
    spread = Spread(plan=[[[0, 1]]], lengths=[3, 5], costs=[1.0, 1.0])
    assert spread.metrics(16, Packing(8, 0, 2))["padding"] == (16 - 8) / 8
    assert spread.metrics(16, Packing(1, 0, 2))["padding"] == (12 - 8) / 8
