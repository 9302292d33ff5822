"""`srpo reward check`: what responses in a file earn, and why."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megatron_srpo.data.problem import Problem
from megatron_srpo.data.problems import NO_ROWS, check_columns, problem_of, read_rows
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.rewards.pool import RewardPool
from megatron_srpo.rewards.sandbox.choice import describe_sandbox
from megatron_srpo.rewards.score import Reward
from megatron_srpo.tasks import gather_or_cancel

REQUIRED = ("response",)
SHOWN = 60  # characters of an answer


def load_pairs(path: Path, limit: int | None) -> list[tuple[Problem, str]]:
    """Problems with a response each, from a file with the columns of problems and `response`.

    The columns `id` and `prompt` may be missing here; a problem is then called by its row.

    Raises:
        SrpoError: naming file, row and column.
    """
    check_columns(path, REQUIRED)
    pairs = []
    for number, values in enumerate(read_rows(path, REQUIRED)[:limit], 1):
        where = f"{path}: row {number}"
        response = values["response"]
        if not isinstance(response, str):
            raise SrpoError(f"{where}, column response: expected text, found {response!r:.80}.")
        known = {name: value for name, value in values.items() if value is not None}
        problem = problem_of({"id": f"row {number}", "prompt": "(not given)", **known}, where)
        pairs.append((problem, response))
    if not pairs:
        raise SrpoError(f"{path}: {NO_ROWS}")
    return pairs


async def score_pairs(section: RewardSection, pairs: Sequence[tuple[Problem, str]]) -> list[Reward]:
    """The reward of each pair, in order."""
    async with RewardPool(section) as pool:
        return await gather_or_cancel(*(pool.score(response, problem) for problem, response in pairs))


def check(path: Path, section: RewardSection, limit: int | None, as_json: bool, console: Console) -> None:
    """Score a file and print a line for each response, then what they have in common."""
    pairs = load_pairs(path, limit)
    if any(problem.tests is not None for problem, _ in pairs):
        level, meaning = describe_sandbox(section.sandbox)
        if not as_json:
            console.print(f"programs run in a sandbox of level {level}: {meaning}")
    rewards = asyncio.run(score_pairs(section, pairs))
    if as_json:
        for (problem, _), reward in zip(pairs, rewards, strict=True):
            print(json.dumps({"id": problem.id, **asdict(reward)}))
        return
    console.print(_table(pairs, rewards))
    _print_summary(rewards, console)


def _table(pairs: Sequence[tuple[Problem, str]], rewards: Sequence[Reward]) -> Table:
    table = Table("problem", "total", "parts", "answer", "why")
    for (problem, _), reward in zip(pairs, rewards, strict=True):
        parts = ", ".join(f"{name} {value:+g}" for name, value in reward.components.items())
        why = f"error: {reward.error}" if reward.error is not None else reward.reason
        answer = " ".join((reward.extracted or "").split())
        answer = answer if len(answer) <= SHOWN else f"{answer[:SHOWN]}..."
        table.add_row(*(escape(text) for text in (problem.id, f"{reward.total:g}", parts, answer, why)))
    return table


def _print_summary(rewards: Sequence[Reward], console: Console) -> None:
    right, errors = sum(reward.accuracy for reward in rewards), Counter(reward.error for reward in rewards)
    del errors[None]
    mean = sum(reward.total for reward in rewards) / len(rewards)
    console.print(
        f"{len(rewards)} responses: {right} right, {errors.total()} could not be judged, mean reward {mean:.3f}"
    )
    for cause, count in errors.most_common(5):
        console.print(f"  {count} times: {cause}", markup=False)
