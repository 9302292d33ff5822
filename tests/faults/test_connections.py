"""Connections that break while both of their ends live."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.fingerprint import differences, fingerprint
from tests.faults.lives import Life, sentence_of
from tests.faults.roles import Roles
from tests.faults.sever import connections, sever

Ends = Callable[[Roles], tuple[psutil.Process, list[psutil.Process]]]
# Who speaks with whom, and what the sentence names when that breaks; none: the run goes on.
LINKS: list[tuple[str, str, Ends, str | None]] = [
    ("the link", "a group is recorded", lambda of: (of["trainer"][0], of["controller"]), "rank 0"),
    ("between ranks", "a group is recorded", lambda of: (of["trainer"][0], of["trainer"][1:]), "trainer rank"),
    # Either end may be the first to say so.
    (
        "weights",
        "a step is closed",
        lambda of: (of["trainer"][0], of["engine"]),
        "trainer rank 0|weights_from_dist",
    ),
    ("requests", "a group is recorded", lambda of: (of["controller"][0], of["engine"]), None),
]


def soon(ours: psutil.Process, theirs: list[psutil.Process]) -> int:
    """Sever what connects them within some seconds: between two requests there may be no connection."""
    deadline = time.monotonic() + 20
    while not (done := sever(ours, connections(ours, theirs))) and time.monotonic() < deadline:
        time.sleep(0.005)
    return done


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_connections_break_goes_on_to_the_same_bits(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """One after the other in the same run; only a request is asked again without a new start."""
    run_dir = tmp_path / "run"
    for what, moment, ends, named in LINKS:
        life = Life(undisturbed.recipe, run_dir)
        life.wait_for(moment)
        if what == "weights":  # the group of trainer and engine is made with the first exchange
            life.wait_for("a group is recorded")
        ours, theirs = ends(life.roles_now())
        assert soon(ours, theirs), f"{what}: no connection was found"
        code, _, err = life.end()
        if named is None:
            assert code == 0, f"{what}: {err}"
            assert "trying again" in err
        else:
            assert re.search(named, sentence_of(code, err)), f"{what}: {err}"
    assert not differences(fingerprint(run_dir), undisturbed.fingerprint)
