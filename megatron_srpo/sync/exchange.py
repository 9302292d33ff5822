"""The trainer's side of a weight exchange: buckets of HF tensors broadcast to the engines.

Each pipeline stage has a process group of its own with all engine ranks, led by its first rank, so no rank
ever holds more than its stage's share of the model.  What is in which bucket is fixed before the run: the
controller announces a bucket to the engines by HTTP while the stage's leader broadcasts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_srpo.actor.parallel import Ranks
from megatron_srpo.bridge.weights import Binding, exported, gather, merged_shapes
from megatron_srpo.platform.select import Platform
from megatron_srpo.sync.bucket import flatten
from megatron_srpo.sync.process_group import join_group, open_store

FIRST_BUCKET_SHARE = 16


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
    """Group a stage's parameters, in order, into buckets of at most `max_bytes` (or one parameter).

    The first bucket is smaller, because nothing can be sent while it is gathered.
    """
    plan: list[list[Binding]] = []
    used = 0
    for binding in exported(bindings):
        size = _bucket_bytes([binding], tensor_parallel, dtype)
        limit = max_bytes if len(plan) > 1 else max_bytes // FIRST_BUCKET_SHARE
        if not plan or used + size > limit:
            plan.append([])
            used = 0
        plan[-1].append(binding)
        used += size
    return plan


def _bucket_bytes(part: Sequence[Binding], tensor_parallel: int, dtype: torch.dtype) -> int:
    shapes = (shape for binding in part for shape in merged_shapes(binding, tensor_parallel))
    return dtype.itemsize * sum(torch.Size(shape).numel() for shape in shapes)


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
        self._store: dist.TCPStore | None = None
        self._buffers: list[torch.Tensor] = []

    def weight_group(self, address: str) -> WeightGroup | None:
        """Description of this stage's group; none unless this rank leads it.

        The group's store listens from here on, so that nobody else can take its port before the engines come.
        """
        if not self.ranks.leads_stage:
            return None
        self._store = open_store(address, self.timeout)
        port = self._store.port
        buckets = describe(self.plan, self.ranks.tensor_size, self.dtype)
        return WeightGroup(f"srpo-stage-{self.ranks.pipeline}", address, port, buckets)

    def join(self, group: WeightGroup | None, world_size: int) -> None:
        """Meet the engines in the stage's group as its rank 0."""
        if group is not None:
            self._group = join_group(
                address=group.address,
                port=group.port,
                store=self._store,
                rank=0,
                world_size=world_size,
                name=group.name,
                backend=self.platform.collectives,
                timeout=self.timeout,
            )

    def send(self) -> int:
        """Broadcast every bucket in order; returns the bytes that this rank has sent.

        Two buffers take turns: while the engines receive and load one bucket the next is gathered.
        """
        if self.ranks.data != 0:
            return 0
        sending: list[dist.Work | None] = [None, None]
        sent = 0
        for number, part in enumerate(self.plan):
            tensors: list[torch.Tensor] = []
            for binding in part:
                tensors += gather(binding, self.dtype) or []
            if not self.ranks.leads_stage:
                continue
            turn = number % 2
            if (earlier := sending[turn]) is not None:
                earlier.wait()
            flat = flatten(tensors, out=self._buffer(turn))
            sending[turn] = dist.broadcast(flat, src=0, group=self._group, async_op=True)
            sent += flat.numel()
        for work in sending:
            if work is not None:
                work.wait()
        return sent

    def _buffer(self, turn: int) -> torch.Tensor:
        """One of the two buffers, each as large as the largest bucket and kept for the next exchange."""
        if not self._buffers:
            size = max(_bucket_bytes(part, self.ranks.tensor_size, self.dtype) for part in self.plan)
            self._buffers = [torch.empty(size, dtype=torch.uint8, device=self.platform.device) for _ in range(2)]
        return self._buffers[turn]


def group_as_message(group: WeightGroup) -> dict[str, Any]:
    """The group as a JSON object."""
    return asdict(group)
