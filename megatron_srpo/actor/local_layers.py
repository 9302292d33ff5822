"""Our replacements inside Megatron's local layer spec: a norm and a core attention that know packed sequences.

Megatron's own `WrappedTorchNorm` refuses sequence parallelism and its `DotProductAttention` refuses packed
(thd) input; Transformer Engine has both, and needs CUDA.  These two modules fill the gap on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

# Sequences share one attention call when the shortest is at least this share of the longest.
_SHORTEST_IN_GROUP = 0.75


class RMSNorm(torch.nn.RMSNorm):
    """RMSNorm whose weight is marked for the gradient all-reduce that sequence parallelism needs."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


@dataclass
class Rectangle:
    """Sequences of similar length, as rows of a right-padded rectangle.

    index: [rows, longest] int64, positions in the packed tokens; padding repeats the row's last token.
    valid: [rows, longest] bool, false at padding.
    """

    index: torch.Tensor
    valid: torch.Tensor


@dataclass
class Context:
    """Which of the packed tokens this context rank has, [tokens / ranks] int64, and who has the others."""

    mine: torch.Tensor
    group: dist.ProcessGroup

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        """The tokens of all ranks in packed order, [tokens, ...]; gradients are summed over the ranks."""
        order = [torch.empty_like(self.mine) for _ in range(self.group.size())]
        dist.all_gather(order, self.mine, group=self.group)
        joined: torch.Tensor = gather_from_sequence_parallel_region(part, group=self.group)
        return joined[torch.argsort(torch.cat(order))]


@dataclass
class PackedSequences(PackedSeqParams):
    """Megatron's packed-sequence description plus what the local attention computes in.

    rectangles: of the whole packed tokens; context: none where this rank has all of them.
    """

    rectangles: tuple[Rectangle, ...] = ()
    context: Context | None = None


def rectangles(lengths: list[int], device: torch.device) -> tuple[Rectangle, ...]:
    """Group packed sequences of the given lengths into rectangles of similar length; each is in exactly one."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    order = sorted((i for i, length in enumerate(lengths) if length > 0), key=lambda i: (lengths[i], i))
    groups: list[list[int]] = []
    for i in order:
        if groups and lengths[groups[-1][0]] >= _SHORTEST_IN_GROUP * lengths[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    result = []
    for group in groups:
        first = torch.tensor([starts[i] for i in group], device=device)[:, None]
        size = torch.tensor([lengths[i] for i in group], device=device)[:, None]
        offset = torch.arange(int(size.max()), device=device)[None, :]
        result.append(Rectangle(first + torch.minimum(offset, size - 1), offset < size))
    return tuple(result)


class PackedAttention(MegatronModule):
    """Causal attention of packed sequences by torch's scaled_dot_product_attention.

    Right-padding a row changes nothing: a causal query never sees the keys behind it, and the outputs of
    padded queries are dropped.  Grouped queries share their key-value head.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        if config.attention_dropout:
            raise ValueError("attention dropout must be 0: the engine has none")
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSequences | None = None,
    ) -> torch.Tensor:
        """query [tokens, heads, dim], key and value [tokens, groups, dim] -> [tokens, heads * dim]."""
        if packed_seq_params is None:
            raise ValueError("PackedAttention needs packed sequences")
        context = packed_seq_params.context
        if context is not None:
            # Every rank computes everything and keeps its own: on a CPU being exact matters, not being fast.
            query, key, value = context.gather(query), context.gather(key), context.gather(value)
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        outputs, places = [], []
        for rectangle in packed_seq_params.rectangles:
            rows = [tensor[rectangle.index].transpose(1, 2) for tensor in (query, key, value)]
            attended = F.scaled_dot_product_attention(*rows, is_causal=True, scale=self.scale)
            outputs.append(attended.transpose(1, 2)[rectangle.valid])
            places.append(rectangle.index[rectangle.valid])
        inverse = torch.argsort(torch.cat(places))
        attended = torch.cat(outputs)[inverse].flatten(1)
        return attended if context is None else attended[context.mine]
