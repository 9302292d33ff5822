"""The command line and environment of an engine server, for every device and backend."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import megatron_srpo
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.schema import EngineSection
from megatron_srpo.recipe.trainer import TrainerSection

Device = Literal["cpu", "cuda"]

PACKAGE = Path(megatron_srpo.__file__).resolve().parent

# Set by torchrun for the trainer's ranks; an engine that inherits them takes itself for one.
TORCHRUN_VARIABLES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)


@dataclass(frozen=True)
class EngineCommand:
    """What to execute; `environment` is complete, not an addition to ours."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> Device:
    """`auto` is cuda where this machine shows an NVIDIA device or its tool, else cpu."""
    if device != "auto":
        return device
    shows_nvidia = any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None
    return "cuda" if shows_nvidia else "cpu"


def engine_device(section: EngineSection) -> Device:
    """Where the engines run; the deterministic one knows the CPU alone."""
    return "cpu" if section.backend == "deterministic" else resolve_device(section.device)


def gpus_of_engines(section: EngineSection, trainer: TrainerSection) -> list[str] | None:
    """GPUs of this machine's engines, behind those that its trainer ranks take; none without CUDA engines.

    They are named as CUDA_VISIBLE_DEVICES names them, by number or UUID.  Raises SrpoError when there are not
    enough of them, or for a name that is neither.
    """
    if engine_device(section) != "cuda":
        return None
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(_count_gpus())] if shown is None else _names(shown)
    first = trainer.ranks if resolve_device(trainer.device) == "cuda" else 0
    needed = section.count * section.tensor_parallel
    if len(names) < first + needed:
        raise SrpoError(
            f"trainer.ranks take {first} GPUs and engine.count {section.count} x engine.tensor_parallel "
            f"{section.tensor_parallel} take {needed}, but this machine shows {len(names)}; lower one of them"
        )
    return names[first : first + needed]


def _names(shown: str) -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES shows: none where it is empty, and those before a -1."""
    names: list[str] = []
    for name in map(str.strip, shown.split(",") if shown.strip() else ()):
        if name == "-1":
            break
        if not (name.isdecimal() or name.startswith(("GPU-", "MIG-"))):
            raise SrpoError(
                f"CUDA_VISIBLE_DEVICES is {shown}, of which {name or 'an empty entry'} names no GPU; give "
                "numbers, or UUIDs as nvidia-smi -L prints them"
            )
        names.append(name)
    return names


def _count_gpus() -> int:
    return len([path for path in Path("/dev").glob("nvidia[0-9]*")])


def build_command(
    section: EngineSection,
    model_path: Path,
    *,
    index: int,
    port: int,
    gpus: Sequence[str] | None = None,
    record_experts: bool = False,
) -> EngineCommand:
    """The command of engine `index` on `port`.

    `gpus` are the names of all engines' GPUs together, `tensor_parallel` for each; none: ids 0, 1, ... of those
    that CUDA_VISIBLE_DEVICES shows.  With `record_experts` requests can ask which experts were used.
    Raises SrpoError when the interpreter, GPUs or a needed key are missing.
    """
    if section.backend == "deterministic":
        return _deterministic_command(section, model_path, port)
    if not section.python.exists():
        raise SrpoError(
            f"engine.python: {section.python} does not exist; run `make setup`, which makes the engine's "
            "environment, or name an interpreter that has sglang"
        )
    device = resolve_device(section.device)
    arguments = [*_launcher(section, device), *_common_arguments(section, model_path, port)]
    if record_experts:
        arguments.append("--enable-return-routed-experts")
    environment = _inherited_environment() | {
        # /health then tells at once that the server is up, instead of generating a token for a second.
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
    }
    if device == "cpu":
        arguments += _cpu_arguments(section)
        environment |= _cpu_environment(section, index)
    elif gpus is None:
        arguments += ["--base-gpu-id", str(index * section.tensor_parallel)]
    else:
        environment["CUDA_VISIBLE_DEVICES"] = _gpus_of_engine(section, index, gpus)
    return EngineCommand((*arguments, *section.extra_args), environment)


def _deterministic_command(section: EngineSection, model_path: Path, port: int) -> EngineCommand:
    module = "megatron_srpo.rollout.deterministic_engine"
    options = ["--model-path", str(model_path), "--host", section.host, "--port", str(port)]
    environment = _inherited_environment()
    # The module must be found although the package may be imported from a folder that is not installed.
    path = [str(PACKAGE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    environment["OMP_NUM_THREADS"] = "1"
    return EngineCommand((sys.executable, "-m", module, *options), environment)


def _launcher(section: EngineSection, device: Device) -> list[str]:
    # Not resolved: a virtual environment's interpreter is a link that must be called by its own name.
    python = str(section.python.absolute())
    if device == "cpu":
        return [python, str(PACKAGE / "platform" / "sglang_cpu.py")]
    return [python, "-m", "sglang.launch_server"]


def _common_arguments(section: EngineSection, model_path: Path, port: int) -> list[str]:
    arguments = [
        *("--model-path", str(model_path), "--host", section.host, "--port", str(port)),
        *("--dtype", section.dtype, "--tp-size", str(section.tensor_parallel)),
        *("--mem-fraction-static", str(section.mem_fraction_static)),
        # Weight versions are the numbers of updates; SGLang's own first version is the word "default".
        *("--weight-version", "0"),
        # Tokens go in and out, so there is nothing to tokenize; each response is sent once, when complete.
        *("--skip-tokenizer-init", "--stream-interval", "1000000"),
        # The warm-up asks for text, and the first requests warm the engine as well.
        "--skip-server-warmup",
        *("--log-level", "warning"),
    ]
    if section.max_total_tokens is not None:
        arguments += ["--max-total-tokens", str(section.max_total_tokens)]
    return arguments


def _cpu_arguments(section: EngineSection) -> list[str]:
    if section.max_total_tokens is None:
        raise SrpoError(
            "engine.max_total_tokens is not set: on a CPU SGLang takes engine.mem_fraction_static of the "
            "whole memory for its cache; set it to the requests that one engine holds at once times their "
            "prompt and response tokens"
        )
    # sleep-on-idle: without it the scheduler spins and starves the processes that feed it.
    backends = ["--attention-backend", "torch_native", "--sampling-backend", "pytorch"]
    return ["--device", "cpu", *backends, "--sleep-on-idle"]


def _cpu_environment(section: EngineSection, index: int) -> dict[str, str]:
    environment = {
        "OMP_NUM_THREADS": "1",
        # Freed memory is kept: the buffers of a weight exchange would else be mapped, and their pages made, anew
        # for every bucket, which takes longer than receiving them.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
    }
    if section.tensor_parallel > 1:
        cores = sorted(os.sched_getaffinity(0))
        first = index * section.tensor_parallel
        mine = (cores[(first + rank) % len(cores)] for rank in range(section.tensor_parallel))
        environment["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(map(str, mine))
    return environment


def _gpus_of_engine(section: EngineSection, index: int, gpus: Sequence[str]) -> str:
    needed = section.count * section.tensor_parallel
    if len(gpus) < needed:
        raise SrpoError(
            f"engine: count {section.count} x tensor_parallel {section.tensor_parallel} needs {needed} GPUs "
            f"but {len(gpus)} are given; lower engine.count or give more GPUs"
        )
    first = index * section.tensor_parallel
    return ",".join(gpus[first : first + section.tensor_parallel])


def _inherited_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in TORCHRUN_VARIABLES}
