"""Packed attention and the norm against float64 references."""

from __future__ import annotations

import math

import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType

from megatron_srpo.actor.local_layers import PackedAttention, PackedSequences, RMSNorm, rectangles
from megatron_srpo.actor.megatron_config import transformer_config
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.trainer import TrainerSection

CPU = Platform(torch.device("cpu"), "gloo", "local")


@pytest.fixture(scope="module")
def config(tiny_hf):  # type: ignore[no-untyped-def]
    return transformer_config(read_model_config(tiny_hf()), TrainerSection(dtype="float32"), CPU)


def naive_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Softmax attention, one sequence, head and query at a time."""
    out, start, repeats = torch.zeros_like(q), 0, q.shape[1] // k.shape[1]
    for length in lengths:
        for head in range(q.shape[1]):
            keys, values = (t[start : start + length, head // repeats] for t in (k, v))
            for t in range(length):
                scores = keys[: t + 1] @ q[start + t, head] / math.sqrt(q.shape[-1])
                out[start + t, head] = scores.softmax(0) @ values[: t + 1]
        start += length
    return out.flatten(1)


def test_attention_and_its_gradient(config) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    lengths = [5, 1, 9, 4, 9, 8]
    attention = PackedAttention(config, 1, AttnMaskType.causal, "self")
    inputs = [torch.randn(sum(lengths), heads, 16, dtype=torch.float64) for heads in (4, 2, 2)]
    ours, reference = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
    packed = PackedSequences(rectangles=rectangles(lengths, torch.device("cpu")))
    got, want = attention(*ours, packed_seq_params=packed), naive_attention(*reference, lengths)
    assert torch.allclose(got, want, atol=1e-12)
    weights = torch.randn_like(got)
    (got * weights).sum().backward()
    (want * weights).sum().backward()
    for a, b in zip(ours, reference, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-12)  # type: ignore[arg-type]


def test_every_token_is_in_one_rectangle() -> None:
    lengths = [3, 10, 4, 100, 1, 0, 90]
    covered = torch.cat([r.index[r.valid] for r in rectangles(lengths, torch.device("cpu"))])
    assert sorted(covered.tolist()) == list(range(sum(lengths)))


def test_rms_norm(config) -> None:  # type: ignore[no-untyped-def]
    norm = RMSNorm(config, 8, eps=1e-6).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 8, dtype=torch.float64)
    want = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    assert torch.allclose(norm(x), want, atol=1e-12)
