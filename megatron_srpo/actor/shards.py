"""What this rank has to write for a checkpoint: every tensor of the job by exactly one rank, as it lies in memory.

Keys, shapes and offsets are those of `megatron.core.dist_checkpointing` with a `fully_reshardable` optimizer.
Megatron itself would first gather the optimizer's flat shards on data-parallel rank 0.  Here each rank writes
its own: a flat range of a parameter is at most a few rectangles of it, and the format takes any rectangle.  So
there is no communication before training goes on, and all ranks write.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import (
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
    apply_factories,
    is_main_replica,
)
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer

from megatron_srpo.bridge.quantized import plain

Rectangle = tuple[tuple[int, ...], tuple[int, ...]]  # offsets and sizes


@dataclass(frozen=True)
class Shard:
    """A rectangle of global tensor `key` of `shape` at `offsets`.

    `tensor` is a view of the live memory, or of a weight in 8 bits its values.
    """

    key: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    tensor: torch.Tensor


def rectangles(shape: Sequence[int], start: int, end: int) -> Iterator[Rectangle]:
    """The flat range [start, end) of a row-major array of `shape`, in order, as rectangles.

    At most two a dimension but one: what is left of the first row, whole rows, the beginning of the last row.
    """
    if start >= end:
        return
    inner = math.prod(shape[1:])
    first, last = -(-start // inner), end // inner
    if len(shape) == 1:
        yield (start,), (end - start,)
    elif first > last:  # within one row
        yield from _in_row(shape, last, start - last * inner, end - last * inner)
    else:
        yield from _in_row(shape, first - 1, start - (first - 1) * inner, inner if start % inner else 0)
        if first < last:
            yield (first, *[0] * (len(shape) - 1)), (last - first, *shape[1:])
        yield from _in_row(shape, last, 0, end - last * inner)


def _in_row(shape: Sequence[int], row: int, start: int, end: int) -> Iterator[Rectangle]:
    for offsets, sizes in rectangles(shape[1:], start, end):
        yield (row, *offsets), (1, *sizes)


def model_shards(state: dict[str, Any]) -> list[Shard]:
    """The weights that this rank writes, out of a `sharded_state_dict`, of which only they are left.

    Weights in 8 bits are written in the dtype that they say they have, so that any model can load them.
    """
    for item in nested_values(state):
        if isinstance(item, ShardedTensor | ShardedTensorFactory):
            item.data = plain(item.data) if is_main_replica(item.replica_id) else _shape_of(item.data)
    apply_factories(state)
    return [
        Shard(item.key, tuple(item.global_shape), tuple(item.global_offset), _prepended(item, item.data))
        for item in nested_values(state)
        if isinstance(item, ShardedTensor) and is_main_replica(item.replica_id)
    ]


def model_objects(state: dict[str, Any]) -> dict[str, Any]:
    """The small objects of the layers that this rank writes, by key."""
    return {
        item.unique_key: item.data
        for item in nested_values(state)
        if isinstance(item, ShardedObject) and is_main_replica(item.replica_id)
    }


def optimizer_shards(
    state: dict[str, Any], optimizer: MegatronOptimizer, elsewhere: Mapping[int, torch.Tensor]
) -> list[Shard]:
    """Master weights and moments of this rank's flat ranges.

    Args:
        state: the model's, before `model_shards`.
        optimizer: whose state it is.
        elsewhere: of tensors whose own storage is freed, by their `id`: what holds their values.
    """
    of_parameter = {
        id(item.data): item
        for item in nested_values(state)
        if isinstance(item, ShardedTensor | ShardedTensorFactory)
    }
    return [
        shard
        for one in optimizers(optimizer)
        for parameter, start, end in _ranges(one)
        for name, values in one._get_main_param_and_optimizer_states(parameter).items()
        if name != "step"  # kept in the parameter groups
        for shard in _state_shards(
            f"optimizer.state.{name}.",
            of_parameter[id(parameter)],
            elsewhere.get(id(values), values),
            start,
            end,
        )
    ]


def optimizers(optimizer: MegatronOptimizer) -> list[Any]:
    """The distributed optimizers: one, and one more for parameters of experts."""
    return list(optimizer.chained_optimizers) if isinstance(optimizer, ChainedOptimizer) else [optimizer]


def _ranges(optimizer: Any) -> Iterator[tuple[torch.nn.Parameter, int, int]]:
    """Which part of which flattened parameter this rank's distributed optimizer holds."""
    for by_dtype in optimizer.gbuf_ranges:
        for buckets in by_dtype.values():
            for bucket in buckets:
                for parameter, ranges in bucket["param_map"].items():
                    yield parameter, ranges["param"].start, ranges["param"].end


def _state_shards(
    prefix: str, whole: ShardedTensor | ShardedTensorFactory, values: torch.Tensor, start: int, end: int
) -> Iterator[Shard]:
    """Rectangles of `values`, the flat range [start, end) of a parameter's state, within the global tensors."""
    whole = replace(whole, data=_shape_of(whole.data))  # where parts lie in it, weights in 8 bits do not say
    for part in [whole] if isinstance(whole, ShardedTensor) else nested_values(whole.build()):
        # Replicas along tensor and pipeline parallelism hold the same; along data parallelism, other ranges.
        if any(part.replica_id[:2]):
            continue
        begin = part.data.storage_offset()
        size = part.data.numel()
        low, high = max(start, begin), min(end, begin + size)
        position = low - start
        for offsets, sizes in rectangles(tuple(part.data.shape), low - begin, high - begin):
            count = math.prod(sizes)
            tensor = _prepended(part, values.view(-1)[position : position + count].view(sizes))
            position += count
            own = (0,) * part.prepend_axis_num + offsets
            at = tuple(o + i for o, i in zip(part.global_offset, own, strict=True))
            yield Shard(prefix + part.key, tuple(part.global_shape), at, tensor)


def _prepended(item: ShardedTensor, tensor: torch.Tensor) -> torch.Tensor:
    """With the axes of layer and expert, which the parameter itself does not have."""
    return tensor.view((1,) * item.prepend_axis_num + tuple(tensor.shape))


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    """Shape and dtype without memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
