"""Ports that nobody gets by chance."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch import ports

HOST = "127.0.0.1"


def test_a_port_below_the_kernels_range_that_can_be_bound() -> None:
    first_handed_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = ports.unclaimed_port(HOST)
    assert port < first_handed_out
    with socket.socket() as server:
        server.bind((HOST, port))


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = ports.unclaimed_port(HOST), ports.unclaimed_port(HOST)
    monkeypatch.setattr(random.SystemRandom, "sample", lambda *_: [taken, free])
    with socket.socket() as server:
        server.bind((HOST, taken))
        server.listen()
        assert ports.unclaimed_port(HOST) == free
        monkeypatch.setattr(random.SystemRandom, "sample", lambda *_: [taken])
        with pytest.raises(SrpoError, match="found no free port"):
            ports.unclaimed_port(HOST)


def test_an_address_of_another_machine_is_an_error_at_once() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        ports.unclaimed_port("192.0.2.1")
