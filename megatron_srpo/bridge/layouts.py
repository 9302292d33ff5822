"""How a Megatron parameter is made of Hugging Face tensors, and split over tensor-parallel ranks.

Each layout answers two questions: which slices of the HF tensors make the shard of rank r of n (`shard`),
and which HF tensors come out of all n shards (`merge`).  `merge(all shards)` gives back the HF tensors byte
for byte.  A `Source` is anything that slices like a tensor: a safetensors slice, so that a rank reads only
its part of the file, or a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from megatron_srpo.recipe.model_config import ModelConfig

Source = Any  # safetensors' PySafeSlice or torch.Tensor: both slice to a tensor


class Layout(Protocol):
    """See the module's text."""

    def shard(self, sources: Sequence[Source], rank: int, size: int) -> torch.Tensor:
        """The parameter of tensor-parallel rank `rank` of `size`."""

    def merge(self, shards: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The HF tensors out of the shards of all tensor-parallel ranks, in rank order."""


def _rows(source: Source, rank: int, size: int) -> torch.Tensor:
    """Rank's equal share of the first dimension."""
    length = _shape(source)[0] // size
    part: torch.Tensor = source[rank * length : (rank + 1) * length]
    return part


def _concatenate(shards: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """The shards in a row; a single one as it is, so that without tensor parallelism nothing is copied."""
    return shards[0] if len(shards) == 1 else torch.cat(list(shards), dim=dim)


def _shape(source: Source) -> list[int]:
    return list(source.get_shape()) if hasattr(source, "get_shape") else list(source.shape)


@dataclass(frozen=True)
class Whole:
    """The same tensor on every rank."""

    def shard(self, sources: Sequence[Source], rank: int, size: int) -> torch.Tensor:
        """The tensor."""
        whole: torch.Tensor = sources[0][:]
        return whole

    def merge(self, shards: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Rank 0's."""
        return [shards[0]]


@dataclass(frozen=True)
class Columns:
    """A column-parallel linear's weight: split over the output dimension, which torch stores first."""

    def shard(self, sources: Sequence[Source], rank: int, size: int) -> torch.Tensor:
        """Rows of the rank."""
        return _rows(sources[0], rank, size)

    def merge(self, shards: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Concatenate rows."""
        return [_concatenate(shards, 0)]


@dataclass(frozen=True)
class Rows:
    """A row-parallel linear's weight: split over the input dimension, which torch stores second."""

    def shard(self, sources: Sequence[Source], rank: int, size: int) -> torch.Tensor:
        """Columns of the rank."""
        length = _shape(sources[0])[1] // size
        part: torch.Tensor = sources[0][:, rank * length : (rank + 1) * length]
        return part

    def merge(self, shards: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Concatenate columns."""
        return [_concatenate(shards, 1)]


@dataclass(frozen=True)
class Vocabulary:
    """Embedding rows, padded with zeros at the end so that every rank has the same number."""

    vocab_size: int

    def shard(self, sources: Sequence[Source], rank: int, size: int) -> torch.Tensor:
        """Rows of the rank, zeros beyond the vocabulary."""
        length = -(-self.vocab_size // size)
        part: torch.Tensor = sources[0][rank * length : min((rank + 1) * length, self.vocab_size)]
        return torch.nn.functional.pad(part, (0, 0, 0, length - part.shape[0]))

    def merge(self, shards: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Concatenate rows and drop the padding."""
        return [_concatenate(shards, 0)[: self.vocab_size]]


@dataclass(frozen=True)
class GateUp:
    """Gate and up projection of SwiGLU in one parameter: each rank holds its gate rows, then its up rows."""

    def shard(self, sources: Sequence[Source], rank: int, size: int) -> torch.Tensor:
        """[gate rows of the rank; up rows of the rank]."""
        return torch.cat([_rows(source, rank, size) for source in sources], dim=0)

    def merge(self, shards: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Gate and up."""
        halves = [shard.chunk(2, dim=0) for shard in shards]
        return [_concatenate([half[i] for half in halves], 0) for i in range(2)]


@dataclass(frozen=True)
class GroupedQKV:
    """Query, key and value projections in one parameter, interleaved by key-value group.

    Megatron orders the rows: for each group its queries, its key, its value (weight [rows, hidden] or bias
    [rows]).  Tensor-parallel ranks hold whole groups.
    """

    groups: int
    queries_per_group: int
    head_dim: int

    def shard(self, sources: Sequence[Source], rank: int, size: int) -> torch.Tensor:
        """Interleaved rows of the rank's groups."""
        groups = self.groups // size
        parts = [_rows(source, rank, size) for source in sources]
        grouped = [part.reshape(groups, -1, *part.shape[1:]) for part in parts]
        return torch.cat(grouped, dim=1).flatten(0, 1)

    def merge(self, shards: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Query, key and value."""
        whole = _concatenate(shards, 0)
        grouped = whole.reshape(self.groups, -1, *whole.shape[1:])
        sizes = [self.queries_per_group * self.head_dim, self.head_dim, self.head_dim]
        return [part.flatten(0, 1) for part in grouped.split(sizes, dim=1)]


def grouped_qkv(model: ModelConfig) -> GroupedQKV:
    """The layout of a model's attention."""
    groups = model.num_key_value_heads
    return GroupedQKV(groups, model.num_attention_heads // groups, model.head_dim)
