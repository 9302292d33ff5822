"""The trainer's side of a weight exchange: buckets of HF tensors broadcast to the engines.

Each pipeline stage has a process group of its own with all engine ranks, led by its first rank, so no rank
ever holds more than its stage's share of the model.  With expert parallelism the first rank that holds another
share of the experts leads a group of its own for them.  What is in which bucket is fixed before the run: the
controller announces a bucket to the engines by HTTP while its leader broadcasts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_srpo.actor.parallel import Ranks
from megatron_srpo.bridge.weights import Binding, gather, merged_shapes, shared_and_experts
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
    """A leader's process group: its name, where the leader listens, and its buckets in order."""

    name: str
    address: str
    port: int
    buckets: list[Bucket]


def plan_buckets(
    bindings: Sequence[Binding], tensor_parallel: int, dtype: torch.dtype, max_bytes: int
) -> list[list[Binding]]:
    """Group parameters, in order, into buckets of at most `max_bytes` (or one parameter).

    The first bucket is smaller, because nothing can be sent while it is gathered.  The wider types come first: a
    tensor of a flat bucket begins at a multiple of its item size.
    """
    plan: list[list[Binding]] = []
    used = 0
    for binding in sorted(bindings, key=lambda binding: -binding.dtype(dtype).itemsize):
        size = _bucket_bytes([binding], tensor_parallel, dtype)
        limit = max_bytes if len(plan) > 1 else max_bytes // FIRST_BUCKET_SHARE
        if not plan or used + size > limit:
            plan.append([])
            used = 0
        plan[-1].append(binding)
        used += size
    return plan


def _bucket_bytes(part: Sequence[Binding], tensor_parallel: int, dtype: torch.dtype) -> int:
    return sum(
        binding.dtype(dtype).itemsize * torch.Size(shape).numel()
        for binding in part
        for shape in merged_shapes(binding, tensor_parallel)
    )


def describe(plan: Sequence[Sequence[Binding]], tensor_parallel: int, dtype: torch.dtype) -> list[Bucket]:
    """What the engines are told of each bucket."""
    buckets = []
    for part in plan:
        names = [hf for binding in part for hf in binding.hf]
        shapes = [shape for binding in part for shape in merged_shapes(binding, tensor_parallel)]
        dtypes = [str(binding.dtype(dtype)).removeprefix("torch.") for binding in part for _ in binding.hf]
        buckets.append(Bucket(names, dtypes, shapes))
    return buckets


class WeightSender:
    """Sends what this rank leads, and helps its stage's leader to gather what tensor parallelism splits.

    `shared` is gathered by the ranks that lead their copies and sent by the stage's leader; `experts` is
    sent by the first rank that holds this share of them.
    """

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
        shared, experts = shared_and_experts(bindings)
        size = ranks.tensor_size
        self.shared = plan_buckets(shared, size, dtype, bucket_bytes) if ranks.leads_copies else []
        self.experts = plan_buckets(experts, size, dtype, bucket_bytes) if ranks.leads_experts else []
        self.sent = [*(self.shared if ranks.leads_stage else []), *self.experts]
        self._group: dist.ProcessGroup | None = None
        self._store: dist.TCPStore | None = None
        self._buffers: list[torch.Tensor] = []

    def weight_group(self, address: str) -> WeightGroup | None:
        """Description of the group that this rank leads; none unless it has something to send.

        The group's store listens from here on, so that nobody else can take its port before the engines come.
        """
        if not self.sent:
            return None
        self._store = open_store(address, self.timeout)
        port = self._store.port
        buckets = describe(self.sent, self.ranks.tensor_size, self.dtype)
        name = f"srpo-stage-{self.ranks.pipeline}"
        if not self.ranks.leads_stage:
            name += f"-experts-{self.ranks.expert}"
        return WeightGroup(name, address, port, buckets)

    def join(self, group: WeightGroup | None, world_size: int) -> None:
        """Meet the engines in the group that this rank leads, as its rank 0."""
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
        sending: list[dist.Work | None] = [None, None]
        sent = 0
        # What others wait for comes first: a rank may lead experts and help to gather the rest.
        for number, part in enumerate([*self.shared, *self.experts]):
            tensors: list[torch.Tensor] = []
            for binding in part:
                tensors += gather(binding, self.dtype) or []
            if not tensors:
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
            size = max(_bucket_bytes(part, self.ranks.tensor_size, self.dtype) for part in self.sent)
            self._buffers = [torch.empty(size, dtype=torch.uint8, device=self.platform.device) for _ in range(2)]
        return self._buffers[turn]


def group_as_message(group: WeightGroup) -> dict[str, Any]:
    """The group as a JSON object."""
    return asdict(group)
