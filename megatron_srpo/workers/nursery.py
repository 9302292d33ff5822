"""The process that workers are forked from.

To start Python with the libraries of mathematics takes seconds, to fork a process that has them milliseconds;
so a worker that had to be killed is replaced at once.  Started as `python -m megatron_srpo.workers.nursery`
with the number of a socket, over which it is told what its workers do and then asked for workers and for their
end.  When it ends, all workers end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.guard import die_with, prctl_setter

READY, START, KILL = "ready", "start", "kill"
LONGEST_REQUEST = 4096
LONGEST_ORDER = 2**20

Work = Callable[[socket.socket], None]
"""What a worker does: answers what comes over its socket until that closes."""
Factory = Callable[[Any], Work]
"""Makes the work of JSON settings and loads what workers are to find loaded; raises SrpoError if it cannot."""


def main() -> None:
    """Get ready, say so or why not, and serve until the socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    parent = int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool decides when to end
    die_with(parent, prctl_setter())
    order = json.loads(control.recv(LONGEST_ORDER))
    try:
        work = find_factory(order["factory"])(order["settings"])
    except SrpoError as error:
        control.send(str(error).encode()[:LONGEST_REQUEST])
        return
    gc.collect()
    gc.freeze()  # else every worker copies what it inherits at its first collection
    control.send(READY.encode())
    Nursery(control, work, order["memory"]).serve()


def find_factory(name: str) -> Factory:
    """The factory of the name module:function, of this project."""
    module, function = name.split(":")
    factory: Factory = getattr(importlib.import_module(module), function)
    return factory


class Nursery:
    """Forks workers, kills them when asked, and says how each one ended."""

    def __init__(self, control: socket.socket, work: Work, memory: int) -> None:
        """Prepare it.

        Args:
            control: the socket that asks.
            work: what workers do.
            memory: address space of a worker in bytes.
        """
        self._control, self._work, self._memory = control, work, memory
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
        parent = os.getpid()
        process = os.fork()
        if process == 0:
            try:
                self._become_worker(parent, connection, status)
            finally:
                os._exit(1)
        os.close(connection)
        end = os.pidfd_open(process)
        self._workers[end] = (name, process, status)
        self._poll.register(end, select.POLLIN)

    def _become_worker(self, parent: int, connection: int, status: int) -> None:
        """In the child: only its own socket, its limits, and then its work."""
        die_with(parent, prctl_setter())
        self._control.close()
        for end, (_, _, other) in self._workers.items():
            os.close(end)
            os.close(other)
        os.close(status)
        # Whatever is printed there is of no use to anybody, and can be gigabytes.
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        resource.setrlimit(resource.RLIMIT_AS, (self._memory, self._memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with socket.socket(fileno=connection) as own:
            self._work(own)
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


if __name__ == "__main__":
    main()
