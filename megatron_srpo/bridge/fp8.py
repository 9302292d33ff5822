"""Weights in 8 bits: e4m3 numbers with a scale for each block of 128 x 128, as SGLang and vLLM read them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from megatron_srpo.errors import SrpoError

BLOCK = 128
LARGEST = 448.0  # of torch.float8_e4m3fn
FP8 = torch.float8_e4m3fn
SCALE = "_scale_inv"
_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_EXPERT_MODULES = ("w1", "w2", "w3")  # Mixtral's
_AT_ONCE = 2**20  # numbers that are float32 for a moment


def is_quantized(name: str) -> bool:
    """Whether the HF tensor is a linear weight of attention, MLP or an expert: what becomes 8 bits."""
    module, _, kind = name.rpartition(".")
    last = module.rpartition(".")[2]
    return kind == "weight" and (last in _MODULES or (".experts." in module and last in _EXPERT_MODULES))


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Shape of the scales of a weight [o, i]: a block at the edge may be smaller."""
    return (-(-shape[0] // BLOCK), -(-shape[1] // BLOCK))


def quantize_blocks(weight: torch.Tensor, name: str = "weight") -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight to 8 bits; memory beside the result is that of some rows in float32.

    Args:
        weight: [o, i], floating point.
        name: of the tensor, for the error.

    Returns:
        [o, i] float8_e4m3fn, and the float32 scales of `block_scales`: a number stands for itself times the scale
        of its block.

    Raises:
        SrpoError: when a value is infinite or not a number.
    """
    scales = block_scales(weight, name)
    out = torch.empty(weight.shape, dtype=FP8)
    for row, rows in _bands(weight):
        first, last = row // BLOCK, -(-(row + rows.shape[0]) // BLOCK)
        scaled = rows.div_(_spread(scales[first:last], rows.shape))
        out[row : row + rows.shape[0]] = scaled.to(FP8)  # at most 448 and a rounding of float32, which is 448
    return out, scales


def block_scales(weight: torch.Tensor, name: str = "weight") -> torch.Tensor:
    """Float32 scales [ceil(o/128), ceil(i/128)] of a weight [o, i]: a block's largest value becomes 448.

    A block of zeros has scale 1.  Raises SrpoError when a value is infinite or not a number.
    """
    found = [_largest(rows) for _, rows in _bands(weight)]
    largest = torch.cat(found)
    if not torch.isfinite(largest).all():
        raise SrpoError(f"{name}: has values that are infinite or not numbers, which 8 bits cannot hold")
    scales = largest / LARGEST
    # A scale too small for a float32 of full precision: the numbers of such a block count as zero.
    return torch.where(scales >= torch.finfo(torch.float32).tiny, scales, 1.0)


def _bands(weight: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Bands of whole blocks as float32 copies, each with its first row."""
    step = _rows_at_once(weight.shape[1])
    for row in range(0, weight.shape[0], step):
        yield row, weight[row : row + step].to(torch.float32, copy=True)


def workspace(shape: tuple[int, ...]) -> int:
    """Bytes that `quantize_blocks` needs for a moment beside weight and result."""
    return 4 * 4 * min(shape[0], _rows_at_once(shape[1])) * shape[1]


def _rows_at_once(columns: int) -> int:
    return BLOCK * max(1, _AT_ONCE // (BLOCK * columns))


def quantization_config(unquantized: list[str]) -> dict[str, object]:
    """The entry of config.json; `unquantized` are the linear modules that keep their type."""
    return {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": unquantized,
    }


def _largest(rows: torch.Tensor) -> torch.Tensor:
    """Largest absolute value of each block; not finite where a value is not."""
    height, width = rows.shape
    across = torch.nn.functional.pad(rows.abs(), (0, -width % BLOCK, 0, -height % BLOCK))
    return across.view(-(-height // BLOCK), BLOCK, -(-width // BLOCK), BLOCK).amax(dim=(1, 3))


def _spread(scales: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A scale for every number."""
    wide = scales.repeat_interleave(BLOCK, 0)[: shape[0]]
    return wide.repeat_interleave(BLOCK, 1)[:, : shape[1]]
