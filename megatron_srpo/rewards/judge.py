"""One response against its problem: every part of its reward.  Runs in a worker's process."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from megatron_srpo.data.problem import Problem
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import FunctionSection, RewardSection
from megatron_srpo.rewards.answers import extract
from megatron_srpo.rewards.code import CodeJudge
from megatron_srpo.rewards.language import mixing
from megatron_srpo.rewards.math.judge import score_math
from megatron_srpo.rewards.repetition import repetition
from megatron_srpo.rewards.sandbox.choice import open_sandbox
from megatron_srpo.rewards.score import Reward, Score

Function = Callable[..., Any]


class Judge:
    """Everything that a recipe's reward section asks for."""

    def __init__(self, section: RewardSection) -> None:
        """Find the recipe's own functions; raises SrpoError when one is not there."""
        self._section, self.least = section, section.least
        self._judge = load_function("reward.judge", section.judge) if section.judge else None
        self._functions = {
            name: load_function(f"reward.functions.{name}", function)
            for name, function in section.functions.items()
        }
        self._code: CodeJudge | None = None

    def warm_up(self) -> None:
        """Load what judges load with their first response, so that it is there before workers are forked."""
        score_math(r"\boxed{\frac{1}{2}}", "0.5", "boxed", self._section.math)
        score_math(r"\boxed{6}", r"\sum_{k=1}^3 k", "boxed", self._section.math)
        mixing("A few words in one language, which is enough to look at.", self._section.language)

    def reward(self, response: str, problem: Problem) -> Reward:
        """What a response earns; exceptions of judges are the caller's."""
        section = self._section
        score = self._score(response, problem)
        credit = score.accuracy if score.credit is None else score.credit
        components = {"accuracy": credit * section.accuracy}
        reasons = [score.reason]
        if not score.format_ok:
            components["format"] = section.broken_format
        if section.language.penalty:
            found = mixing(response, section.language)
            if found.mixing:
                components["language"] = section.language.penalty
                reasons.append(f"{found.share:.0%} not in {found.main}")
        if section.repetition.penalty:
            share = repetition(response, section.repetition)
            if share >= section.repetition.share:
                components["repetition"] = section.repetition.penalty
                reasons.append(f"{share:.0%} repeated")
        for name, function in self._functions.items():
            of_function = section.functions[name]
            value = _number(f"reward.functions.{name}", function(response, problem, **of_function.arguments))
            components[name] = value * of_function.weight
        return Reward(
            sum(components.values()),
            score.accuracy,
            score.format_ok,
            score.extracted,
            components,
            "; ".join(reason for reason in reasons if reason),
        )

    def _score(self, response: str, problem: Problem) -> Score:
        """Accuracy and form: by the recipe's own judge, by tests, or by the reference answer."""
        section = self._section
        if self._judge is not None and section.judge is not None:
            return self._own_score(response, problem, self._judge, section.judge)
        if problem.tests is None:
            return score_math(response, problem.answer, section.answer_format, section.math)
        if self._code is None:
            sandboxes = (open_sandbox(section.sandbox) for _ in range(2))
            self._code = CodeJudge(section.code, *sandboxes)
        return self._code.score(response, problem.tests, section.answer_format)

    def _own_score(self, response: str, problem: Problem, judge: Function, section: FunctionSection) -> Score:
        """The verdict of the recipe's own judge; the form is judged as ever."""
        found = extract(response, self._section.answer_format)
        credit = _number("reward.judge", judge(response, problem, **section.arguments))
        if not 0 <= credit <= 1:
            raise SrpoError(f"reward.judge: {section.path} returned {credit}, expected 0 to 1")
        return Score(int(credit == 1), found.format_ok, found.answer, f"{section.path} says {credit:g}", credit)


def load_function(key: str, section: FunctionSection) -> Function:
    """The function that a recipe names; raises SrpoError when it is not there."""
    module, name = section.path.split(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of the user's can raise anything
        advice = "; put its folder on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise SrpoError(
            f"{key}: {section.path} cannot be imported ({type(error).__name__}: {error}){advice}"
        ) from None
    if not callable(function):
        raise SrpoError(f"{key}: {section.path} is no function")
    try:
        inspect.signature(function).bind("", None, **section.arguments)
    except TypeError as error:
        given = ", ".join(("response", "problem", *section.arguments))
        raise SrpoError(f"{key}: {section.path} cannot be called with ({given}): {error}") from None
    return function  # type: ignore[no-any-return]


def _number(key: str, value: Any) -> float:
    """What a function of the recipe returned, a finite number."""
    if not isinstance(value, Real) or not math.isfinite(value):
        raise SrpoError(f"{key}: the function returned {value!r:.80}, expected a finite number")
    return float(value)
