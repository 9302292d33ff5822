"""The trainer's side of a weight exchange: buckets of HF tensors broadcast to the engines.

Each pipeline stage has a process group of its own with all engine ranks, led by its first rank, so no rank
ever holds more than its stage's share of the model.  What is in which bucket is fixed before the run: the
controller announces a bucket to the engines by HTTP while the stage's leader broadcasts it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_srpo.actor.parallel import Ranks
from megatron_srpo.bridge.weights import Binding, exported, gather, merged_shapes
from megatron_srpo.platform.select import Platform
from megatron_srpo.sync.bucket import flatten
from megatron_srpo.sync.process_group import join_group


@dataclass(frozen=True)
class Bucket:
    """HF tensors that travel in one broadcast, as the engine's API names them."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]


@dataclass(frozen=True)
class WeightGroup:
    """A pipeline stage's process group: its name, where its leader listens, and its buckets in order."""

    name: str
    address: str
    port: int
    buckets: list[Bucket]


def plan_buckets(
    bindings: Sequence[Binding], tensor_parallel: int, dtype: torch.dtype, max_bytes: int
) -> list[list[Binding]]:
    """Group a stage's parameters, in order, into buckets of at most `max_bytes` (or one parameter)."""
    plan: list[list[Binding]] = []
    used = 0
    for binding in exported(bindings):
        size = dtype.itemsize * sum(torch.Size(s).numel() for s in merged_shapes(binding, tensor_parallel))
        if not plan or used + size > max_bytes:
            plan.append([])
            used = 0
        plan[-1].append(binding)
        used += size
    return plan


def describe(plan: Sequence[Sequence[Binding]], tensor_parallel: int, dtype: torch.dtype) -> list[Bucket]:
    """What the engines are told of each bucket."""
    name = str(dtype).removeprefix("torch.")
    buckets = []
    for part in plan:
        names = [hf for binding in part for hf in binding.hf]
        shapes = [shape for binding in part for shape in merged_shapes(binding, tensor_parallel)]
        buckets.append(Bucket(names, [name] * len(names), shapes))
    return buckets


class WeightSender:
    """Sends this stage's weights; ranks with data-parallel index above 0 have nothing to do in it."""

    def __init__(
        self,
        bindings: Sequence[Binding],
        ranks: Ranks,
        platform: Platform,
        dtype: torch.dtype,
        bucket_bytes: int,
        timeout: float,
    ) -> None:
        self.ranks, self.platform, self.dtype, self.timeout = ranks, platform, dtype, timeout
        self.plan = plan_buckets(bindings, ranks.tensor_size, dtype, bucket_bytes)
        self._group: dist.ProcessGroup | None = None

    def weight_group(self, address: str) -> WeightGroup | None:
        """Description of this stage's group with a port that is free now; none unless this rank leads it."""
        if not self.ranks.leads_stage:
            return None
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        buckets = describe(self.plan, self.ranks.tensor_size, self.dtype)
        return WeightGroup(f"srpo-stage-{self.ranks.pipeline}", address, port, buckets)

    def join(self, group: WeightGroup | None, world_size: int) -> None:
        """Meet the engines in the stage's group as its rank 0."""
        if group is not None:
            self._group = join_group(
                address=group.address,
                port=group.port,
                rank=0,
                world_size=world_size,
                name=group.name,
                backend=self.platform.collectives,
                timeout=self.timeout,
            )

    def send(self) -> int:
        """Broadcast every bucket in order; returns the bytes that this rank has sent."""
        sent = 0
        if self.ranks.data != 0:
            return sent
        for part in self.plan:
            tensors: list[torch.Tensor] = []
            for binding in part:
                tensors += gather(binding, self.dtype) or []
            if self.ranks.leads_stage:
                flat = flatten(tensors)
                dist.broadcast(flat, src=0, group=self._group)
                sent += flat.numel()
        return sent


def group_as_message(group: WeightGroup) -> dict[str, Any]:
    """The group as a JSON object."""
    return asdict(group)
