"""Rewards on other cores: a pool of processes that scores whole groups, awaited from asyncio."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.guard import PR_SET_PDEATHSIG, prctl_setter
from megatron_srpo.recipe.reward import AnswerFormat, MathSection
from megatron_srpo.recipe.schema import RewardSection
from megatron_srpo.rewards.code import score_code
from megatron_srpo.rewards.math import score_math
from megatron_srpo.rewards.sandbox import Limits
from megatron_srpo.rewards.score import Score

if TYPE_CHECKING:
    # Only for its name: workers start without the tokenizer.
    from megatron_srpo.data.problems import Problem


@dataclass(frozen=True)
class Reward:
    """What one response earned, and why."""

    total: float
    accuracy: int
    format_ok: bool
    extracted: str | None


def reward_of(score: Score, reward: RewardSection) -> Reward:
    """`accuracy` for a right answer, plus `broken_format` when the form is wrong."""
    total = score.accuracy * reward.accuracy + (0.0 if score.format_ok else reward.broken_format)
    return Reward(total, score.accuracy, score.format_ok, score.extracted)


class RewardPool:
    """Worker processes that score responses.  Use it with `async with`, or call `close`.

    Workers are spawned, not forked, as the parent may hold threads and sockets, and they ignore SIGINT:
    the parent decides when to end.
    """

    def __init__(self, reward: RewardSection) -> None:
        """Prepare the pool; workers start with the first call.

        Args:
            reward: the recipe's reward section, with the number of workers.
        """
        self._reward = reward
        self._executor = ProcessPoolExecutor(
            reward.workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(os.getpid(),),
        )

    async def score(self, response: str, problem: Problem) -> Reward:
        """The reward of one response; see `score_group`."""
        return (await self.score_group([response], problem))[0]

    async def score_group(self, responses: Sequence[str], problem: Problem) -> list[Reward]:
        """The rewards of all responses to one problem, in order; one message to a worker and one back.

        A problem with tests is judged by them, any other by its reference answer.

        Raises:
            SrpoError: when a worker process died, for instance for lack of memory, or cannot run programs.
        """
        reward = self._reward
        limits = Limits(reward.code_seconds, reward.code_memory_megabytes)
        judge = problem.answer if problem.tests is None else problem.tests
        call = (list(responses), judge, reward.answer_format, limits)
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self._executor, _score_all, *call)
        except BrokenProcessPool:
            raise SrpoError(
                f"a reward worker (one of reward.workers {reward.workers}) died while it scored "
                f"responses to the problem {problem.id}; look for a lack of memory and start again."
            ) from None
        return [reward_of(score, reward) for score in scores]

    async def close(self) -> None:
        """Drop waiting calls, let running ones end, and wait for the workers to be gone."""
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)

    async def __aenter__(self) -> RewardPool:
        """The pool itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        await self.close()


def _start_worker(parent: int) -> None:
    """Set a fresh worker up: no SIGINT.

    A worker waits on a pipe whose other end its siblings hold too, so it would not notice that the parent has
    been killed: the kernel tells it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl_setter()(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the line above


def _score_all(
    responses: list[str], judge: str | CodeTests, answer_format: AnswerFormat, limits: Limits
) -> list[Score]:
    """Runs in a worker, in its main thread; `judge` is a reference answer, or the tests of a program."""
    if isinstance(judge, CodeTests):
        return score_code(responses, judge, answer_format, limits)
    return [score_math(response, judge, answer_format, MathSection()) for response in responses]
