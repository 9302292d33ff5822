"""Responses with programs, tests for them, and a sandbox that runs nothing."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import Any

from megatron_srpo.data.code_tests import CodeTests, parse_tests
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Program

ADD = "def f(a, b): return a + b"


def response(program: str) -> str:
    """A response in the form `think_answer`."""
    return f"<think>Hm.</think> <answer>\n```python\n{program}\n```\n</answer>"


def calls(*cases: Any, **more: Any) -> CodeTests:
    """Tests of calls: [[argument, ...], expected] each."""
    return parse_tests(json.dumps({"kind": "call", "function": "f", "cases": cases, **more}), "here")


def runs(*cases: Any, **more: Any) -> CodeTests:
    """Tests of whole runs: [standard input, standard output] each."""
    return parse_tests(json.dumps({"kind": "stdio", "cases": cases, **more}), "here")


def ok(*outputs: str | bytes) -> list[CaseResult]:
    """Results of cases that ended in order."""
    return [CaseResult("ok", text.encode() if isinstance(text, str) else text, "") for text in outputs]


class FakeSandbox:
    """Gives the results it is told to give, and keeps what it was asked and how many were taken."""

    level = "fake"

    def __init__(self, results: Sequence[CaseResult] = ()) -> None:
        self.results = results
        self.asked: list[tuple[Program, Limits]] = []
        self.taken = 0
        self.stopped = 0

    def run(self, program: Program, limits: Limits) -> Generator[CaseResult, None, None]:
        self.asked.append((program, limits))
        try:
            for result in self.results:
                self.taken += 1
                yield result
        finally:
            self.stopped += 1

    def close(self) -> None:
        pass
