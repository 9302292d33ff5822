"""Which sandbox a recipe gets, and what it is told where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox import choice, local
from megatron_srpo.rewards.sandbox.jobs import Limits, Program
from megatron_srpo.rewards.sandbox.local import LocalSandbox, StartError
from tests.attacks import LEVELS
from tests.attacks.host import processes_with

LIMITS = Limits(20, 40, 3, 2**29, 2**22, False)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (SandboxSection(python=Path("/missing/python")), "/missing/python cannot be (run|started)"),
        (SandboxSection(python=Path("/etc/passwd")), "/etc/passwd cannot be (run|started)"),
        (SandboxSection(python=Path("/bin/true")), "did not start; its last words are above"),
        (
            SandboxSection(python=Path(sys.executable), preload=("missing_module",)),
            "No module named 'missing_module'",
        ),
        (SandboxSection(python=Path(sys.executable), preload=("antigravity_of",)), "antigravity_of"),
    ],
    ids=["missing", "no program", "no Python", "missing module", "another missing module"],
)
def test_an_interpreter_that_is_none_is_told(section: SandboxSection, message: str) -> None:
    with pytest.raises(SrpoError, match=message) as caught:
        choice.open_sandbox(section)
    assert str(caught.value).startswith("reward.sandbox")
    with LocalSandbox(section, LEVELS[-1]) as sandbox, pytest.raises(SrpoError, match=message):
        list(sandbox.run(Program("", "stdio", ("",)), LIMITS))
    assert not processes_with(f'"parent": {os.getpid()}')


def test_a_module_that_starts_threads_is_refused(tmp_path: Path) -> None:
    """Walls enclose the thread that builds them: the others would stay outside."""
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "threads_of_its_own.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=[100], daemon=True).start()"
    )
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    section = SandboxSection(python=wrapper, preload=("threads_of_its_own",))
    with pytest.raises(SrpoError, match="has started threads"):
        choice.open_sandbox(section)


@pytest.mark.parametrize(
    ("missing", "require", "outcome"),
    [
        ((), None, "namespaces"),
        (("namespaces",), None, "landlock"),
        (("namespaces", "landlock"), None, "seccomp"),
        (("namespaces",), "landlock", "landlock"),
        (("namespaces",), "namespaces", SrpoError),
        (("namespaces", "landlock"), "landlock", SrpoError),
        (LEVELS, None, SrpoError),
        (LEVELS, "seccomp", SrpoError),
    ],
)
def test_the_strongest_level_that_is_to_be_had(
    missing: tuple[str, ...], require: str | None, outcome: str | type, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def start(sandbox: LocalSandbox) -> None:
        tried.append(sandbox.level)
        if sandbox.level in missing:
            raise StartError(f"no {sandbox.level} today")

    monkeypatch.setattr(LocalSandbox, "start", start)
    section = SandboxSection(require=require)
    if isinstance(outcome, str):
        assert choice.open_sandbox(section).level == outcome
        assert choice.describe_sandbox(section) == (outcome, choice.MEANING[outcome])
        return
    with pytest.raises(SrpoError) as caught:
        choice.open_sandbox(section)
    message = str(caught.value)
    wanted = f"isolation by {require}" if require else "any isolation"
    assert message.startswith(f"reward.sandbox: programs cannot be run with {wanted} on this machine (")
    for level in LEVELS:
        assert (f"{level}: no {level} today" in message) == (level in tried)
    assert tried[-1] == (require or LEVELS[-1])
    assert "backend: sandbox_fusion" in message


def test_a_server_that_cannot_be_mapped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: int) -> None:
        raise StartError("the user of the namespace cannot be mapped (no)")

    monkeypatch.setattr(local, "map_user", refuse)
    sandbox = LocalSandbox(SandboxSection(), "namespaces")
    with pytest.raises(StartError):
        sandbox.start()
    assert not processes_with(f'"parent": {os.getpid()}')
    assert choice.open_sandbox(SandboxSection()).level != "namespaces"


def test_a_trial_shows_that_programs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "TRIAL", Program("1 / 0", "stdio", ("",)))
    for level in LEVELS:
        with pytest.raises(StartError, match="a trial program does not run .failed: ZeroDivisionError"):
            LocalSandbox(SandboxSection(), level).start()
    assert not processes_with(f'"parent": {os.getpid()}')
