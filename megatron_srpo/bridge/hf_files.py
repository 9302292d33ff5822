"""Safetensors files: read by position into own buffers, and written byte for byte as the safetensors library does.

Mapped files count as memory of the process once they are touched; read ones do not.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_srpo.bridge.torch_dist import read_into
from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.recipe.model_folder import read_header, weight_files

# The types a model's weights may have, in the order in which the library puts tensors into a file.
STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
}
NAMES = {dtype: name for name, dtype in STORED.items()}
_ALIGNMENT = 64
WEIGHTS = ("F64", "F32", "BF16", "F16")  # what can be converted


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file; its bytes begin at `start`."""

    name: str
    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Bytes."""
        return size_in_bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class FileLayout:
    """What a safetensors file holds: its own metadata, and name and type of every tensor in order."""

    name: str
    metadata: Mapping[str, str] | None
    tensors: tuple[tuple[str, torch.dtype], ...]


class HfWeights:
    """The tensors of a Hugging Face folder.

    Raises:
        SrpoError: when a file is missing, truncated or foreign, or holds types other than floating point numbers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, StoredTensor] = {}
        self.layout: list[FileLayout] = []
        for file in weight_files(folder):
            table = read_header(folder / file)
            length, metadata = _header_of(folder / file)
            ordered = sorted(table.items(), key=lambda entry: (entry[1]["data_offsets"][0], entry[0]))
            for name, entry in ordered:
                if entry["dtype"] not in WEIGHTS:
                    raise SrpoError(
                        f"{folder / file}: tensor {name} is stored as {entry['dtype']}; only {', '.join(WEIGHTS)} "
                        "are converted, so give the folder of the model before it was quantized"
                    )
                shape, start = tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
                self.tensors[name] = StoredTensor(name, file, STORED[entry["dtype"]], shape, start)
            order = tuple((name, STORED[entry["dtype"]]) for name, entry in ordered)
            self.layout.append(FileLayout(file, metadata, order))

    def read_rows(self, name: str, first: int, out: torch.Tensor) -> None:
        """Fill `out` [rows, ...], contiguous and of the tensor's own type, with its rows from `first` on."""
        tensor = self.tensors[name]
        row = size_in_bytes(tensor.shape[1:], tensor.dtype)
        path = self.folder / tensor.file
        buffer = bytes_of(out)
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                read_into(descriptor, buffer, tensor.start + first * row)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise SrpoError(f"{path}: tensor {name} cannot be read ({one_line(error)}); copy it again") from None


def size_in_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * dtype.itemsize


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    whole: Any = tensor.view(-1).view(torch.uint8).numpy()
    return memoryview(whole)


def copy_rounded(out: torch.Tensor, source: torch.Tensor, name: str) -> torch.Tensor:
    """Copy a tensor into one of another type; raises SrpoError when a number is too large for that."""
    out.copy_(source)
    if not all(math.isfinite(end) for end in out.aminmax()) and (out.isfinite() != source.isfinite()).any():
        raise SrpoError(
            f"{name}: has numbers that {str(out.dtype).removeprefix('torch.')} cannot hold, the largest is "
            f"{source.abs().max().item():.4g}; give another --dtype"
        )
    return out


def aligned(size: int) -> int:
    """The next place in a buffer at which a tensor of any type may begin."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def tensor_in(buffer: torch.Tensor, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor whose memory is that of `buffer` (uint8) from byte `start` on."""
    return buffer[start : start + size_in_bytes(shape, dtype)].view(dtype).view(shape)


def _header_of(file: Path) -> tuple[int, Mapping[str, str] | None]:
    """Length of a checked file's header, and the metadata in it."""
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        return length, json.loads(stream.read(length)).get("__metadata__")


def library_order(tensors: Mapping[str, torch.dtype]) -> tuple[tuple[str, torch.dtype], ...]:
    """Names and types in the order in which the safetensors library writes them: by type, then by name."""
    order = list(STORED.values())
    return tuple(sorted(tensors.items(), key=lambda entry: (order.index(entry[1]), entry[0])))


def header_bytes(layout: FileLayout, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The beginning of a file of this layout, up to the first tensor."""
    header: dict[str, Any] = {} if layout.metadata is None else {"__metadata__": dict(layout.metadata)}
    end = 0
    for name, dtype in layout.tensors:
        start, end = end, end + size_in_bytes(shapes[name], dtype)
        header[name] = {"dtype": NAMES[dtype], "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def split(
    tensors: Mapping[str, torch.dtype], shapes: Mapping[str, tuple[int, ...]], limit: int
) -> list[FileLayout]:
    """Deal tensors out to files of at most `limit` bytes (a larger tensor has one alone), in the order given."""
    groups: list[dict[str, torch.dtype]] = [{}]
    size = 0
    for name, dtype in tensors.items():
        extra = size_in_bytes(shapes[name], dtype)
        if groups[-1] and size + extra > limit:
            groups.append({})
            size = 0
        groups[-1][name] = dtype
        size += extra
    if len(groups) == 1:
        return [FileLayout("model.safetensors", {"format": "pt"}, library_order(groups[0]))]
    return [
        FileLayout(f"model-{i:05d}-of-{len(groups):05d}.safetensors", {"format": "pt"}, library_order(group))
        for i, group in enumerate(groups, 1)
    ]


def index_of(layout: list[FileLayout], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The index of a model in several files."""
    weight_map = {name: file.name for file in layout for name, _ in file.tensors}
    total = sum(size_in_bytes(shapes[name], dtype) for file in layout for name, dtype in file.tensors)
    parameters = sum(math.prod(shapes[name]) for name in weight_map)
    return {
        "metadata": {"total_parameters": parameters, "total_size": total},
        "weight_map": dict(sorted(weight_map.items())),
    }
