"""Where the doctor's facts come from: programs that answer, crash, hang or say anything."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from megatron_srpo.doctor import gather
from megatron_srpo.doctor.ask import Trouble, ask
from megatron_srpo.doctor.facts import (
    EngineFacts,
    ImportFacts,
    NvidiaFacts,
    TorchFacts,
)
from megatron_srpo.recipe.schema import EngineSection


def script(file: Path, text: str) -> Path:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('echo some; echo \'{"module": "m"}\'', ImportFacts(module="m")),
        ("echo '{\"module\": 3}'", Trouble('answered what was not asked: {"module": 3}')),
        ("printf 'a\\033[2J\\377'", Trouble("answered what was not asked: a\\x1b[2J\N{REPLACEMENT CHARACTER}")),
        ("", Trouble("ended without an answer")),
        (
            "echo '{\"module\": \"m\"}'; echo first >&2; echo 'last words' >&2; exit 7",
            Trouble("ended with 7: last words"),
        ),
        ("kill -SEGV $$", Trouble("ended with -11 (SIGSEGV): it said nothing")),
    ],
)
def test_answers(tmp_path: Path, text: str, expected: ImportFacts | Trouble) -> None:
    file = script(tmp_path / "program", text)
    assert asyncio.run(ask([str(file)], ImportFacts, 60)) == expected


@pytest.mark.parametrize(
    ("text", "seconds", "expected"),
    [
        ("wait", 2, Trouble("no answer within 2 seconds")),
        ('echo \'{"module": "m"}\'', 60, ImportFacts(module="m")),
    ],
    ids=["hangs", "answers"],
)
def test_nothing_of_a_program_goes_on_behind_its_answer(
    tmp_path: Path, text: str, seconds: float, expected: ImportFacts | Trouble
) -> None:
    """Its child has its output open, and would else be waited for."""
    child = tmp_path / "child"
    file = script(tmp_path / "program", f"sleep 600 & echo $! > {child}\n{text}")
    assert asyncio.run(ask([str(file)], ImportFacts, seconds)) == expected
    until = time.monotonic() + 60
    while runs(int(child.read_text())):
        assert time.monotonic() < until, "it is still running"
        time.sleep(0.01)


def runs(process: int) -> bool:
    """Whether it does; it stays as a zombie where nobody reaps those whose parent has ended."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for name, reason in (("missing", "No such file or directory"), ("text", "Permission denied")):
        answer = asyncio.run(gather.ask_engine(EngineSection(python=tmp_path / name)))
        assert answer == Trouble(f"cannot be started ({reason})", started=False)


def test_the_engines_interpreter_is_not_led_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    answer = asyncio.run(gather.ask_engine(EngineSection(python=Path(sys.executable))))
    assert isinstance(answer, EngineFacts)
    assert answer.python == sys.version.split()[0]
    assert answer.sglang is None and answer.torch is not None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "raise ImportError('libcudart.so.13: cannot open')",
            "ended with 1: ImportError: libcudart.so.13: cannot open",
        ),
        ("import os; os.kill(os.getpid(), 11)", "ended with -11 (SIGSEGV): it said nothing"),
        ("import time; time.sleep(100)", "no answer within 1 seconds"),
    ],
)
def test_a_torch_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    (tmp_path / "torch.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seconds = 1 if "sleep" in source else 60
    assert asyncio.run(gather.ask_torch("torch", TorchFacts, seconds)) == Trouble(expected)


def test_what_libraries_print_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "noisy.py").write_text("import os, atexit\natexit.register(os.system, 'echo bye')\nprint('hello')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert asyncio.run(gather.ask_torch("noisy", ImportFacts)) == ImportFacts(module="noisy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "echo '580.95, NVIDIA H100'; echo '580.95, NVIDIA A10, old'",
            NvidiaFacts("580.95", ("NVIDIA H100", "NVIDIA A10, old")),
        ),
        ("echo 'No devices were found'", Trouble("shows no GPU: No devices were found")),
        ("echo 'NVIDIA-SMI has failed'; exit 9", Trouble("ended with 9: NVIDIA-SMI has failed")),
    ],
)
def test_nvidias_tool(tmp_path: Path, text: str, expected: NvidiaFacts | Trouble) -> None:
    assert asyncio.run(gather.ask_nvidia(str(script(tmp_path / "nvidia-smi", text)))) == expected


def test_a_containers_limits_are_the_machines(tmp_path: Path) -> None:
    free = gather.machine_facts(tmp_path, tmp_path)
    assert free.cores == len(os.sched_getaffinity(0)) and free.folder == tmp_path
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    held = gather.machine_facts(tmp_path, tmp_path)
    assert (held.cores, held.memory) == (1, 2**28)
    for name in ("cpu.max", "memory.max"):
        (tmp_path / name).write_text("max\n" if name == "memory.max" else "max 100000\n")
    assert replace(gather.machine_facts(tmp_path, tmp_path), free_disk=0) == replace(free, free_disk=0)


def test_the_smallest_limit_around_the_process_holds(tmp_path: Path) -> None:
    own, inner = tmp_path / "own", tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    own.write_text("4:memory:/other\n0::/outer/inner\n")
    (tmp_path / "outer" / "memory.max").write_text(f"{2**27}\n")
    (inner / "memory.max").write_text("max\n")
    (inner / "cpu.max").write_text("100000 100000\n")
    held = gather.machine_facts(tmp_path, tmp_path, own)
    assert (held.cores, held.memory) == (1, 2**27)
    own.write_text("0::/../outer/inner\n")
    assert gather.control_groups(tmp_path, own) == gather.control_groups(tmp_path, tmp_path / "no") == [tmp_path]
