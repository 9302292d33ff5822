"""Sharding and merging of every layout, and Megatron's order of rows in the fused ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_srpo.bridge.layouts import Columns, GateUp, GroupedQKV, Layout, Rows, Vocabulary, Whole

CASES: dict[str, tuple[Layout, list[tuple[int, ...]]]] = {
    "whole": (Whole(), [(6,)]),
    "columns": (Columns(), [(8, 3)]),
    "rows": (Rows(), [(3, 8)]),
    "vocabulary": (Vocabulary(7), [(7, 3)]),
    "gate_up": (GateUp(), [(8, 3), (8, 3)]),
    "qkv_weight": (GroupedQKV(4, 2, 5), [(40, 3), (20, 3), (20, 3)]),
    "qkv_bias": (GroupedQKV(4, 2, 5), [(40,), (20,), (20,)]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_merge_undoes_shard(name: str, size: int) -> None:
    layout, shapes = CASES[name]
    tensors = [torch.randn(shape) for shape in shapes]
    shards = [layout.shard(tensors, rank, size) for rank in range(size)]
    assert len({shard.shape for shard in shards}) == 1, "ranks hold different shapes"
    merged = layout.merge(shards)
    assert all(torch.equal(a, b) for a, b in zip(merged, tensors, strict=True))


@given(
    groups=st.sampled_from([1, 2, 4, 8]),
    queries=st.integers(1, 4),
    head=st.integers(1, 5),
    hidden=st.integers(1, 4),
    vocabulary=st.integers(1, 33),
    size=st.sampled_from([1, 2, 4, 8]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_round_trips_are_byte_equal(
    groups: int, queries: int, head: int, hidden: int, vocabulary: int, size: int, dtype: torch.dtype
) -> None:
    """Random bits, so that not-a-number and negative zero must survive as well."""
    heads = groups * queries * head
    cases: list[tuple[Layout, list[tuple[int, ...]]]] = [
        (Vocabulary(vocabulary), [(vocabulary, hidden)]),
        (GateUp(), [(8 * hidden, 3)] * 2),
        (Rows(), [(3, 8 * hidden)]),
        (Whole(), [(hidden,)]),
    ]
    if groups % size == 0:
        cases.append((GroupedQKV(groups, queries, head), [(heads, 3), (groups * head, 3), (groups * head, 3)]))
    for layout, shapes in cases:
        tensors = [torch.randint(-(2**15), 2**15, (*shape, 2), dtype=torch.int16) for shape in shapes]
        tensors = [
            tensor.view(dtype).flatten(-2)[..., : shape[-1]] for tensor, shape in zip(tensors, shapes, strict=True)
        ]
        merged = layout.merge([layout.shard(tensors, rank, size) for rank in range(size)])
        for before, after in zip(tensors, merged, strict=True):
            assert after.contiguous().view(torch.uint8).equal(before.contiguous().view(torch.uint8))


def test_qkv_rows_are_interleaved_by_group() -> None:
    """Two groups of two queries, head size 1: q0 q1 k0 v0 | q2 q3 k1 v1, and one group a rank."""
    q, k, v = (torch.tensor(rows)[:, None] for rows in ([0, 1, 2, 3], [10, 11], [20, 21]))
    layout = GroupedQKV(groups=2, queries_per_group=2, head_dim=1)
    assert layout.shard([q, k, v], 0, 1)[:, 0].tolist() == [0, 1, 10, 20, 2, 3, 11, 21]
    assert layout.shard([q, k, v], 1, 2)[:, 0].tolist() == [2, 3, 11, 21]


def test_gate_up_rank_holds_its_gate_then_its_up() -> None:
    gate, up = torch.tensor([0, 1, 2, 3])[:, None], torch.tensor([10, 11, 12, 13])[:, None]
    assert GateUp().shard([gate, up], 1, 2)[:, 0].tolist() == [2, 3, 12, 13]


def test_vocabulary_padding_is_zero() -> None:
    shard = Vocabulary(7).shard([torch.ones(7, 2)], 3, 4)
    assert shard.tolist() == [[1.0, 1.0], [0.0, 0.0]]
