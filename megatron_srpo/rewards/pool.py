"""Rewards on other cores: a pool of processes that scores whole groups, awaited from asyncio."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.guard import PR_SET_PDEATHSIG, prctl_setter
from megatron_srpo.recipe.schema import RewardSection
from megatron_srpo.rewards.math import AnswerFormat, Score, score_math


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

    async def score(self, response: str, gold: str) -> Reward:
        """The reward of one response; see `score_group`."""
        return (await self.score_group([response], gold))[0]

    async def score_group(self, responses: Sequence[str], gold: str) -> list[Reward]:
        """The rewards of all responses to one prompt, in order; one message to a worker and one back.

        Raises:
            SrpoError: when a worker process died, for instance for lack of memory.
        """
        call = (list(responses), gold, self._reward.answer_format)
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self._executor, _score_all, *call)
        except BrokenProcessPool:
            raise SrpoError(
                f"a reward worker (one of reward.workers {self._reward.workers}) died while it scored "
                f"responses to a problem with the answer {gold!r}; look for a lack of memory and start again."
            ) from None
        return [reward_of(score, self._reward) for score in scores]

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
    """Set a fresh worker up: no SIGINT, no log line for every answer that took too long.

    A worker waits on a pipe whose other end its siblings hold too, so it would not notice that the parent has
    been killed: the kernel tells it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prctl_setter()(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent died before the line above
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def _score_all(responses: list[str], gold: str, answer_format: AnswerFormat) -> list[Score]:
    """Runs in a worker, in its main thread."""
    return [score_math(response, gold, answer_format) for response in responses]
