"""Weights in 8 bits: blocks of 128 x 128 with a scale each, against float64 arithmetic."""

from __future__ import annotations

import pytest
import torch

from megatron_srpo.bridge.fp8 import (
    BLOCK,
    FP8,
    LARGEST,
    block_scales,
    is_quantized,
    quantize_blocks,
    scale_shape,
)
from megatron_srpo.errors import SrpoError
from tests.stored import dequantized

# e4m3 has 3 bits behind the point: half of the last one, relative to a normal number; and half of the smallest
# subnormal number, 2^-9, absolutely.
RELATIVE, SMALLEST = 2.0**-4, 2.0**-10
SHAPES = [(128, 128), (256, 384), (1, 1), (130, 127), (127, 300), (300, 5), (2500, 1030)]


def reference(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Block by block in float64: scales, and the nearest representable number by looking through them all."""
    every = torch.arange(256, dtype=torch.uint8).view(FP8).double()
    every = every[torch.isfinite(every)].unique()
    scales = torch.ones(scale_shape(tuple(weight.shape)), dtype=torch.float64)
    out = torch.zeros(weight.shape, dtype=torch.float64)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            rows, columns = slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK)
            block = weight[rows, columns].double()
            if block.abs().max() > 0:
                scales[i, j] = block.abs().max() / LARGEST
            distances = (block[..., None] / scales[i, j] - every).abs()
            out[rows, columns] = every[distances.argmin(-1)]
    return out, scales


def spread(scales: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    return scales.double().repeat_interleave(BLOCK, 0)[: shape[0]].repeat_interleave(BLOCK, 1)[:, : shape[1]]


@pytest.mark.parametrize("shape", [(128, 128), (130, 257), (5, 129)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_nearest_number_under_the_block_s_scale(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected, expected_scales = reference(weight)
    found, scales = quantize_blocks(weight)
    torch.testing.assert_close(scales.double(), expected_scales, rtol=1e-7, atol=0)
    # A number in the middle between two representable ones may go either way.
    assert (found.double() != expected).double().mean() < 0.02
    exact = weight.double() / spread(scales, shape)
    assert ((found.double() - exact).abs() <= (expected - exact).abs() + 1e-4).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_has_a_bound(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).mul(4).exp()
    found, scales = quantize_blocks(weight)
    assert found.dtype == FP8 and found.shape == weight.shape and found.is_contiguous()
    assert scales.dtype == torch.float32 and tuple(scales.shape) == scale_shape(shape)
    back = dequantized(found, scales).double()
    bound = torch.maximum(weight.double().abs() * RELATIVE, SMALLEST * spread(scales, shape)) * (1 + 1e-6)
    assert ((back - weight.double()).abs() <= bound).all()
    assert float(found.float().abs().max()) == LARGEST  # the whole range is used


def test_zeros_and_numbers_too_small() -> None:
    weight = torch.zeros(256, 256)
    weight[:128, 128:] = 1e-42  # a subnormal number of float32
    weight[128:, :128] = 1.0
    weight[200, 5] = 1e-30
    found, scales = quantize_blocks(weight)
    assert torch.isfinite(scales).all() and (scales > 0).all()
    back = dequantized(found, scales)
    assert (back[:128] == 0).all() and (back[128:, 128:] == 0).all()
    assert back[128, 0] == 1.0 and back[200, 5] == 0


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_cannot_be_held_is_refused_by_name(value: float) -> None:
    weight = torch.ones(130, 130, dtype=torch.bfloat16)
    weight[129, 129] = value
    with pytest.raises(SrpoError, match=r"^layers\.3\.down_proj\.weight: has values that are infinite"):
        quantize_blocks(weight, "layers.3.down_proj.weight")
    with pytest.raises(SrpoError, match="infinite"):
        block_scales(weight)


def test_the_weight_is_not_changed() -> None:
    weight = torch.randn(200, 200)
    before = weight.clone()
    quantize_blocks(weight)
    assert torch.equal(weight, before)


def test_which_tensors_are_quantized() -> None:
    layer = "model.layers.0."
    yes = [f"self_attn.{p}_proj.weight" for p in "qkvo"] + ["mlp.gate_proj.weight", "mlp.down_proj.weight"]
    yes += [
        "mlp.experts.3.up_proj.weight",
        "mlp.shared_expert.gate_proj.weight",
        "block_sparse_moe.experts.1.w2.weight",
    ]
    no = ["input_layernorm.weight", "self_attn.q_proj.bias", "self_attn.q_norm.weight", "mlp.gate.weight"]
    no += ["mlp.shared_expert_gate.weight", "block_sparse_moe.gate.weight"]
    assert all(is_quantized(layer + name) for name in yes)
    assert not any(is_quantized(layer + name) for name in no)
    assert not is_quantized("lm_head.weight") and not is_quantized("model.embed_tokens.weight")
