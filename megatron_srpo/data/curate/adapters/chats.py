"""Sets made for training: the problem is in a chat message, within instructions on how to answer.

The instructions go.  They ask for a form that is not ours, and near duplicates could not be told from others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from megatron_srpo.data.curate.adapters.answers import bare
from megatron_srpo.data.curate.adapters.functions import with_function
from megatron_srpo.data.curate.adapters.in_out import described_tests
from megatron_srpo.data.curate.adapters.row import Row, kind_of, mapping, notes, number_or_text, text, text_of
from megatron_srpo.data.curate.draft import BadRow, Draft

# What stands before and after problems, found by its beginning and its end.
BEFORE = (
    re.compile(
        r"\s*Solve the following math problem step by step\.\s+"
        r"The last line of your response should be of the form.{1,80}?is the answer to the problem\.\s*",
        re.DOTALL,
    ),
)
AFTER = (
    re.compile(r"Remember to put your answer on its own line after .{0,3}Answer:[^\n]{0,80}\s*\Z", re.IGNORECASE),
    re.compile(r"Present the answer in LaTeX format:\s*\\boxed\{Your answer\}\.?\s*\Z", re.IGNORECASE),
    re.compile(
        r"Write Python code to solve the problem\.\s*Present the code in\s*```python\s*Your code\s*```"
        r"\s*at the end\.[^\n]{0,80}\s*\Z",
        re.IGNORECASE,
    ),
)


def dapo_math(row: Row) -> Draft:
    """DAPO-Math-17k, and its processed form, whose column `solution` has the answer."""
    problem = without_instructions(asked(row, "prompt"))
    reward = mapping(row, "reward_model") if row.get("reward_model") is not None or "solution" not in row else {}
    if reward.get("ground_truth") is not None:
        answer = number_or_text(reward["ground_truth"], "the ground truth")
    else:
        answer = number_or_text(row.get("solution"), "the column solution")
    return Draft("math", problem, bare(answer), meta=_meta(row))


def eurus(row: Row) -> Draft:
    """Eurus-2-RL-Data: mathematics with an answer, and code with tests in the form of APPS."""
    problem = without_instructions(asked(row, "prompt"))
    ability, reward = text(row, "ability").strip().lower(), mapping(row, "reward_model")
    if "ground_truth" not in reward:
        raise BadRow("the column reward_model has no ground_truth.")
    truth = reward["ground_truth"]
    if ability == "math":
        return Draft("math", problem, bare(number_or_text(truth, "the ground truth")), meta=_meta(row))
    if ability == "code":
        tests, function, left_out = described_tests(truth, "the ground truth", "")
        prompt = with_function(problem, function, "") if function else problem
        return Draft("code", prompt, tests=tests, meta=_meta(row) | left_out)
    raise BadRow(f"the ability must be math or code, found {ability[:80]!r}.")


def asked(row: Row, name: str) -> str:
    """What the user says last in a column of chat messages, in JSON text of them, or in plain text."""
    value = row.get(name)
    if isinstance(value, str):
        messages = _messages_in(value)
        if messages is None:
            return text(row, name)
        value = messages
    if not isinstance(value, list):
        return text(row, name)  # which says what is wrong
    said = ""
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise BadRow(f"the column {name} must hold messages with a role, found {kind_of(message)}.")
        if message["role"] == "user":
            said = text_of(message.get("content"), "the content of a message")
    return said


def without_instructions(problem: str) -> str:
    """The problem alone."""
    for before in BEFORE:
        if found := before.match(problem):
            problem = problem[found.end() :]
    for after in AFTER:
        if found := after.search(problem):
            problem = problem[: found.start()]
    return problem.strip()


def _messages_in(value: str) -> list[Any] | None:
    """The messages that a text is JSON of; None for any other text, such as a problem that begins with `[`."""
    if not value.lstrip().startswith("["):
        return None
    try:
        messages = json.loads(value)
    except (ValueError, RecursionError):
        return None
    is_chat = isinstance(messages, list) and any(isinstance(message, Mapping) for message in messages)
    return messages if is_chat else None


def _meta(row: Row) -> dict[str, Any]:
    extra = row.get("extra_info")
    of_extra = notes(extra, {"id": "index", "split": "split"}) if isinstance(extra, Mapping) else {}
    return notes(row, {"source": "data_source"}) | of_extra
