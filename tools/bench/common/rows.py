"""Rows of the journal for benchmarks.  No torch: the benchmark of the curriculum measures its memory."""

from __future__ import annotations

from typing import Any

from megatron_srpo.rollout.journal import Row


def bench_row(group: int, sample: int, accuracy: float, **changes: Any) -> Row:
    """A row of the journal that is rewarded for its accuracy; `changes` to any of its fields."""
    values: dict[str, Any] = {
        "step": 0,
        "stage": "all",
        "epoch": 0,
        "group": group,
        "sample": sample,
        "prompt_id": f"p{group}",
        "source": "bench",
        "weight_version": 0,
        "trained": True,
        "response_length": 4,
        "prompt_tokens": [1, 2, 3, 4],
        "tokens": [5, 6, 7, 8],
        "log_probs": [-1.0] * 4,
        "text": "",
        "finish_reason": "stop",
        "reward": accuracy,
        "accuracy": accuracy,
        "format_ok": True,
        "extracted": None,
        "components": {},
        "error": None,
    }
    return Row(**values | changes)
