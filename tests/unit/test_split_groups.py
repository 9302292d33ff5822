"""Updates take whole groups, and all of them."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_srpo.actor.batch import TrainingSample
from megatron_srpo.actor.step import split_groups

SAMPLES = [TrainingSample(np.array([i]), np.zeros(0, np.float32), 0.0) for i in range(12)]


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_whole_groups_in_order(parts: int) -> None:
    split = split_groups(SAMPLES, 2, parts)
    assert split is not None
    assert [sample for part in split for sample in part] == SAMPLES
    assert {len(part) for part in split} == {12 // parts}


@pytest.mark.parametrize("parts", [4, 5, 12])
def test_groups_are_not_cut(parts: int) -> None:
    assert split_groups(SAMPLES, 2, parts) is None
