"""What a test rank does to see what becomes of the optimizer's state between updates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import torch

from megatron_srpo.actor.actor import Actor
from megatron_srpo.actor.checkpoint import load_checkpoint
from megatron_srpo.actor.saver import Saver
from megatron_srpo.actor.shards import optimizers
from megatron_srpo.actor.snapshot import HostBuffer
from megatron_srpo.actor.step import train_step
from megatron_srpo.recipe.schema import CheckpointSection


class LateBuffer(HostBuffer):
    """Copies at the last moment: when an update wants to begin."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.is_due = Event()

    def copy(self, tensors: Sequence[torch.Tensor], mark: Any) -> list[torch.Tensor]:
        assert self.is_due.wait(60)
        return super().copy(tensors, mark)


def state_tensors(actor: Actor) -> Iterator[torch.Tensor]:
    """Moments, and the master weights of a bfloat16 model."""
    for one in optimizers(actor.optimizer):
        for group in one.shard_fp32_from_float16_groups:
            yield from group
        for group in one.optimizer.param_groups:
            for parameter in group["params"]:
                state = one.optimizer.state.get(parameter, {})
                yield from (state[name] for name in sorted(state))


def watch(actor: Actor) -> dict[str, list[int]]:
    """Bytes of storage that the state has during each forward and backward pass from now on."""
    held: dict[str, list[int]] = {"forward": [], "backward": []}

    def note(when: str) -> None:
        held[when].append(sum(tensor.untyped_storage().nbytes() for tensor in state_tensors(actor)))

    def hook(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        note("forward")
        if output.requires_grad:
            output.register_hook(lambda gradient: note("backward"))

    for chunk in actor.chunks:
        chunk.register_forward_hook(hook)
    return held


def digest(tensors: Iterator[torch.Tensor]) -> str:
    """Of all bytes in order; of copies, because a storage that numpy has seen cannot be resized any more."""
    return hashlib.sha256(b"".join(t.detach().float().clone().numpy().tobytes() for t in tensors)).hexdigest()


def train_and_save(actor: Actor, job: dict[str, Any]) -> dict[str, Any]:
    """Train on the steps, perhaps from a checkpoint (`load`); version 2 is saved while the step behind it runs."""
    held = watch(actor)
    if "load" in job:
        load_checkpoint(actor, Path(job["load"]), 2)
    saver = Saver(Path(job["to"]), CheckpointSection(), actor)
    saver._buffer = late = LateBuffer(actor.platform.device)

    def before_update() -> None:
        late.is_due.set()
        saver.wait_copied()

    metrics = []
    for path in job["steps"]:
        metrics.append(train_step(actor, Path(path), before_update))
        if actor.version == 2:
            late.is_due.clear()
            saver.start(actor, None)
    saver.wait()
    with actor.state_at_hand():
        return {
            "metrics": [
                {k: v for k, v in of.items() if not k.startswith(("seconds_", "train_"))} for of in metrics
            ],
            "weights": digest(parameter for chunk in actor.chunks for parameter in chunk.parameters()),
            "state": digest(state_tensors(actor)),
            "bytes": sum(tensor.nbytes for tensor in state_tensors(actor)),
            "held": held,
        }
