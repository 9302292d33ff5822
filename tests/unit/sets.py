"""A small set of known content, made by the real curation."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_srpo.data.curate.config import CurateConfig
from megatron_srpo.data.curate.run import curate

EVIL = "What is [bold]1 + 1[/bold]?\x1b[31m Red\x9b2J, \u202edrawkcab."
NOUNS = ("apples", "bricks", "candles", "drums", "eggs", "forks", "grapes", "hats", "irons", "jars", "keys")
TESTS = {"kind": "call", "function": "double", "cases": [[[3], 6], [[5], 10]]}


def story(number: int) -> dict[str, Any]:
    """A problem that is like no other one."""
    noun = NOUNS[number]
    text = f"Anna has {number} {noun} and buys {number + 2} more {noun}; how many {noun} has she now?"
    return {"prompt": text, "answer": str(2 * number + 2), "rules": []}


ALPHA: list[dict[str, Any] | str] = [
    *(story(number) for number in range(10)),  # rows 0 to 9: kept
    {"prompt": EVIL, "answer": "2", "rules": ["duplicate"]},  # 10: kept, wrongly labelled
    {"prompt": "Compute the sum of the first seven odd numbers.", "answer": "49", "rules": ["conflict"]},  # 11
    {"prompt": "Compute the sum of the first seven odd numbers.", "answer": "50", "rules": ["conflict"]},  # 12
    {"prompt": "Give any value that you like best of them all.", "answer": "", "rules": []},  # 13: answer_unread
]
BETA: list[dict[str, Any] | str] = [
    story(10),
    story(4),  # 1: a duplicate of alpha/4
    {
        "prompt": "A train runs 60 miles in one hour; how far does it run in five and a half hours?",
        "answer": "330",
    },
    {
        "prompt": "Write a function double(x) that returns two times x.",
        "domain": "code",
        "tests": json.dumps(TESTS),
        "references": ["def double(x):\n    return 2 * x"],
    },
    "[1, 2]",  # 4: no object
    '{"prompt": "broken \x1b[31m',  # 5: no JSON
]
EVALUATION = [{"prompt": "A train runs 60 miles in one hour; how far does it run in five and a half hours?"}]


def write_lines(path: Path, rows: list[dict[str, Any] | str] | list[dict[str, Any]]) -> Path:
    """Rows as JSON lines; texts are lines already."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def make_set(folder: Path) -> Path:
    """Curate ALPHA and BETA; the set's folder."""
    alpha, beta = write_lines(folder / "alpha.jsonl", ALPHA), write_lines(folder / "beta.jsonl", BETA)
    evaluation = write_lines(folder / "evaluation.jsonl", EVALUATION)
    config = CurateConfig.model_validate(
        {
            "name": "small",
            "out": str(folder / "small"),
            "sources": {"alpha": {"path": str(alpha), "labels": "rules"}, "beta": {"path": str(beta)}},
            "contamination": {"sets": {"trains": {"path": str(evaluation)}}},
            "workers": 1,
            "rules": {"skip": ["encoding"]},  # which would mend what is to be shown as it is
        }
    )
    curate(config, False, Console(file=StringIO()))
    return config.out
