"""What the responses of a step were like, as metrics.  No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from megatron_srpo.rollout.journal import Row


def summarize(rows: Sequence[Row]) -> dict[str, float]:
    """Means over the samples of a step; `effective_groups` is the share of groups whose rewards differ."""
    groups: dict[int, set[float]] = defaultdict(set)
    for row in rows:
        groups[row.group].add(row.reward)
    return {
        "epoch": float(max(row.epoch for row in rows)),
        "reward": float(np.mean([row.reward for row in rows])),
        "accuracy": float(np.mean([row.accuracy for row in rows])),
        "format_share": float(np.mean([row.format_ok for row in rows])),
        "response_length": float(np.mean([len(row.tokens) for row in rows])),
        "cut_off_share": float(np.mean([row.finish_reason != "stop" for row in rows])),
        "effective_groups": float(np.mean([len(rewards) > 1 for rewards in groups.values()])),
    }
