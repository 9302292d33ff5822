"""`srpo doctor`: what its checks say of made-up facts, and one run on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import megatron_srpo
from megatron_srpo import cli
from megatron_srpo.doctor import engine, gather, machine, packages, rewards, show, trainer
from megatron_srpo.doctor.ask import Trouble
from megatron_srpo.doctor.examine import Report, examine, findings
from megatron_srpo.doctor.facts import (
    EngineFacts,
    Facts,
    ImportFacts,
    NvidiaFacts,
    PackageFacts,
    SandboxFacts,
)
from megatron_srpo.doctor.finding import Finding
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.recipe.schema import EngineSection
from tests.unit.folders import write_recipe
from tests.unit.machines import (
    A100,
    CPU_MACHINE,
    CPU_TORCH,
    GIB,
    H100,
    VERSIONS,
    a_recipe,
    gpu_machine,
    gpu_torch,
    installed,
    said,
)

# The machine


@pytest.mark.parametrize(
    ("found", "status", "shown"),
    [
        (machine.check_system("Linux", "6.1"), "ok", "Linux 6.1"),
        (machine.check_system("Darwin", "24.0"), "error", "Darwin 24.0"),
        (machine.check_cores(CPU_MACHINE.machine), "ok", "4"),
        (machine.check_cores(replace(CPU_MACHINE.machine, cores=1)), "warning", "1"),
        (machine.check_memory(CPU_MACHINE.machine), "ok", "16 GiB"),
        (machine.check_memory(replace(CPU_MACHINE.machine, memory=4 * GIB)), "warning", "4 GiB"),
        (machine.check_disk(CPU_MACHINE.machine), "ok", "50 GiB free in /here"),
        (machine.check_disk(replace(CPU_MACHINE.machine, free_disk=GIB)), "warning", "1 GiB free in /here"),
        (machine.check_shared_memory(CPU_MACHINE.machine), "ok", "8 GiB"),
        (machine.check_shared_memory(replace(CPU_MACHINE.machine, shared_memory=2**26)), "warning", "64 MiB"),
        (machine.check_shared_memory(replace(CPU_MACHINE.machine, shared_memory=None)), "warning", "none"),
        (packages.check_python("3.12.9", CPU_MACHINE.packages), "ok", "3.12.9"),
        (packages.check_python("3.13.0", CPU_MACHINE.packages), "warning", "3.13.0"),
        (packages.check_python("3.13.0", PackageFacts(None, None, VERSIONS)), "ok", "3.13.0"),
    ],
)
def test_machines(found: Finding, status: str, shown: str) -> None:
    assert said(found) == f"{status}: {shown}"
    assert bool(found.advice) == (status != "ok")


@pytest.mark.parametrize(
    ("facts", "status", "shown", "advice"),
    [
        (CPU_MACHINE, "missing", "none", "run on the CPU"),
        (
            gpu_machine(H100, H100, A100),
            "ok",
            "2 x H100 (80 GiB, compute capability 9.0), 1 x A100 (80 GiB, compute capability 8.0), driver 580.95",
            "",
        ),
        (gpu_machine(H100, nvidia=None), "ok", "1 x H100 (80 GiB, compute capability 9.0)", ""),
        (
            gpu_machine(H100, nvidia=NvidiaFacts("580.95", ("H100", "H100"))),
            "ok",
            "1 x H100 (80 GiB, compute capability 9.0), driver 580.95; 1 more that torch is not shown",
            "",
        ),
        (
            gpu_machine(H100, torch=CPU_TORCH),
            "warning",
            "1 x H100, driver 580.95; torch can use none",
            "built without CUDA",
        ),
        (
            gpu_machine(H100, torch=gpu_torch(no_gpu="the driver\nis too old")),
            "warning",
            "1 x H100, driver 580.95; torch can use none",
            "torch says: the driver is too old",
        ),
        (
            gpu_machine(H100, torch=Trouble("ended")),
            "warning",
            "1 x H100, driver 580.95; torch can use none",
            "torch itself is broken",
        ),
        (
            replace(CPU_MACHINE, nvidia=Trouble("ended with 9: no driver")),
            "warning",
            "nvidia-smi ended with 9: no driver",
            "out of order",
        ),
    ],
)
def test_gpus(facts: Facts, status: str, shown: str, advice: str) -> None:
    found = machine.check_gpus(facts)
    assert said(found) == f"{status}: {shown}"
    assert advice in found.advice
    assert found.blocks == (() if status == "ok" else ("gpu",))


def test_python_dependencies() -> None:
    found = packages.check_dependencies(CPU_MACHINE.packages)
    assert said(found) == "ok: 2 of 2 as pyproject asks"
    wrong = packages.check_dependencies(installed(numpy="1.26.4", py_yaml=None))
    assert said(wrong) == (
        "error: 0 of 2 as pyproject asks: numpy is 1.26.4, asked for is >=2.0; Py_Yaml is missing"
    )
    assert wrong.blocks == ("cpu", "gpu")
    assert said(packages.check_dependencies(PackageFacts(None, None, VERSIONS))) == "warning: unknown"


def test_trainer_dependencies_are_those_without_a_line_of_their_own() -> None:
    assert said(packages.check_trainer_dependencies(CPU_MACHINE.packages)) == "ok: 1 of 1 as pyproject asks"
    old = packages.check_trainer_dependencies(installed(transformers="4.0", torch=None))
    assert said(old) == "error: 0 of 1 as pyproject asks: transformers is 4.0, asked for is ==5.19.0"
    assert packages.check_trainer_dependencies(PackageFacts(None, None, VERSIONS)) is None


# The trainer


@pytest.mark.parametrize(
    ("found", "expected", "blocks"),
    [
        (trainer.check_torch(CPU_TORCH, CPU_MACHINE.packages), "ok: 2.13.0+cpu, without CUDA", ()),
        (trainer.check_torch(gpu_torch(H100), CPU_MACHINE.packages), "ok: 2.13.0, CUDA 13.0", ()),
        (
            trainer.check_torch(gpu_torch(version="2.9.0a0+nv25"), CPU_MACHINE.packages),
            "warning: 2.9.0a0+nv25, CUDA 13.0",
            (),
        ),
        (
            trainer.check_torch(Trouble("ended with -11 (SIGSEGV): it said nothing"), CPU_MACHINE.packages),
            "error: import torch: ended with -11 (SIGSEGV): it said nothing",
            ("cpu", "gpu"),
        ),
        (trainer.check_nccl(gpu_torch(H100)), "ok: 2.27.7", ()),
        (trainer.check_nccl(gpu_torch(H100, nccl=None)), "warning: none", ("gpu",)),
        (trainer.check_megatron(CPU_MACHINE.packages), "ok: 0.16.1", ()),
        (trainer.check_megatron(installed(megatron_core="0.17.0")), "warning: 0.17.0", ()),
        (trainer.check_megatron(installed(megatron_core="a fork")), "warning: a fork", ()),
        (trainer.check_megatron(installed(megatron_core=None)), "error: none", ("cpu", "gpu")),
        (trainer.check_fused_gradients(CPU_MACHINE), "missing: none", ()),
        (
            trainer.check_fused_gradients(replace(CPU_MACHINE, fused_gradients=ImportFacts(module="f"))),
            "ok: with fused_weight_gradient_mlp_cuda",
            (),
        ),
        (
            trainer.check_fused_gradients(replace(CPU_MACHINE, fused_gradients=Trouble("ended"))),
            "warning: fused_weight_gradient_mlp_cuda: ended",
            (),
        ),
        (trainer.check_flash_attention(CPU_MACHINE.packages), "missing: none", ()),
        (
            trainer.check_flash_attention(installed(flash_attn="2.8", flash_attn_3="3.0")),
            "ok: flash-attn 2.8, flash-attn-3 3.0",
            (),
        ),
    ],
)
def test_the_trainers_packages(found: Finding, expected: str, blocks: tuple[str, ...]) -> None:
    assert (said(found), found.blocks) == (expected, blocks)


@pytest.mark.parametrize(
    ("cudnn", "transformer_engine", "expected"),
    [
        (91200, "2.20.0", "ok: 9.12.0"),
        (91190, "2.20.0", "warning: 9.11.90"),
        (8907, "2.21+abc", "warning: 8.9.7"),
        (91100, "2.19.1", "ok: 9.11.0"),
        (91100, None, "ok: 9.11.0"),
        (None, None, "warning: none"),
    ],
)
def test_cudnn_is_as_new_as_transformer_engine_wants_it(
    cudnn: int | None, transformer_engine: str | None, expected: str
) -> None:
    wanted = installed(transformer_engine=transformer_engine)
    assert said(trainer.check_cudnn(gpu_torch(H100, cudnn=cudnn), wanted)) == expected


def test_a_torch_without_cuda_is_not_asked_for_its_libraries() -> None:
    for torch in (CPU_TORCH, Trouble("ended")):
        assert trainer.check_nccl(torch) is None
        assert trainer.check_cudnn(torch, CPU_MACHINE.packages) is None


@pytest.mark.parametrize(
    ("facts", "expected", "blocks"),
    [
        (CPU_MACHINE, "missing: none", ()),
        (gpu_machine(H100, packages=CPU_MACHINE.packages, transformer_engine=None), "missing: none", ("gpu",)),
        (gpu_machine(H100), "ok: 2.20.0, with grouped GEMM for experts", ()),
        (gpu_machine(H100, packages=installed(transformer_engine="2.3")), "warning: 2.3", ()),
        (
            gpu_machine(H100, transformer_engine=Trouble("ended with 1: ImportError: libcudnn.so.9")),
            "warning: 2.20.0, but its import: ended with 1: ImportError: libcudnn.so.9",
            ("gpu",),
        ),
    ],
)
def test_transformer_engine(facts: Facts, expected: str, blocks: tuple[str, ...]) -> None:
    found = trainer.check_transformer_engine(facts)
    assert (said(found), found.blocks, bool(found.reason)) == (expected, blocks, bool(blocks))


# The engine and the rewards


@pytest.mark.parametrize(
    ("facts", "asked", "expected"),
    [
        (CPU_MACHINE.engine, False, "ok: 0.5.23 in Python 3.11.7, .venv-engine/bin/python"),
        (
            EngineFacts(python="3", sglang="0.4.0", torch="2"),
            True,
            "warning: 0.4.0 in Python 3, .venv-engine/bin/python",
        ),
        (
            EngineFacts(python="3", sglang=None, torch="2"),
            True,
            "error: none in Python 3, .venv-engine/bin/python",
        ),
        (
            EngineFacts(python="3", sglang=None, torch="2"),
            False,
            "missing: none in Python 3, .venv-engine/bin/python",
        ),
        (
            Trouble("cannot be started", started=False),
            False,
            "missing: .venv-engine/bin/python: cannot be started",
        ),
        (Trouble("cannot be started", started=False), True, "error: .venv-engine/bin/python: cannot be started"),
        (Trouble("ended with 3"), False, "error: .venv-engine/bin/python: ended with 3"),
    ],
)
def test_sglang(facts: EngineFacts | Trouble, asked: bool, expected: str) -> None:
    found = engine.check_sglang(EngineSection(), facts, asked=asked)
    assert said(found) == expected
    assert found.blocks == (("cpu", "gpu") if found.status in ("missing", "error") else ())


def test_the_deterministic_engine_needs_no_sglang() -> None:
    section = EngineSection(backend="deterministic")
    assert (
        said(engine.check_sglang(section, None, asked=True)) == "ok: deterministic, in the trainer's environment"
    )
    assert asyncio.run(gather.ask_engine(section)) is None


@pytest.mark.parametrize(
    ("facts", "expected", "blocks"),
    [
        (CPU_MACHINE, "ok: 2.13.0+cpu", ()),
        (gpu_machine(H100), "ok: 2.13.0", ()),
        (gpu_machine(H100, engine=CPU_MACHINE.engine), "warning: 2.13.0+cpu", ("gpu",)),
        (
            replace(CPU_MACHINE, engine=EngineFacts(python="3", sglang="0.5.23", torch=None)),
            "error: none",
            ("cpu", "gpu"),
        ),
    ],
)
def test_the_engines_torch(facts: Facts, expected: str, blocks: tuple[str, ...]) -> None:
    found = engine.check_engine_torch(facts)
    assert said(found) == expected
    assert found is not None and found.blocks == blocks


@pytest.mark.parametrize("facts", [None, Trouble("ended"), EngineFacts(python="3", sglang=None, torch=None)])
def test_an_engine_that_is_none_has_one_finding(facts: EngineFacts | Trouble | None) -> None:
    assert engine.check_engine_torch(replace(CPU_MACHINE, engine=facts)) is None


@pytest.mark.parametrize(
    ("require", "facts", "expected"),
    [
        (None, SandboxFacts("namespaces", "own ones"), "ok: namespaces: own ones"),
        ("landlock", SandboxFacts("landlock", "no files"), "warning: landlock: no files"),
        (None, SandboxFacts("remote", "on a server"), "ok: remote: on a server"),
        (None, Trouble("no sandbox"), "warning: no sandbox"),
        ("namespaces", Trouble("no namespaces"), "error: no namespaces"),
    ],
)
def test_sandboxes(require: Any, facts: SandboxFacts | Trouble, expected: str) -> None:
    assert said(rewards.check_sandbox(SandboxSection(require=require), facts)) == expected


# The conclusion


@pytest.mark.parametrize(
    ("facts", "sections", "expected"),
    [
        (CPU_MACHINE, None, "ready for CPU runs; not for GPUs: no GPU"),
        (gpu_machine(H100), None, "ready for CPU runs and for GPUs"),
        (
            gpu_machine(H100, packages=CPU_MACHINE.packages, transformer_engine=None, engine=CPU_MACHINE.engine),
            None,
            "ready for CPU runs; not for GPUs: no transformer-engine, the engine's torch is for CPUs",
        ),
        (
            replace(CPU_MACHINE, torch=Trouble("ended"), engine=Trouble("ended")),
            None,
            "not ready: torch is broken, no engine interpreter",
        ),
        (CPU_MACHINE, {}, "ready for CPU runs; not for GPUs: no GPU; small can run here"),
        (
            CPU_MACHINE,
            {"trainer": {"device": "cuda"}},
            "ready for CPU runs; not for GPUs: no GPU; small cannot run here: trainer.device",
        ),
    ],
)
def test_conclusions(facts: Facts, sections: dict[str, Any] | None, expected: str) -> None:
    chosen = None if sections is None else a_recipe(**sections)
    report = Report(tuple(findings(facts, chosen)), None if chosen is None else chosen.name)
    assert report.conclusion == expected
    shown = report.as_json()
    assert shown["ready"] == {
        "cpu": not expected.startswith("not"),
        "gpu": "GPUs:" not in expected and "not" not in expected,
    }
    assert json.loads(json.dumps(shown))["conclusion"] == expected


def test_the_table_shows_every_finding_and_no_command_of_the_terminal() -> None:
    facts = replace(CPU_MACHINE, torch=Trouble("ended with 1: [red]\x1b[2Jevil"))
    report = Report(tuple(findings(facts, a_recipe())), "small")
    console = Console(record=True, width=300, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    show.show(report, console)
    text = console.export_text()
    for finding in report.findings:
        assert finding.name in text and finding.group in text
    assert "ended with 1: [red]\\x1b[2Jevil" in text and "\x1b" not in text
    assert text.rstrip().endswith(report.conclusion)


def test_another_system_is_told_and_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    report = examine(None)
    assert [finding.name for finding in report.findings] == ["operating system"]
    assert report.conclusion == "not ready: not Linux"


# The command


def srpo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(megatron_srpo.__path__[0]).parent)
    environment = os.environ | {"PYTHONPATH": root}
    command = [sys.executable, "-m", "megatron_srpo.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=environment)


def test_this_machine() -> None:
    ended = srpo("doctor", "--json")
    report = json.loads(ended.stdout)
    found = {(one["group"], one["name"]): one for one in report["findings"]}
    assert report["version"] == megatron_srpo.__version__ and report["recipe"] is None
    assert found["machine", "operating system"]["status"] == "ok"
    assert found["trainer", "torch"]["status"] != "error", found["trainer", "torch"]
    assert found["trainer", "megatron-core"]["found"][0].isdigit()
    assert {group for group, _ in found} == {"machine", "trainer", "engine", "rewards"}
    assert ended.returncode == (2 if any(one["status"] == "error" for one in report["findings"]) else 0)
    assert ended.stderr == ""


def test_errors_end_in_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe's interpreter is a script that says nothing; torch is one that cannot be imported."""
    (tmp_path / "torch.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = write_recipe(tmp_path)
    monkeypatch.setattr(sys, "argv", ["srpo", "doctor", str(file), "trainer.device=cuda"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (2, "")
    assert out.endswith("small cannot run here: torch, interpreter, trainer.device\n")


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["srpo", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().out) == (0, f"megatron_srpo {megatron_srpo.__version__}\n")
