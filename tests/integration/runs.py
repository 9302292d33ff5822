"""`srpo` as a child process, with a mark by which every process of it can be found again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.conftest import REPOSITORY

MARK = "SRPO_TEST_MARK"
LIMIT_SECONDS = 240


class Command:
    """A started `srpo`; its children log to the folder `logs`."""

    def __init__(self, logs: Path, *arguments: str) -> None:
        self._logs, self._name = logs, f"srpo {arguments[0]}"
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "megatron_srpo.cli", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, MARK: self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Background shells hand SIGINT down ignored; a person's terminal does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end; returns exit code, standard output and standard error."""
        try:
            out, err = self.process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self._name} did not end; logs in {self._logs}") from None
        return self.process.returncode, out, err

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds while the run goes on."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():
            assert self.process.poll() is None, f"the run ended too early: {self.finish()}"
            assert time.monotonic() < deadline, "the condition was never met"
            time.sleep(0.02)

    def marked(self) -> list[psutil.Process]:
        """All processes that descend from the run and are alive."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def assert_nothing_left(self) -> None:
        """Every process of the run ends within a few seconds of it."""
        deadline = time.monotonic() + 20
        while left := self.marked():
            assert time.monotonic() < deadline, f"left running: {[p.cmdline() for p in left]}"
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL the controller, as the kernel would, and see that everything else follows it."""
        self.process.kill()
        self.process.communicate()
        self.assert_nothing_left()


class Run(Command):
    """A started `srpo train`."""

    def __init__(self, recipe: Path, run_dir: Path, *arguments: str) -> None:
        self.run_dir = run_dir
        super().__init__(run_dir / "logs", "train", str(recipe), *arguments, "--run-dir", str(run_dir))


def train(recipe: Path, run_dir: Path, *arguments: str) -> tuple[int, str, str]:
    """A whole run; returns exit code, standard output and standard error, and checks that nothing is left."""
    run = Run(recipe, run_dir, *arguments)
    result = run.finish()
    run.assert_nothing_left()
    return result
