"""What the groups of a step were like, as metrics.  No torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.rollout.journal import Row


def summarize(rows: Sequence[Row]) -> dict[str, float]:
    """Means over the samples of a step and counts of its groups, whole and by source (`name/source`)."""
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    summary = {"epoch": float(max(row.epoch for row in rows)), **_of(rows)}
    for source, of_source in by_source.items():
        summary[f"epoch/{source}"] = float(max(row.epoch for row in of_source))
        summary |= {f"{name}/{source}": value for name, value in _of(of_source).items()}
    return summary


def _of(rows: Sequence[Row]) -> dict[str, float]:
    """`effective_groups` is the share of the sampled groups that move the policy: trained on, and rewards differ.

    `tokens_generated` counts response tokens, `tokens_wasted` those of all other groups; `dropped_*` are groups
    that were sampled and not trained on, by their result.
    """
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    differ = {number for number, group in groups.items() if len({row.reward for row in group}) > 1}
    effective = {number for number in differ if groups[number][0].trained}
    dropped = [group for group in groups.values() if not group[0].trained]
    all_correct = [all(row.accuracy >= 1 for row in group) for group in dropped]
    all_wrong = [all(row.accuracy < 1 for row in group) for group in dropped]
    return {
        "reward": float(np.mean([row.reward for row in rows])),
        "accuracy": float(np.mean([row.accuracy for row in rows])),
        "error_share": float(np.mean([row.error is not None for row in rows])),
        **_components(rows),
        "format_share": float(np.mean([row.format_ok for row in rows])),
        "response_length": float(np.mean([row.response_length for row in rows])),
        "cut_off_share": float(np.mean([row.finish_reason != "stop" for row in rows])),
        "groups": float(len(groups)),
        "effective_groups": len(effective) / len(groups),
        "tokens_generated": float(sum(row.response_length for row in rows)),
        "tokens_wasted": float(sum(row.response_length for row in rows if row.group not in effective)),
        "dropped_all_correct": float(sum(all_correct)),
        "dropped_all_wrong": float(sum(all_wrong)),
    }


def _components(rows: Sequence[Row]) -> dict[str, float]:
    """What each part of the reward adds in the mean, 0 where it is missing."""
    names = sorted({name for row in rows for name in row.components})
    return {f"reward_{name}": float(np.mean([row.components.get(name, 0.0) for row in rows])) for name in names}


def error_alarm(rows: Sequence[Row], limit: float) -> str | None:
    """A warning when the share of responses that could not be judged is above the limit, with its main cause."""
    causes = Counter(row.error for row in rows if row.error is not None)
    if causes.total() <= limit * len(rows):
        return None
    ((cause, count),) = causes.most_common(1)
    return (
        f"{causes.total()} of {len(rows)} responses could not be judged, which earned the least that can be; "
        f"{count} of them: {cause}"
    )


def pool_metrics(curriculum: Curriculum) -> dict[str, float]:
    """The stage's number, the run's response tokens, and every source's pool: its size and what was left out."""
    values = {"stage": float(curriculum.stage), "tokens_total": float(curriculum.response_tokens)}
    for source, pool in curriculum.pools.items():
        values[f"pool/{source}"] = float(pool.pool.size)
        values[f"pool_left_out/{source}"] = float(pool.pool.prompts - pool.pool.size)
    return values
