"""Cuts TCP connections of other processes: their sockets are duplicated into this one and shut down."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Sequence

import psutil
import pytest

_PIDFD_GETFD = 438  # the same on x86_64 and aarch64


def connections(ours: psutil.Process, theirs: Sequence[psutil.Process]) -> list[int]:
    """Descriptors of a process, of its established connections with the other ones."""
    ends = {end.laddr for process in theirs for end in _established(process)}
    return [end.fd for end in _established(ours) if end.raddr in ends]


def sever(process: psutil.Process, descriptors: Sequence[int]) -> int:
    """Shut sockets of a process down in both directions, as a broken network does; skips where it is forbidden.

    Returns how many: one that the process has closed by now is none.
    """
    done = 0
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(process.pid)
    try:
        for descriptor in descriptors:
            copy = libc.syscall(_PIDFD_GETFD, handle, descriptor, 0)
            if copy < 0 and ctypes.get_errno() == errno.EBADF:
                continue
            if copy < 0:
                reason = os.strerror(ctypes.get_errno())
                pytest.skip(f"pidfd_getfd: {reason}; sockets of other processes cannot be had here")
            with socket.socket(fileno=copy) as connection:
                done += _shut(connection)
    finally:
        os.close(handle)
    return done


def _shut(connection: socket.socket) -> int:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # another file by now, or no longer connected
        return 0
    return 1


def _established(process: psutil.Process) -> list[psutil._common.pconn]:
    try:
        return [end for end in process.net_connections("tcp") if end.status == psutil.CONN_ESTABLISHED]
    except psutil.NoSuchProcess:  # the run has ended
        return []
