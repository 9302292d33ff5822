"""Group-relative advantages (GRPO, arXiv 2402.03300; cut-off rule of SRPO, arXiv 2504.14286).  No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def group_advantages(
    rewards: NDArray[np.float64], cut_off: NDArray[np.bool_], epsilon: float
) -> NDArray[np.float64]:
    """Normalise rewards within each group: (r - mean) / (std + epsilon), population standard deviation.

    rewards: [groups, samples] float64; cut_off: [groups, samples], true where the response hit the length
    limit.  Cut-off responses count in the group's mean and deviation, and get advantage 0 themselves.
    Returns [groups, samples] float64.
    """
    mean = rewards.mean(axis=1, keepdims=True)
    deviation = rewards.std(axis=1, keepdims=True)
    return np.where(cut_off, 0.0, (rewards - mean) / (deviation + epsilon))
