"""Rewards on other cores: a pool of processes that judges responses, awaited from asyncio.

A judge can hang, crash, eat memory or raise; none of it may end the run or hold up a step.  So every response
has a deadline that is enforced from here: a worker that misses it, or ends, is replaced, the response that it
was busy with gets an error with the cause, and the others are judged all the same.

A caller waits for a free worker, so no more is on its way than there are workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType

from megatron_srpo.data.problem import Problem
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.rewards import messages, worker
from megatron_srpo.rewards.sandbox.remote import GRACE_SECONDS as GRACE_OF_REQUEST
from megatron_srpo.rewards.score import Reward, failure
from megatron_srpo.tasks import gather_or_cancel

SLICE = 4  # responses of one message: few enough that a group of long programs occupies all workers
START_SECONDS = 120.0
GRACE_SECONDS = 1.0  # for a worker that has closed its socket to end, so that we learn why
END_SECONDS = 30.0  # for the kernel to end a killed process
OVERHEAD_SECONDS = 20.0  # of a code problem besides its programs: starting sandboxes, compiling, comparing


class LostError(Exception):
    """A worker is gone or answers nonsense."""


class RewardPool:
    """Worker processes that judge responses; use it with `async with`."""

    def __init__(self, reward: RewardSection) -> None:
        """Prepare the pool, which starts when it is entered.

        Args:
            reward: the recipe's reward section.
        """
        self._reward = reward
        self._nursery = Nursery(reward)
        self._free: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        self._workers = [Worker(self._nursery, name, reward.least) for name in range(reward.workers)]

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


async def check_workers(reward: RewardSection) -> None:
    """Start the process that workers are forked from and end it; raises SrpoError as a pool does at its start."""
    nursery = Nursery(reward)
    await nursery.start()
    await nursery.close()


class Nursery:
    """The process that workers are forked from."""

    def __init__(self, reward: RewardSection) -> None:
        self._reward = reward
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready; raises SrpoError with its reason when it cannot."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", worker.__name__, str(theirs.fileno()), str(os.getpid())]
        with theirs:
            # From this thread, which stays: the kernel ends the child with the thread that has started it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self._control.send(self._reward.model_dump_json().encode())
        self._control.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            answer = await asyncio.wait_for(loop.sock_recv(self._control, worker.LONGEST_REQUEST), START_SECONDS)
        except (TimeoutError, ConnectionError):
            answer = b""
        self._control.settimeout(END_SECONDS)  # a burst of requests may have to wait until it has read some
        if answer != worker.READY.encode():
            await self.close()
            raise SrpoError(answer.decode() or "the reward workers did not start; their last words are above")

    def fork(self, name: int, connection: socket.socket, status: int) -> None:
        """Ask for a worker; raises SrpoError when the process is gone."""
        self._ask(f"{worker.START} {name}", [connection.fileno(), status])

    def kill(self, name: int) -> None:
        """Ask for a worker's end, which `status` then tells."""
        self._ask(f"{worker.KILL} {name}", [])

    def _ask(self, request: str, descriptors: list[int]) -> None:
        assert self._control is not None
        try:
            socket.send_fds(self._control, [request.encode()], descriptors)
        except OSError as error:
            raise SrpoError(
                f"the process that reward workers are forked from is gone ({error}); "
                "look for a lack of memory and start again"
            ) from None

    async def close(self) -> None:
        """End it, and with it all workers."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


class Worker:
    """One worker, replaced when it is lost."""

    def __init__(self, nursery: Nursery, name: int, least: float) -> None:
        self._nursery, self._name, self._least = nursery, name, least
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._status = -1  # a descriptor from which the end of the process can be read
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

    async def _judge(self, responses: Sequence[str], problem: Problem, seconds: float) -> list[Reward]:
        rewards: list[Reward] = []
        try:
            reader = await self._ask(responses, problem)
            for _ in responses:
                rewards.append(await asyncio.wait_for(_receive(reader), seconds))
        except TimeoutError:
            await self._end()
            rewards.append(failure(f"no result within {seconds:g} s", self._least))
        except LostError:
            cause = f"the judge's process was lost: {await self._end(GRACE_SECONDS)}"
            rewards.append(failure(cause, self._least))
        return rewards

    async def _ask(self, responses: Sequence[str], problem: Problem) -> asyncio.StreamReader:
        """Send the responses to the worker, which is started if it is not there."""
        if self._streams is None:
            await self._start()
        assert self._streams is not None
        reader, writer = self._streams
        known = problem is self._problem
        self._problem = problem
        request = {"problem": None if known else messages.problem_message(problem), "responses": list(responses)}
        writer.write(messages.encode(request))
        try:
            await writer.drain()
        except ConnectionError:
            raise LostError from None
        return reader

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        status, tell = os.pipe()
        try:
            try:
                with theirs:
                    self._nursery.fork(self._name, theirs, tell)
            finally:
                os.close(tell)
            self._streams = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()  # at which the worker, if there is one, ends
            os.close(status)
            raise
        self._status = status

    async def _end(self, grace: float = 0.0) -> str:
        """Have the process killed, unless it ends by itself in time, and wait until it is gone; how it ended."""
        code = await _read(self._status, grace)
        if not code:
            self._nursery.kill(self._name)
            code = await _read(self._status, END_SECONDS)
        self._forget()
        return _ending(int(code)) if code else "nobody knows how"

    def close(self) -> None:
        """Have the process killed, if there is one, without waiting for it."""
        if self._streams is not None:
            with contextlib.suppress(SrpoError):  # then it has ended with the process that it was forked from
                self._nursery.kill(self._name)
            self._forget()

    def _forget(self) -> None:
        assert self._streams is not None
        self._streams[1].close()
        os.close(self._status)
        self._streams, self._status, self._problem = None, -1, None


async def _read(descriptor: int, seconds: float) -> bytes:
    """What a pipe holds, as soon as it holds something or has ended; nothing after the seconds."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), seconds)
        return os.read(descriptor, 32)
    except TimeoutError:
        return b""
    finally:
        loop.remove_reader(descriptor)


def _ending(code: int) -> str:
    """What the result of waitpid means."""
    if os.WIFSIGNALED(code):
        return f"ended by {signal.Signals(os.WTERMSIG(code)).name}"
    return f"ended with exit code {os.waitstatus_to_exitcode(code)}"


async def _receive(reader: asyncio.StreamReader) -> Reward:
    """The next reward; raises LostError where there is none."""
    try:
        header = await reader.readexactly(messages.LENGTH_BYTES)
        content = await reader.readexactly(messages.size_of(header))
        return messages.reward_of(json.loads(content))
    except (asyncio.IncompleteReadError, ConnectionError, ValueError, TypeError):
        raise LostError from None
