"""What conversions and checkpoints have written, read in the plainest way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from megatron_srpo.bridge.torch_dist import Piece, data_start


def read_piece(folder: Path, piece: Piece) -> torch.Tensor:
    """The tensor of a piece."""
    assert piece.dtype is not None
    size = torch.Size(piece.sizes).numel() * piece.dtype.itemsize
    content = np.fromfile(folder / piece.file, np.uint8, size, offset=data_start(folder, piece))
    return torch.from_numpy(content).view(piece.dtype).view(piece.sizes)


def dequantized(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The float32 values that [o, i] 8-bit numbers with a scale for each 128 x 128 of them stand for."""
    spread = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
    return weight.float() * spread[: weight.shape[0], : weight.shape[1]]
