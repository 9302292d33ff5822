"""Rewards on other cores: a pool of processes that judges responses, awaited from asyncio.

A judge can hang, crash, eat memory or raise; none of it may end the run or hold up a step.  So every response
has a deadline that is enforced from here: a worker that misses it, or ends twice with the same response, is
replaced, the response that it was busy with gets an error with the cause, and the others are judged all the same.

A caller waits for a free worker, so no more is on its way than there are workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

from megatron_srpo.data.problem import Problem
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.rewards import worker
from megatron_srpo.rewards.messages import problem_message, reward_of
from megatron_srpo.rewards.sandbox.remote import GRACE_SECONDS as GRACE_OF_REQUEST
from megatron_srpo.rewards.score import Reward, failure
from megatron_srpo.tasks import gather_or_cancel
from megatron_srpo.workers.host import GRACE_SECONDS, LostError, Nursery, Order, Worker

SLICE = 4  # responses of one message: few enough that a group of long programs occupies all workers
OVERHEAD_SECONDS = 20.0  # of a code problem besides its programs: starting sandboxes, compiling, comparing


class RewardPool:
    """Worker processes that judge responses; use it with `async with`."""

    def __init__(self, reward: RewardSection) -> None:
        """Prepare the pool, which starts when it is entered.

        Args:
            reward: the recipe's reward section.
        """
        self._reward = reward
        self._nursery = Nursery(order_of(reward))
        self._free: asyncio.LifoQueue[RewardWorker] = asyncio.LifoQueue()
        self._workers = [RewardWorker(Worker(self._nursery, name), reward.least) for name in range(reward.workers)]

    async def __aenter__(self) -> RewardPool:
        """Start it; raises SrpoError when it cannot start or the recipe names functions that are not there."""
        await self._nursery.start()
        for one in self._workers:
            self._free.put_nowait(one)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes, whatever they are doing."""
        for one in self._workers:
            one.close()
        await self._nursery.close()

    async def score(self, response: str, problem: Problem) -> Reward:
        """The reward of one response; see `score_group`."""
        return (await self.score_group([response], problem))[0]

    async def score_group(self, responses: Sequence[str], problem: Problem) -> list[Reward]:
        """The rewards of all responses to one problem, in order.

        A response that cannot be judged has `error` set.  A cancelled call leaves nothing running.

        Raises:
            SrpoError: when workers cannot be started any more.
        """
        slices = [responses[start : start + SLICE] for start in range(0, len(responses), SLICE)]
        rewards = await gather_or_cancel(*(self._score(part, problem) for part in slices))
        return [reward for of_slice in rewards for reward in of_slice]

    async def _score(self, responses: Sequence[str], problem: Problem) -> list[Reward]:
        one = await self._free.get()
        try:
            rewards: list[Reward] = []
            while len(rewards) < len(responses):
                rewards += await one.judge(responses[len(rewards) :], problem, self._deadline(problem))
            return rewards
        finally:
            self._free.put_nowait(one)

    def _deadline(self, problem: Problem) -> float:
        """Seconds for one response to a problem."""
        reward = self._reward
        own = sum(function.seconds for function in reward.functions.values())
        if reward.judge is not None:
            return own + reward.judge.seconds
        if problem.tests is None:
            return own + reward.math.seconds
        if reward.sandbox.backend == "sandbox_fusion":
            # One request after the other, each asked again while there is no answer.
            requests = len(problem.tests.inputs) * (reward.sandbox.retries + 1)
            own += requests * (GRACE_OF_REQUEST + reward.code.seconds * reward.code.patience)
        # A checker may take as long for each case as the program.
        programs = 1 + (len(problem.tests.inputs) if problem.tests.checker is not None else 0)
        return own + reward.code.program_seconds * reward.code.patience * programs + OVERHEAD_SECONDS


def order_of(reward: RewardSection) -> Order:
    """What the pool's workers do."""
    return Order(
        f"{worker.__name__}:{worker.make_work.__name__}",
        reward.model_dump(mode="json"),
        reward.worker_memory_megabytes * 2**20,
        "reward workers",
    )


async def check_workers(reward: RewardSection) -> None:
    """Start the process that workers are forked from and end it; raises SrpoError as a pool does at its start."""
    nursery = Nursery(order_of(reward))
    await nursery.start()
    await nursery.close()


class RewardWorker:
    """One worker of the pool."""

    def __init__(self, worker: Worker, least: float) -> None:
        self._worker, self._least = worker, least
        self._problem: Problem | None = None

    async def judge(self, responses: Sequence[str], problem: Problem, seconds: float) -> list[Reward]:
        """The rewards of the responses, up to and with the first that the worker was lost with.

        Args:
            responses: texts of one problem.
            problem: what they answer.
            seconds: time for each.
        """
        try:
            return await self._judge(responses, problem, seconds)
        except BaseException:  # as when the caller is cancelled: what it is busy with, nobody will fetch
            self.close()
            raise

    async def _judge(
        self, responses: Sequence[str], problem: Problem, seconds: float, is_repeated: bool = False
    ) -> list[Reward]:
        rewards: list[Reward] = []
        try:
            await self._ask(responses, problem)
            for _ in responses:
                rewards.append(await asyncio.wait_for(self._receive(), seconds))
        except TimeoutError:
            await self._worker.end()
            rewards.append(failure(f"no result within {seconds:g} s", self._least))
        except LostError:
            ending = await self._worker.end(GRACE_SECONDS)
            if not is_repeated:
                # The kernel may have killed it for want of memory: a reward must not depend on that.
                lost_with = responses[len(rewards) :][:1]
                return rewards + await self._judge(lost_with, problem, seconds, is_repeated=True)
            rewards.append(failure(f"the judge's process was lost: {ending}", self._least))
        return rewards

    async def _ask(self, responses: Sequence[str], problem: Problem) -> None:
        """Send the responses, and the problem unless the worker has it from the last time."""
        known = self._worker.runs and problem is self._problem
        self._problem = problem
        await self._worker.ask(
            {"problem": None if known else problem_message(problem), "responses": list(responses)}
        )

    async def _receive(self) -> Reward:
        """The next reward; raises LostError where there is none."""
        try:
            return reward_of(await self._worker.receive())
        except TypeError:
            raise LostError from None

    def close(self) -> None:
        """Have the process killed, if there is one, without waiting for it."""
        self._worker.close()
