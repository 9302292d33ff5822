"""What the checks judge: plain facts of a machine and its environments, gathered by gather.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from megatron_srpo.doctor.ask import Trouble
from megatron_srpo.plan.checks import Missing
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.rollout.engine_command import Device


class Answer(BaseModel):
    """Facts that another process gives as JSON."""

    model_config = ConfigDict(frozen=True)


class Gpu(Answer):
    """A GPU that torch can use: bytes of memory, and compute capability as (9, 0)."""

    name: str
    memory: int
    capability: tuple[int, int]


class TorchFacts(Answer):
    """What `platform/facts.py` says of torch; `cudnn` is 91200 for 9.12.0, `no_gpu` why it can use no GPU."""

    version: str
    cuda: str | None
    cudnn: int | None
    nccl: str | None
    gpus: tuple[Gpu, ...]
    no_gpu: str | None


class ImportFacts(Answer):
    """A module that could be imported."""

    module: str


class EngineFacts(Answer):
    """Versions in the engine's environment; none where a package is not there."""

    python: str
    sglang: str | None
    torch: str | None


@dataclass(frozen=True)
class MachineFacts:
    """What this process may use; memory and file systems in bytes, none where there is no /dev/shm."""

    cores: int
    memory: int
    folder: Path
    free_disk: int
    shared_memory: int | None


@dataclass(frozen=True)
class NvidiaFacts:
    """What NVIDIA's driver says: its version, and a name for each GPU."""

    driver: str
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class PackageFacts:
    """What megatron_srpo asks for, and what is installed.

    `requirements` and `python` are those of its metadata, none where it is not installed itself; `versions` are
    those of installed distributions by their normalised names, and have an entry for each name that is asked for.
    """

    python: str | None
    requirements: tuple[str, ...] | None
    versions: Mapping[str, str | None]


@dataclass(frozen=True)
class SandboxFacts:
    """The level of isolation that programs get, and what it means."""

    level: str
    meaning: str


@dataclass(frozen=True)
class FileFacts:
    """What there is of a recipe's files: the model, none where something is `wrong`, and what is missing.

    `disk` is the folder that exists of the run directory's path; `free_disk` is in bytes.
    """

    model: ModelConfig | None
    wrong: str
    missing: tuple[Missing, ...]
    disk: Path
    free_disk: int


@dataclass(frozen=True)
class Facts:
    """All of them; None where a question was not asked, because its object is not installed or not needed.

    `automatic_engine_device` is where engines run with `engine.device: auto`.
    """

    machine: MachineFacts
    python: str
    packages: PackageFacts
    nvidia: NvidiaFacts | Trouble | None
    torch: TorchFacts | Trouble
    transformer_engine: ImportFacts | Trouble | None
    fused_gradients: ImportFacts | Trouble | None
    engine: EngineFacts | Trouble | None
    sandbox: SandboxFacts | Trouble
    automatic_engine_device: Device

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that torch can use."""
        return self.torch.gpus if isinstance(self.torch, TorchFacts) else ()

    @property
    def gpu_count(self) -> int:
        """How many GPUs there are for us; where torch can use none, how many there would be."""
        return len(self.gpus) or (len(self.nvidia.gpus) if isinstance(self.nvidia, NvidiaFacts) else 0)
