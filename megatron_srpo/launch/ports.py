"""Free ports for servers that bind them some seconds later.

The kernel hands out ports (to who binds port 0, and for outgoing connections) from one range.  A port of that
range that is free now may be somebody's when the server has started up; below it nobody gets one by chance.
"""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

from megatron_srpo.errors import SrpoError

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_TRIES = 200


def bind_unclaimed(probe: socket.socket, host: str) -> int:
    """Bind the socket to a free port that the kernel does not hand out, and return the port.

    The caller closes the socket, and lets the server bind the port then.  Raises SrpoError when none is found, and
    OSError when the host is no address of this machine.
    """
    first_handed_out = int(_RANGE.read_text().split()[0])
    ports = range(_LOWEST, first_handed_out)
    for port in random.SystemRandom().sample(ports, min(_TRIES, len(ports))):
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port
    raise SrpoError(
        f"{host}: found no free port from {_LOWEST} up to {first_handed_out - 1}, where the kernel's own range "
        f"begins ({_RANGE}); free some, or raise that range"
    )


def unclaimed_port(host: str) -> int:
    """A port that is free now; see `bind_unclaimed`."""
    with socket.socket() as probe:
        return bind_unclaimed(probe, host)
