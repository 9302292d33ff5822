"""A copy of tensors in host memory, made while training computes and kept while it changes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

ALIGNMENT = 64  # bytes; of every dtype a multiple


class HostBuffer:
    """One block of host memory that is used again for every snapshot.

    The block is allocated by the first one and grows when it must: fresh memory is several times slower than
    memory that has been touched.  On a GPU machine it is page-locked, so copies run at the bus's speed beside
    the kernels of training.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._block = torch.empty(0, dtype=torch.uint8)

    def reserve(self, total: int) -> None:
        """Have room for a snapshot of so many bytes, if there is less.

        torch rounds page-locked memory up to a power of two and keeps what has been freed: growing costs twice.
        """
        if self._block.numel() < total:
            self._block = torch.empty(total, dtype=torch.uint8, pin_memory=self._is_cuda)

    def mark(self) -> Any:
        """The point in the stream of kernels after which the tensors are what is to be copied; none on a CPU."""
        return torch.cuda.current_stream(self._device).record_event() if self._is_cuda else None

    def copy(self, tensors: Sequence[torch.Tensor], mark: Any) -> list[torch.Tensor]:
        """Contiguous copies, valid until the next call; on return they are complete.  Any thread may call it."""
        if not self._is_cuda:
            return self._copy(tensors)
        stream = torch.cuda.Stream(self._device)
        stream.wait_event(mark)
        with torch.cuda.stream(stream):
            copies = self._copy(tensors)
        stream.synchronize()
        return copies

    def _copy(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        starts, total = [], 0
        for tensor in tensors:
            starts.append(total)
            total += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self.reserve(total)
        copies = []
        for start, tensor in zip(starts, tensors, strict=True):
            flat = self._block[start : start + tensor.nbytes].view(tensor.dtype)
            copies.append(flat.view(tensor.shape))
            copies[-1].copy_(tensor.detach(), non_blocking=self._is_cuda)
        return copies
