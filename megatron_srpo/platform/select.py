"""Choice of the trainer's platform: CUDA with Transformer Engine, or the CPU with Megatron's local layers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch

from megatron_srpo.errors import SrpoError


@dataclass(frozen=True)
class Platform:
    """What the actor needs to know of the hardware.

    `layers` names the Megatron layer spec: Transformer Engine's or the local one with our own attention.
    """

    device: torch.device
    collectives: Literal["nccl", "gloo"]
    layers: Literal["transformer_engine", "local"]

    @property
    def is_cuda(self) -> bool:
        """Whether tensors live on a GPU."""
        return self.device.type == "cuda"


def select_platform(device: Literal["auto", "cpu", "cuda"], local_rank: int = 0, threads: int = 1) -> Platform:
    """Prepare this process for `device` and describe it; on a CPU Megatron is taught to live without CUDA.

    Raises SrpoError when CUDA is asked for and is not there, or Transformer Engine is missing beside it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        from megatron_srpo.platform import cpu

        torch.set_num_threads(threads)
        cpu.install()
        return Platform(torch.device("cpu"), "gloo", "local")
    if not torch.cuda.is_available():
        raise SrpoError(
            "trainer.device is cuda but torch sees no GPU: set trainer.device=cpu or run on a GPU node"
        )
    if importlib.util.find_spec("transformer_engine") is None:
        raise SrpoError(
            "trainer.device is cuda but transformer_engine is not installed: install the `gpu` extra "
            "(pip install 'megatron-srpo[gpu]')"
        )
    if local_rank >= torch.cuda.device_count():
        raise SrpoError(
            f"local rank {local_rank} has no GPU: this node shows {torch.cuda.device_count()}; "
            "lower the trainer's ranks per node"
        )
    torch.cuda.set_device(local_rank)
    return Platform(torch.device("cuda", local_rank), "nccl", "transformer_engine")
