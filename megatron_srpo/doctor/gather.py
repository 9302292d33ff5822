"""Gathering the facts; everything that imports torch, or may hang, is asked in a process of its own."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
from packaging.utils import canonicalize_name

from megatron_srpo.doctor.ask import Form, Trouble, ask, output_of
from megatron_srpo.doctor.facts import (
    EngineFacts,
    Facts,
    FileFacts,
    ImportFacts,
    MachineFacts,
    NvidiaFacts,
    PackageFacts,
    SandboxFacts,
    TorchFacts,
)
from megatron_srpo.doctor.packages import OF_INTEREST, PACKAGE, TRANSFORMER_ENGINE, requirements_of
from megatron_srpo.errors import SrpoError
from megatron_srpo.plan.checks import check_what_is_there, missing_data
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.recipe.schema import EngineSection, Recipe
from megatron_srpo.rewards.sandbox.choice import describe_sandbox
from megatron_srpo.rollout.engine_command import PACKAGE as FOLDER
from megatron_srpo.rollout.engine_command import resolve_device

# Importing torch from a cold network file system takes a minute; a driver that is broken answers never.
TORCH_SECONDS = 180.0
ENGINE_SECONDS = 60.0
NVIDIA_SECONDS = 30.0

FUSED_GRADIENTS = "fused_weight_gradient_mlp_cuda"
SHARED_MEMORY = Path("/dev/shm")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")

# Runs in the engine's interpreter.  The present folder goes off the path first: it may hold a json.py.
ENGINE_QUESTION = """
import sys
sys.path = [entry for entry in sys.path if entry]
import importlib.metadata, json
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({"python": sys.version.split()[0], "sglang": version("sglang"), "torch": version("torch")}))
"""


def gather(engine: EngineSection, sandbox: SandboxSection) -> Facts:
    """All facts of this machine, with the engine and the sandbox that these sections ask for."""
    packages = installed_packages()
    answers = asyncio.run(
        _ask_all(engine, has_transformer_engine=packages.versions[TRANSFORMER_ENGINE] is not None)
    )
    return Facts(
        machine=machine_facts(Path.cwd()),
        python=platform.python_version(),
        packages=packages,
        torch=answers[0],
        transformer_engine=answers[1],
        fused_gradients=answers[2],
        engine=answers[3],
        nvidia=answers[4],
        sandbox=try_sandbox(sandbox),
        automatic_engine_device=resolve_device("auto"),
    )


async def _ask_all(
    engine: EngineSection, *, has_transformer_engine: bool
) -> tuple[
    TorchFacts | Trouble,
    ImportFacts | Trouble | None,
    ImportFacts | Trouble | None,
    EngineFacts | Trouble | None,
    NvidiaFacts | Trouble | None,
]:
    """The answers of other processes, which run side by side."""
    return await asyncio.gather(
        ask_torch("torch", TorchFacts),
        _ask_import("transformer_engine.pytorch", has_transformer_engine),
        _ask_import(FUSED_GRADIENTS, importlib.util.find_spec(FUSED_GRADIENTS) is not None),
        ask_engine(engine),
        ask_nvidia(shutil.which("nvidia-smi")),
    )


async def _ask_import(module: str, installed: bool) -> ImportFacts | Trouble | None:
    return await ask_torch(module, ImportFacts) if installed else None


async def ask_torch(question: str, form: type[Form], seconds: float = TORCH_SECONDS) -> Form | Trouble:
    """What `platform/facts.py` answers to a question."""
    # -P keeps its folder, with names like those of the standard library, off the path.
    command = [sys.executable, "-P", str(FOLDER / "platform" / "facts.py"), question]
    return await ask(command, form, seconds)


async def ask_engine(engine: EngineSection, seconds: float = ENGINE_SECONDS) -> EngineFacts | Trouble | None:
    """What the engine's interpreter has installed, without importing SGLang; None where no SGLang is needed."""
    if engine.backend != "sglang":
        return None
    # Not resolved: a virtual environment's interpreter is a link that must be called by its own name.
    return await ask([str(engine.python.absolute()), "-c", ENGINE_QUESTION], EngineFacts, seconds)


async def ask_nvidia(tool: str | None, seconds: float = NVIDIA_SECONDS) -> NvidiaFacts | Trouble | None:
    """What `nvidia-smi` at that path says; None where there is none."""
    if tool is None:
        return None
    output = await output_of([tool, "--query-gpu=driver_version,name", "--format=csv,noheader"], seconds)
    if isinstance(output, Trouble):
        return output
    rows = [line.split(", ", 1) for line in output.splitlines() if ", " in line]
    if not rows:
        return Trouble(f"shows no GPU: {' '.join(output.split()) or 'it said nothing'}")
    return NvidiaFacts(driver=rows[0][0], gpus=tuple(name for _, name in rows))


def machine_facts(folder: Path, groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> MachineFacts:
    """Cores, memory and file systems, as far as this process may use them."""
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total
    for group in control_groups(groups, own):
        match limits(group / "cpu.max"):
            case [int(quota), int(period)]:
                cores = min(cores, max(1, quota // period))
        match limits(group / "memory.max"):
            case [int(allowed)]:
                memory = min(memory, allowed)
    return MachineFacts(
        cores=cores,
        memory=memory,
        folder=folder,
        free_disk=shutil.disk_usage(folder).free,
        shared_memory=shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else None,
    )


def look_at_files(recipe: Recipe) -> FileFacts:
    """The recipe's model and data as far as they are here, and the disk of its run directory."""
    folder = recipe.directory.absolute()
    disk = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(disk).free
    try:
        model, missing = check_what_is_there(recipe)
    except SrpoError as error:
        return FileFacts(None, str(error), tuple(missing_data(recipe)), disk, free)
    return FileFacts(model, "", tuple(missing), disk, free)


def control_groups(groups: Path, own: Path) -> list[Path]:
    """The folders of this process's control group and of those around it, whose limits hold too."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    # `0::` is the one hierarchy of version 2.  Seen from a container the path may lead out of what it sees.
    paths = [Path(line.removeprefix("0::/")) for line in lines if line.startswith("0::/")]
    inner = [path for path in paths if ".." not in path.parts]
    return [groups / path for path in (inner[0], *inner[0].parents)] if inner else [groups]


def limits(file: Path) -> list[int | None]:
    """The numbers in a control group's file, with None for `max`; empty where there is no such file."""
    try:
        words = file.read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [int(word) if word.isdecimal() else None for word in words]


def installed_packages() -> PackageFacts:
    """What megatron_srpo asks for, and the versions of it that are installed."""
    try:
        metadata = importlib.metadata.metadata(PACKAGE)
        requirements = tuple(importlib.metadata.requires(PACKAGE) or ())
    except importlib.metadata.PackageNotFoundError:
        return PackageFacts(None, None, versions_of(OF_INTEREST))
    names = [wanted.name for extra in ("", "cpu", "gpu") for wanted in requirements_of(requirements, extra)]
    return PackageFacts(metadata["Requires-Python"], requirements, versions_of([*names, *OF_INTEREST]))


def versions_of(names: Sequence[str]) -> dict[str, str | None]:
    """Versions of installed distributions; none for those that are not."""
    found: dict[str, str | None] = {}
    for name in map(canonicalize_name, names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def try_sandbox(section: SandboxSection) -> SandboxFacts | Trouble:
    """The sandbox that programs get, started and ended."""
    try:
        return SandboxFacts(*describe_sandbox(section))
    except SrpoError as error:
        return Trouble(str(error))
