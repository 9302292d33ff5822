"""A stand-in for Transformer Engine's weights in 8 bits, for Megatron's own code on CPUs.

`Quantized` behaves as `QuantizedTensor` does where Megatron and we touch it: it says that it is bfloat16, most
operations see its values, `copy_` and `data = ` round, `bfloat16()` gives a plain tensor, its bytes lie in one of
Megatron's buffers, and gradients read a copy by columns, which is made when rows have been gathered.  There is one
scale a weight.  `stand_in` puts it in the place of the layers' matrices, and answers for Transformer Engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from megatron.core import fp8_utils
from megatron.core.distributed import param_and_grad_buffer
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch.utils._pytree import tree_map

from megatron_srpo.actor import actor, reference
from megatron_srpo.actor.actor import Actor
from megatron_srpo.actor.model import build_model

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
ATTRIBUTES = ("tensor_model_parallel", "partition_dim", "partition_stride", "allreduce")


def scale_of(largest: torch.Tensor) -> torch.Tensor:
    """What a weight is divided by when an update quantizes it."""
    return largest.float() / LARGEST


def rounded(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The bytes of `values`."""
    return (values.float() / scale).clamp(-LARGEST, LARGEST).to(FP8).view(torch.uint8)


class Quantized(torch.Tensor):
    """Bytes by rows [o, i], the same by columns [i, o], and a scale."""

    rows: torch.Tensor
    columns: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor) -> Quantized:
        made: Quantized = torch.Tensor._make_wrapper_subclass(cls, rows.shape, dtype=torch.bfloat16)  # type: ignore[attr-defined]
        made.rows, made.columns, made.scale = rows, columns, scale
        return made

    @classmethod
    def of(cls, values: torch.Tensor) -> Quantized:
        rows = torch.empty(values.shape, dtype=torch.uint8)
        made = cls(rows, torch.empty_like(rows.t()), torch.ones(()))
        made.quantize(values)
        return made

    def quantize(self, values: torch.Tensor) -> None:
        """As one call does for a whole weight: not the bits of an update, nobody promises that they are."""
        self.scale.copy_(2 * scale_of(values.abs().max()))
        self.rows.copy_(rounded(values, self.scale))
        self.columns.copy_(self.rows.t())

    def dequantize(self) -> torch.Tensor:  # type: ignore[override]
        return (self.rows.view(FP8).float() * self.scale).bfloat16()

    def bfloat16(self) -> torch.Tensor:  # type: ignore[override]
        return self.dequantize()

    def detach(self) -> Quantized:
        return Quantized(self.rows, self.columns, self.scale)

    def expand_as(self, other: torch.Tensor) -> torch.Tensor:
        return Identity.apply(self) if other is self else super().expand_as(other)  # type: ignore[no-untyped-call,no-any-return]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":
            self.quantize(plain(value))
        else:
            super().__setattr__(name, value)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0].detach()
        if func is torch.ops.aten.copy_.default and isinstance(args[0], Quantized):
            args[0].quantize(plain(args[1]))
            return args[0]
        if func in (torch.ops.aten.view.default, torch.ops.aten.slice.Tensor):
            raise NotImplementedError("no views of weights in 8 bits")
        read = by_columns if func is torch.ops.aten.mm.default else plain
        return func(*tree_map(read, args), **tree_map(read, kwargs or {}))

    __torch_function__ = torch._C._disabled_torch_function_impl


class Identity(torch.autograd.Function):
    """Where Megatron looks for the node that accumulates a parameter's gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Quantized) -> Quantized:
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient


def plain(value: Any) -> Any:
    return value.dequantize() if isinstance(value, Quantized) else value


def by_columns(value: Any) -> Any:
    """A gradient's product reads the copy by columns."""
    if not isinstance(value, Quantized):
        return value
    return Quantized(value.columns.t(), value.columns, value.scale).dequantize()


def quantize_shards(
    weights: Sequence[Quantized],
    masters: Sequence[torch.Tensor | None],
    starts: Sequence[int | None],
    group: torch.distributed.ProcessGroup,
    fsdp: None = None,
) -> None:
    """What an update does: the scale is that of all ranks' values, which are rounded to bfloat16 first."""
    if not weights:
        return
    narrow = [None if master is None else master.bfloat16() for master in masters]
    largest = torch.stack([torch.zeros(()) if v is None else v.abs().max().float() for v in narrow])
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX, group)
    for weight, values, start, most in zip(weights, narrow, starts, largest, strict=True):
        weight.scale.copy_(scale_of(most))
        if values is not None and start is not None:
            weight.rows.view(-1)[start : start + values.numel()] = rounded(values, weight.scale)


def replace_bytes(weight: Quantized, rows: torch.Tensor) -> None:
    """A weight's bytes move into Megatron's buffer."""
    rows.copy_(weight.rows)
    weight.rows = rows


def make_columns(weights: Sequence[Quantized]) -> None:
    for weight in weights:
        weight.columns.copy_(weight.rows.t())


def build(*arguments: Any) -> Any:
    """The model with its layers' matrices in 8 bits, of garbage, which Transformer Engine remembers."""
    chunks = build_model(*arguments)
    for module in (module for chunk in chunks for module in chunk.decoder.modules()):
        if isinstance(module, ColumnParallelLinear | RowParallelLinear):
            old = module.weight
            module.weight = torch.nn.Parameter(Quantized.of(torch.randn(old.shape)))
            for name in ATTRIBUTES:
                if hasattr(old, name):
                    setattr(module.weight, name, getattr(old, name))
            module.weight.get_high_precision_init_val = lambda shape=old.shape: torch.randn(shape)
            module.weight.clear_high_precision_init_val = lambda: None
    return chunks


class Done:
    """The handle of a collective that waits for itself."""

    def wait(self) -> None:
        pass


@contextlib.contextmanager
def one_by_one(group: torch.distributed.ProcessGroup, async_ops: bool = False) -> Iterator[Done]:
    """In the place of torch's coalescing: gloo makes one array of all, and mixes up bytes and bfloat16 so."""
    yield Done()


def gather(whole: torch.Tensor, own: torch.Tensor, group: Any, async_op: bool) -> None:
    torch.distributed.all_gather_into_tensor(whole, own, group)


def scatter(own: torch.Tensor, whole: torch.Tensor, op: Any, group: Any, async_op: bool) -> None:
    torch.distributed.reduce_scatter_tensor(own, whole, op, group)


def remembered(actor: Actor) -> int:
    """Parameters that still hold the values that they were made of."""
    models = [*actor.chunks, *(actor.reference or [])]
    found = [p for model in models for p in model.parameters() if isinstance(p, Quantized)]
    return sum(p.get_high_precision_init_val() is not None for p in found)  # type: ignore[attr-defined]


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Models that are built within have weights in 8 bits."""
    te = {
        "HAVE_TE_FP8_TENSOR_CLASS": True,
        "FP8_TENSOR_CLASS": Quantized,
        "is_te_min_version": lambda *_: True,
        "_modify_underlying_storage_impl": replace_bytes,
        "_quantize_param_shard_impl": quantize_shards,
        "te_post_all_gather_processing": make_columns,
    }
    collectives = {
        "_coalescing_manager": one_by_one,
        "dist_all_gather_func": gather,
        "dist_reduce_scatter_func": scatter,
    }
    with contextlib.ExitStack() as stack:
        for module, values in (
            (fp8_utils, te),
            (param_and_grad_buffer, collectives),
            (actor, {"build_model": build}),
            (reference, {"build_model": build}),
        ):
            stack.enter_context(mock.patch.multiple(module, **values))
        yield
