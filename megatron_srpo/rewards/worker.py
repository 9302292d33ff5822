"""Workers of the reward pool, and the process that they are forked from.

To start Python with the libraries of mathematics takes seconds, to fork a process that has them milliseconds;
so a worker that had to be killed is replaced at once.  Started as `python -m megatron_srpo.rewards.worker`
with the number of a socket, over which it is sent the recipe's reward section and then asked for workers and
for their end.  When it ends, all workers end.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

from megatron_srpo.data.problem import Problem
from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.guard import PR_SET_PDEATHSIG, prctl_setter
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.rewards import messages
from megatron_srpo.rewards.judge import Judge
from megatron_srpo.rewards.score import Reward, failure

READY, START, KILL = "ready", "start", "kill"
LONGEST_REQUEST = 4096
LONGEST_CAUSE = 300  # characters


def main() -> None:
    """Get ready, say so or why not, and serve until the socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    parent = int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool decides when to end
    prctl_setter()(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it ended before the line above
    section = RewardSection.model_validate_json(control.recv(2**20))
    try:
        judge = Judge(section)
    except SrpoError as error:
        control.send(str(error).encode())
        return
    judge.warm_up()
    gc.collect()
    gc.freeze()  # else every worker copies what it inherits at its first collection
    control.send(READY.encode())
    Nursery(control, judge, section).serve()


class Nursery:
    """Forks workers, kills them when asked, and says how each one ended."""

    def __init__(self, control: socket.socket, judge: Judge, section: RewardSection) -> None:
        self._control, self._judge, self._section = control, judge, section
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._workers: dict[int, tuple[int, int, int]] = {}
        """By the descriptor that tells of a worker's end: its name, its process and where to write how."""

    def serve(self) -> None:
        """Until the socket closes."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._workers:
                    self._bury(descriptor)
                elif not self._answer():
                    return

    def _answer(self) -> bool:
        """One request: `start NAME` with the worker's socket and a pipe, or `kill NAME`; False at the end."""
        try:
            content, descriptors, _, _ = socket.recv_fds(self._control, LONGEST_REQUEST, 2)
        except ConnectionError:
            return False
        if not content:
            return False
        what, name = content.decode().split()
        if what == START:
            self._fork(int(name), *descriptors)
        else:
            for worker, process, _ in self._workers.values():
                if worker == int(name):
                    os.kill(process, signal.SIGKILL)
        return True

    def _fork(self, name: int, connection: int, status: int) -> None:
        process = os.fork()
        if process == 0:
            try:
                self._become_worker(connection, status)
            finally:
                os._exit(1)
        os.close(connection)
        end = os.pidfd_open(process)
        self._workers[end] = (name, process, status)
        self._poll.register(end, select.POLLIN)

    def _become_worker(self, connection: int, status: int) -> None:
        """In the child: only its own socket, its limits, and then its work."""
        prctl_setter()(PR_SET_PDEATHSIG, signal.SIGKILL)
        self._control.close()
        for end, (_, _, other) in self._workers.items():
            os.close(end)
            os.close(other)
        os.close(status)
        # Whatever judges and libraries print is of no use to anybody, and can be gigabytes.
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        memory = self._section.worker_memory_megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with socket.socket(fileno=connection) as own:
            work(own, self._judge)
        os._exit(0)

    def _bury(self, end: int) -> None:
        """Write how a worker ended, as waitpid says it, and forget it."""
        _, process, status = self._workers.pop(end)
        self._poll.unregister(end)
        os.close(end)
        _, code = os.waitpid(process, 0)
        with contextlib.suppress(BrokenPipeError):
            os.write(status, str(code).encode())
        os.close(status)


def work(connection: socket.socket, judge: Judge) -> None:
    """Judge what comes until the socket closes: a problem with responses, or more responses to the same one."""
    problem: Problem | None = None
    while (request := messages.receive(connection)) is not None:
        if request["problem"] is not None:
            problem = messages.problem_of(request["problem"])
        assert problem is not None
        for response in request["responses"]:
            connection.sendall(messages.encode(messages.reward_message(judged(judge, response, problem))))


def judged(judge: Judge, response: str, problem: Problem) -> Reward:
    """The reward, or an error with its cause: whatever a judge raises must not end the run."""
    try:
        return judge.reward(response, problem)
    except Exception as error:  # reported on the sample and counted, see Reward.error
        return failure(cause_of(error), judge.least)


def cause_of(error: BaseException) -> str:
    """The exception and, unless it is our own, where it was raised."""
    text = " ".join(f"{error}".split())[:LONGEST_CAUSE]
    if isinstance(error, SrpoError):
        return text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}, line {frame.lineno})"


if __name__ == "__main__":
    main()
