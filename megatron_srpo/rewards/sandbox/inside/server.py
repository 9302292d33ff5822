"""Process 1 of the sandbox: forks a program's process when asked, and leaves nothing of it behind.

It is asked over a socket, with two descriptors: one to read the request from, one to write results to.  It
passes both on and closes them, so it never holds a program, an input or an output: what one program finds in
the memory that it inherits is the same for all, and nothing of the others.

Below the level of namespaces (walls.py) it is an ordinary process.  It ends with its parent, and with it
everything that it has started.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
from typing import Any

from . import cases, kernel, landlock, python, seccomp, walls

READY, RUN, DONE = b"ready", b"run", b"done"
UNSHARED, MAPPED = b"unshared", b"mapped"
LONGEST_MESSAGE = 4096


def main(arguments: list[str]) -> None:
    """Set up, say READY or why not, and serve until the socket closes.

    Args:
        arguments: number of the socket's descriptor, and a JSON object with the keys `parent` (its process
            id), `level`, `packages`, `preload`, `threads` and `files_megabytes`.
    """
    control = socket.socket(fileno=int(arguments[0]))
    config = json.loads(arguments[1])
    kernel.end_with_parent(config["parent"])
    try:
        inside = _enter(config, control)
    except (OSError, ImportError) as error:
        control.send(f"{type(error).__name__}: {error}".encode()[:LONGEST_MESSAGE])
        return
    if inside is not None:  # this one stays outside the namespace of processes
        control.close()
        os.waitpid(inside, 0)
        return
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise touch, and so copy, all that it inherits
    around = walls.Walls(config["level"], config["threads"], config["files_megabytes"])
    walls.close_around_server(config["level"])
    control.send(READY)
    while _serve(control, around):
        pass


def _enter(config: dict[str, Any], control: socket.socket) -> int | None:
    """Put up the walls around this process; the id of the process inside, in the one that stays outside."""
    if not seccomp.supported():
        raise OSError("seccomp filters are missing in this kernel, or not known for this processor")
    level = config["level"]
    python.preload(config["preload"], everything=level == "seccomp")
    if len(os.listdir("/proc/self/task")) > 1:
        raise OSError("a module of sandbox.preload has started threads, around which no walls can be built")
    walls.grow_stack()
    readable = walls.readable_paths(config["packages"])
    if level == "namespaces":
        return _enter_namespaces(readable, control, config["parent"])
    if level == "landlock":
        if not landlock.version():
            raise OSError("Landlock is missing in this kernel")
        landlock.allow_reading_only([*readable, *walls.DEVICES])
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    walls.become_nobody()
    kernel.end_with_parent(config["parent"])  # a change of user has undone it
    kernel.drop_capabilities()
    return None


def _enter_namespaces(readable: list[str], control: socket.socket, parent: int) -> int | None:
    """New namespaces with a new root; returns as `_enter`."""
    kernel.unshare(walls.NAMESPACES)
    control.send(UNSHARED)  # who has made a user namespace may map its own user only, so another one does it
    if control.recv(LONGEST_MESSAGE) != MAPPED:
        raise OSError("the user of the namespace could not be mapped")
    views = walls.open_paths([*readable, *walls.DEVICES])
    walls.become_root_inside()
    kernel.end_with_parent(parent)  # the change of user has undone it
    walls.build_root(views)
    inside = os.fork()
    if inside == 0:
        kernel.end_with_parent(0)
        return None
    return inside


def _serve(control: socket.socket, around: walls.Walls) -> bool:
    """Run one program; False at the end of the socket."""
    try:
        message, descriptors, _, _ = socket.recv_fds(control, LONGEST_MESSAGE, 2)
    except ConnectionError:
        return False  # closed with something of ours unread
    if message != RUN:
        return False
    request, results = descriptors
    own, process = os.getpid(), os.fork()
    if process == 0:
        try:
            kernel.end_with_parent(own)
            control.close()
            cases.run(request, results, around)
        finally:
            os._exit(1)  # it must never come back into the loop above
    os.close(request)
    os.close(results)
    os.waitpid(process, 0)
    if os.getpid() == 1:
        kill_everything_inside()
    reap_all()
    try:
        control.send(DONE)
    except BrokenPipeError:
        return False  # whoever asked has gone on without us
    return True


def kill_everything_inside() -> None:
    """Kill all processes of the namespace but this one, its process 1."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return  # as it should be: none is left


def reap_all() -> None:
    """Wait until no child is left; elsewhere than in a namespace a case dies with its program's process."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
