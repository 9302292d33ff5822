"""Runs that are struck dead and started again until they finish, and what must hold after every death."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.moments import TIME, has_come, seen
from tests.faults.roles import Roles, roles
from tests.integration.engines import alive
from tests.integration.runs import LIMIT_SECONDS, Run

POLL_SECONDS = 0.002
ROLES_SECONDS = 0.25
# What the sentence must hold when a process of the role is killed, with the process's place in its role.
NAMED = {
    "trainer": "trainer rank {index}",
    "trainer guard": "trainer rank {index}",
    "engine": "engine {index}",
    "engine guard": "engine {index}",
    "reward host": "reward workers",
}


@dataclass(frozen=True)
class Strike:
    """A SIGKILL for a process of a role, `seconds` after a moment, or after the start."""

    role: str
    moment: str = TIME
    seconds: float = 0.0
    pick: float = 0.0
    """Which process of the role, from 0 to 1."""

    def __str__(self) -> str:
        when = "the start" if self.moment == TIME else self.moment
        return f"{self.role} {self.seconds:.3f} s after {when}"


@dataclass(frozen=True)
class Death:
    """A strike that has hit: which process of its role, in which phase, and what the run said."""

    strike: Strike
    index: int
    phase: str
    code: int | None
    """Of the run; none where it went on."""
    sentence: str


class Life:
    """One start of a run."""

    def __init__(self, recipe: Path, run_dir: Path, *arguments: str) -> None:
        self.run_dir = run_dir
        self._events = _starts(run_dir)
        self._began = time.monotonic()
        self.run = Run(recipe, run_dir, *arguments)
        self._family: list[psutil.Process] = []

    def phase(self) -> str:
        """Whether trainer and engines stand already."""
        return "training" if _starts(self.run_dir) > self._events else "start-up"

    def strike(self, strike: Strike) -> tuple[int, str] | None:
        """Wait for the strike's moment and kill; what it was and the phase; none if the run was faster."""
        before = frozenset() if strike.moment == TIME else seen(self.run_dir, strike.moment)
        victims: list[psutil.Process] = []
        looked = 0.0
        due: float | None = self._began + strike.seconds if strike.moment == TIME else None
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.run.process.poll() is None:
            now = time.monotonic()
            assert now < deadline, f"{strike}: the run neither ends nor comes to it; logs in {self.run_dir}"
            if due is None and has_come(self.run_dir, strike.moment, before):
                due = now + strike.seconds
            if now - looked > ROLES_SECONDS and (due is None or not victims):
                victims = self.roles_now().get(strike.role, [])
                looked = time.monotonic()
            if due is not None and time.monotonic() >= due and victims:
                index = min(int(strike.pick * len(victims)), len(victims) - 1)
                phase = self.phase()
                if alive([victims[index]]):
                    victims[index].kill()
                    return index, phase
                victims = []
            time.sleep(POLL_SECONDS)
        return None

    def wait_for(self, moment: str) -> None:
        """Until something appears that was not there at the call."""
        before = seen(self.run_dir, moment)
        self.run.wait_for(lambda: has_come(self.run_dir, moment, before))

    def roles_now(self) -> Roles:
        """See `roles`; remembers everybody for `end`."""
        found = roles(self.run.process.pid)
        known = set(self._family)
        self._family += [process for of_role in found.values() for process in of_role if process not in known]
        return found

    def end(self) -> tuple[int, str, str]:
        """Wait for the end and see that nothing is left; exit code, standard output and standard error."""
        self.roles_now()
        result = self.run.finish()
        self.nothing_left()
        return result

    def nothing_left(self) -> None:
        """Neither of the processes with the run's mark nor of those that have renamed themselves."""
        self.run.assert_nothing_left()
        deadline = time.monotonic() + 20
        while left := alive(self._family):
            assert time.monotonic() < deadline, f"left running: {left}"
            time.sleep(0.1)


def _starts(run_dir: Path) -> int:
    path = run_dir / "events.jsonl"
    return path.read_text().count('"event": "start"') if path.exists() else 0


def sentence_of(code: int, err: str) -> str:
    """The one sentence with which a run must end that has failed."""
    assert code == 2, f"exit code {code}: {err}"
    assert "Traceback" not in err, err
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, err
    assert err.strip().splitlines()[-1] == told[0], err
    return told[0]


def live_through(
    recipe: Path,
    run_dir: Path,
    strikes: Iterable[Strike],
    *arguments: str,
    told: Callable[[str], None] = lambda _: None,
    hit: Callable[[Death], None] = lambda _: None,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Start the run again after every deadly strike until it finishes.

    Args:
        recipe: the recipe's file.
        run_dir: its run directory.
        strikes: in order, one a start, or more where the run survives one.
        arguments: overrides of the recipe.
        told: is told what happens.
        hit: is given every strike that has hit.
        between: called after each death, before the next start.
    """
    left = deque(strikes)
    for _ in range(len(left) + 1):
        life = Life(recipe, run_dir, *arguments)
        last = _strike_until_deadly(life, left, told, hit)
        code, _, err = life.end()
        if last is None:
            assert code == 0, err
        else:
            death = _death(*last, code, err, run_dir)
            hit(death)
            told(f"{death.strike} ({death.phase}): {death.code} {death.sentence}")
        between()
        if (run_dir / "finished.json").exists():
            return
    raise AssertionError("the run has neither finished nor been struck")


def _strike_until_deadly(
    life: Life, left: deque[Strike], told: Callable[[str], None], hit: Callable[[Death], None]
) -> tuple[Strike, int, str] | None:
    """Take strikes until one ends the run; none when the run goes to its end."""
    while left:
        strike = left.popleft()
        where = life.strike(strike)
        if where is None:
            told(f"{strike}: missed, the run has ended")
            return None
        if strike.role != "reward worker":
            return strike, *where
        hit(Death(strike, *where, None, ""))
        told(f"{strike} ({where[1]}): the run goes on")
    return None


def _death(strike: Strike, index: int, phase: str, code: int, err: str, run_dir: Path) -> Death:
    """What a deadly strike has done to the run, which must have said so."""
    if strike.role == "controller":
        assert code == -9, f"exit code {code} of a killed controller: {err}"
        return Death(strike, index, phase, code, "")
    if code == 0:
        assert (run_dir / "finished.json").exists(), "a run without an end says that it is finished"
        return Death(strike, index, phase, code, "")
    sentence = sentence_of(code, err)
    name = NAMED[strike.role].format(index=index)
    assert name in sentence, f"{strike}: the sentence does not name {name}: {sentence}"
    return Death(strike, index, phase, code, sentence)
