"""What a conversion can be told, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from megatron_srpo.errors import SrpoError

# Nothing: every tensor keeps its own.
DTYPES: dict[str, torch.dtype | None] = {
    "keep": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
FP8 = "fp8"
FILE_BYTES = 5 * 10**9
# Python with torch takes 300 MB; the rest up to 500 MB is left to the allocator.
_SMALL = 64 * 2**20


@dataclass(frozen=True)
class Options:
    """dtype: a key of DTYPES, or fp8; file_bytes: limit of a safetensors file, none: as the model had them."""

    dtype: str
    threads: int
    file_bytes: int | None = None
    is_verified: bool = True


def check_dtype(dtype: str, choices: Iterable[str]) -> None:
    """Raise SrpoError unless `dtype` is one of the choices."""
    if dtype not in tuple(choices):
        raise SrpoError(f"--dtype {dtype}: is none of {', '.join(choices)}")


def memory_budget(largest: int) -> int:
    """Bytes of tensors in memory at a time, for a conversion whose largest tensor has `largest`."""
    return 2 * largest + _SMALL
