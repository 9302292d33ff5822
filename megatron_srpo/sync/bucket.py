"""SGLang's "flattened_bucket": many tensors sent as one flat array of bytes.

The bytes of the tensors follow each other without gaps, in the order of their names in the HTTP call that
announces them.  The receiver views each part in its own dtype, so every part must begin at a multiple of its
item size; in a bucket of one dtype it always does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

NamedTensors = dict[str, torch.Tensor]


def flatten(tensors: Sequence[torch.Tensor], out: torch.Tensor | None = None) -> torch.Tensor:
    """Bytes of all tensors after each other, uint8 [sum of their bytes].

    Written to the beginning of `out`, a uint8 array that is large enough, or to a new one on their device.
    Raises ValueError when a tensor would begin at an offset that is no multiple of its item size.
    """
    size = sum(tensor.nbytes for tensor in tensors)
    flat = torch.empty(size, dtype=torch.uint8, device=tensors[0].device) if out is None else out[:size]
    offset = 0
    for position, tensor in enumerate(tensors):
        _check_alignment(f"tensor {position}", offset, tensor.dtype)
        # Copied in its own dtype and shape: a transposed or sliced tensor needs no contiguous copy before.
        flat[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())
        offset += tensor.nbytes
    return flat


def empty_bucket(
    dtypes: Sequence[torch.dtype], shapes: Sequence[Sequence[int]], device: torch.device | str = "cpu"
) -> torch.Tensor:
    """A flat uint8 array that a bucket of these tensors fits into exactly."""
    sizes = (dtype.itemsize * math.prod(shape) for dtype, shape in zip(dtypes, shapes, strict=True))
    return torch.empty(sum(sizes), dtype=torch.uint8, device=device)


def unflatten(
    flat: torch.Tensor, names: Sequence[str], dtypes: Sequence[torch.dtype], shapes: Sequence[Sequence[int]]
) -> NamedTensors:
    """The tensors in a flat bucket, as views into it.  Raises ValueError when the sizes do not add up."""
    tensors: NamedTensors = {}
    offset = 0
    for name, dtype, shape in zip(names, dtypes, shapes, strict=True):
        _check_alignment(name, offset, dtype)
        end = offset + dtype.itemsize * math.prod(shape)
        if end > flat.numel():
            raise ValueError(f"{name} ends at byte {end} of a bucket of {flat.numel()} bytes")
        tensors[name] = flat[offset:end].view(dtype).reshape(tuple(shape))
        offset = end
    if offset != flat.numel():
        raise ValueError(f"the tensors fill {offset} of the bucket's {flat.numel()} bytes")
    return tensors


def _check_alignment(name: str, offset: int, dtype: torch.dtype) -> None:
    if offset % dtype.itemsize:
        raise ValueError(f"{name} of {dtype} would begin at byte {offset}: put wider dtypes first")
