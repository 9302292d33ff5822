"""A copy of tensors in host memory, made while training waits and kept while it goes on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_ALIGNMENT = 64  # bytes; of every dtype a multiple


class HostBuffer:
    """One block of host memory that is used again for every snapshot.

    The block is allocated by the first one and grows when it must: fresh memory is several times slower than
    memory that has been touched.  On a GPU machine it is page-locked, so copies run at the bus's speed.
    """

    def __init__(self, is_pinned: bool) -> None:
        self._is_pinned = is_pinned
        self._block = torch.empty(0, dtype=torch.uint8)

    def copy(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Contiguous copies, valid until the next call; on return they are complete."""
        starts, total = [], 0
        for tensor in tensors:
            starts.append(total)
            total += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        if self._block.numel() < total:
            self._block = torch.empty(total, dtype=torch.uint8, pin_memory=self._is_pinned)
        copies = []
        for start, tensor in zip(starts, tensors, strict=True):
            flat = self._block[start : start + tensor.nbytes].view(tensor.dtype)
            copies.append(flat.view(tensor.shape))
            copies[-1].copy_(tensor.detach(), non_blocking=self._is_pinned)
        if self._is_pinned:
            torch.cuda.synchronize()
        return copies
