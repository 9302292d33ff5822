"""The tiny world of the fault tests, and a run in it that nothing disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.faults.fingerprint import fingerprint
from tests.faults.lives import live_through
from tests.faults.world import World


@dataclass(frozen=True)
class Undisturbed:
    """A finished run; its directory must stay as it is."""

    recipe: Path
    run_dir: Path
    fingerprint: dict[str, str]


@pytest.fixture(scope="session")
def world(tiny_hf: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world"), tiny_hf())


@pytest.fixture(scope="session")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    recipe, run_dir = world.recipe(), tmp_path_factory.mktemp("undisturbed") / "run"
    live_through(recipe, run_dir, [])
    return Undisturbed(recipe, run_dir, fingerprint(run_dir))


@pytest.fixture(autouse=True)
def nothing_of_a_failed_test_stays() -> Iterator[None]:
    """A test that fails before its run has ended leaves it to us; the guards end what is below."""
    yield
    for process in psutil.Process().children(recursive=True):
        process.kill()
    psutil.wait_procs(psutil.Process().children(), timeout=30)
