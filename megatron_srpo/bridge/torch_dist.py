"""Megatron's `torch_dist` checkpoint format, written and read piece by piece.

A checkpoint of `megatron.core.dist_checkpointing` is a folder of

    __<rank>_<n>.distcp   tensors (rectangular chunks of global ones) and small objects, each by torch.save
    .metadata             which chunk of which key lies where
    common.pt             what is the same on every rank
    metadata.json         the format's name

The stock writer gathers the optimizer's shards on one rank and writes with processes of its own.  This one
takes any chunk as it is, keeps one tensor in memory at a time and hashes what it writes.  What it writes is
read by the stock `dist_checkpointing.load`.  Pickles are only ever read with a list of harmless classes.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import xxhash
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo

from megatron_srpo.bridge.extra_state import MARK, refuse_code_in_state
from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.files import is_plain_name, replace_file

METADATA = ".metadata"
COMMON = "common.pt"
FORMAT = "metadata.json"
_FORMAT = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
_BLOCK = 2**20
# What a `.metadata` of torch or Megatron names; nothing of it runs code of a checkpoint's author.
_HARMLESS = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex"),
        *("BytesStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo", "_StoragePrefix"),
    "torch.distributed.checkpoint.planner": (
        *("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData"),
    ),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("PosixPath", "PurePosixPath"),
    "collections": ("OrderedDict",),
    "builtins": ("set", "list", "dict", "tuple"),
}


@dataclass(frozen=True)
class Piece:
    """A chunk of a global tensor, or an object (`dtype` none), and where its record lies."""

    key: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype | None
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class WrittenFile:
    """Size and XXH3-128 of a file, as it was handed to the disk."""

    name: str
    size: int
    xxh3_128: str

    @classmethod
    def of(cls, name: str, content: bytes) -> Self:
        """The entry of a small file with this content."""
        return cls(name, len(content), xxhash.xxh3_128_hexdigest(content))


class HashingStream:
    """A new file whose bytes are counted and hashed on their way; torch.save writes to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self.hash = xxhash.xxh3_128()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """All of `data`; a raw file may take less at a time."""
        whole = memoryview(data).cast("B")
        for start in range(0, len(whole), _BLOCK):  # hashed and written while the processor has it at hand
            left = whole[start : start + _BLOCK]
            self.hash.update(left)
            while len(left):
                left = left[self._put(left) :]
        self.size += len(whole)
        return len(whole)

    def _put(self, data: memoryview) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self, is_whole: bool) -> None:
        """Close the file, synced when it is whole."""
        if is_whole:
            os.fsync(self._file.fileno())
        self._file.close()


class PieceWriter:
    """One `.distcp` file; a context manager that syncs and closes it.  `pieces` and `written` tell what it holds.

    OSError of the disk is let through: the caller knows what is being saved.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.pieces: list[Piece] = []
        self._stream = HashingStream(folder / name)

    def add(self, key: str, shape: Iterable[int], offsets: Iterable[int], tensor: torch.Tensor) -> None:
        """Append the chunk of global tensor `key` of `shape` that begins at `offsets`; a CPU tensor, any dtype."""
        with without_crc():
            start, length = self._save(_with_storage_of_its_own(tensor))
        self.pieces.append(
            Piece(key, tuple(shape), tuple(offsets), tuple(tensor.shape), tensor.dtype, self.name, start, length)
        )

    def add_object(self, key: str, value: Any) -> None:
        """Append an object, such as a layer's extra state; Megatron reads a list with one element."""
        start, length = self._save([value])
        self.pieces.append(Piece(key, (), (), (), None, self.name, start, length))

    @property
    def written(self) -> WrittenFile:
        """The file so far."""
        return WrittenFile(self.name, self._stream.size, self._stream.hash.hexdigest())

    def _save(self, value: Any) -> tuple[int, int]:
        start = self._stream.size
        try:
            torch.save(value, self._stream)
        except RuntimeError as error:
            # When a write fails torch's archive complains of its own position at last, and hides why.
            raise (self._stream.error or error) from error
        return start, self._stream.size - start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close(is_whole=error is None)


@contextlib.contextmanager
def without_crc() -> Iterator[None]:
    """Tensors are saved at twice the speed without torch's own sums; ours cover the whole file.

    The option belongs to the process: whoever writes from several threads holds it around all of them.
    """
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _with_storage_of_its_own(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a storage that begins and ends with the tensor: torch.save writes whole storages."""
    flat = tensor.detach().contiguous().flatten()
    return torch.from_numpy(flat.view(torch.uint8).numpy()).view(tensor.dtype).view(tensor.shape)


def write_index(folder: Path, pieces: Iterable[Piece], common: Mapping[str, Any]) -> list[WrittenFile]:
    """Write `.metadata`, `common.pt` and `metadata.json` for the pieces in `folder`: the last step of a save."""
    entries: dict[str, Any] = {}
    places: dict[Any, Any] = {}
    for piece in pieces:
        if piece.dtype is None:
            entries[piece.key] = dcp.BytesStorageMetadata()
            index = dcp.MetadataIndex(piece.key)
        else:
            new = dcp.TensorStorageMetadata(dcp.TensorProperties(piece.dtype), torch.Size(piece.shape), [])
            chunk = dcp.ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.sizes))
            entries.setdefault(piece.key, new).chunks.append(chunk)
            index = dcp.MetadataIndex(piece.key, piece.offsets)
        places[index] = _StorageInfo(piece.file, piece.start, piece.length)
    whole = dcp.Metadata(entries, storage_data=places, storage_meta=dcp.StorageMeta(), version=CURRENT_DCP_VERSION)
    shared = io.BytesIO()
    torch.save(dict(common), shared)
    contents = {
        METADATA: pickle.dumps(whole),
        COMMON: shared.getvalue(),
        FORMAT: json.dumps(_FORMAT).encode(),
    }
    written = []
    for name, content in contents.items():
        replace_file(folder / name, content)
        written.append(WrittenFile.of(name, content))
    return written


# What reading a broken or hostile pickle may raise.
_BAD_PICKLE = (
    *(OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError),
    *(MemoryError, OverflowError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile),
)


class _HarmlessUnpickler(pickle.Unpickler):
    """Knows the classes of `_HARMLESS` and torch's dtypes, and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _HARMLESS.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


def read_index(folder: Path) -> dict[str, list[Piece]]:
    """The pieces of every key of a `torch_dist` checkpoint, in the order of their offsets.

    Raises:
        SrpoError: when the folder is no such checkpoint, or its index is broken or could run code.
    """
    try:
        declared = json.loads((folder / FORMAT).read_text())
    except (OSError, ValueError) as error:
        raise SrpoError(
            f"{folder / FORMAT}: cannot be read ({one_line(error)}); give a Megatron checkpoint"
        ) from None
    if not isinstance(declared, dict) or declared.get("sharded_backend") != "torch_dist":
        raise SrpoError(f"{folder / FORMAT}: the format is not torch_dist, the only one that is read")
    path = folder / METADATA
    try:
        with path.open("rb") as file:
            whole = _HarmlessUnpickler(file).load()
        return _pieces_of(whole)
    except _BAD_PICKLE as error:
        raise SrpoError(f"{path}: is not the index of a checkpoint ({one_line(error)}); copy it again") from None


def _pieces_of(whole: Any) -> dict[str, list[Piece]]:
    pieces: dict[str, list[Piece]] = {}
    for key, entry in whole.state_dict_metadata.items():
        if isinstance(entry, dcp.BytesStorageMetadata):
            place = whole.storage_data[dcp.MetadataIndex(key)]
            found = [Piece(key, (), (), (), None, place.relative_path, place.offset, place.length)]
        else:
            found = []
            for chunk in entry.chunks:
                place = whole.storage_data[dcp.MetadataIndex(key, chunk.offsets)]
                where = (place.relative_path, place.offset, place.length)
                extent = (tuple(entry.size), tuple(chunk.offsets), tuple(chunk.sizes))
                found.append(Piece(key, *extent, entry.properties.dtype, *where))
        for piece in found:
            if not is_plain_name(piece.file):
                raise ValueError(f"{key} lies in {piece.file!r}, which is no file of the folder")
            if not all(isinstance(n, int) and n >= 0 for n in (piece.start, piece.length, *piece.offsets)):
                raise ValueError(f"{key} lies at {piece.start!r}, {piece.length!r} bytes")
        if not found:
            raise ValueError(f"{key} has no content")
        pieces[key] = sorted(found, key=lambda piece: piece.offsets)
    return pieces


def read_common(folder: Path) -> dict[str, Any]:
    """The part that all ranks share; raises SrpoError when it is broken or holds more than plain values."""
    try:
        common = torch.load(folder / COMMON, map_location="cpu", weights_only=True)
        return dict(common)
    except _BAD_PICKLE as error:
        raise SrpoError(f"{folder / COMMON}: cannot be read as plain values ({one_line(error)})") from None


def refuse_code(folder: Path) -> None:
    """Raise SrpoError when a pickle of the checkpoint is anything but plain values and tensors.

    To be called before Megatron's own loading, which unpickles whatever it finds.
    """
    read_common(folder)
    for pieces in read_index(folder).values():
        for piece in pieces:
            if piece.dtype is None:
                _refuse_object(folder / piece.file, piece)


def _refuse_object(path: Path, piece: Piece) -> None:
    try:
        with path.open("rb") as file:
            file.seek(piece.start)
            value = torch.load(io.BytesIO(file.read(piece.length)), weights_only=True)
        if MARK in piece.key:
            refuse_code_in_state(value)
    except _BAD_PICKLE as error:
        raise SrpoError(f"{path}: {piece.key} is more than plain values ({one_line(error)})") from None


def data_start(folder: Path, piece: Piece) -> int:
    """Where in its file the bytes of a piece's tensor begin: `piece.sizes` in row order, little-endian.

    Raises:
        SrpoError: when the record is not what the index says.
    """
    assert piece.dtype is not None, "objects have no plain bytes"
    path = folder / piece.file
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = math.prod(piece.sizes) * piece.dtype.itemsize
            return piece.start + _data_offset(descriptor, piece, size)
        finally:
            os.close(descriptor)
    except _BAD_PICKLE as error:
        raise SrpoError(f"{path}: the record of {piece.key} cannot be read ({one_line(error)})") from None


def read_into(descriptor: int, buffer: memoryview, position: int) -> None:
    """Fill a buffer of bytes from a place in a file; ValueError when the file ends before."""
    while len(buffer):
        count = os.preadv(descriptor, [buffer], position)
        if count == 0:
            raise ValueError("it ends too early")
        buffer, position = buffer[count:], position + count


class _Slice(io.RawIOBase):
    """Part of a file as a file, for zipfile."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length, self._position = descriptor, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._length - self._position))
        count = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._start + self._position)
        self._position += count
        return count


def _data_offset(descriptor: int, piece: Piece, size: int) -> int:
    """Where in its record a tensor's bytes begin; ValueError when the record is not one of plain bytes."""
    with zipfile.ZipFile(io.BufferedReader(_Slice(descriptor, piece.start, piece.length))) as archive:
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    order, data = members.get("byteorder"), members["data/0"]
    if order is not None:
        start = piece.start + _offset_of(descriptor, piece, order)
        if os.pread(descriptor, len(b"little"), start) != b"little":
            raise ValueError("its byte order is not little-endian")
    if data.compress_type != zipfile.ZIP_STORED or data.file_size != size:
        raise ValueError(f"it does not hold {size} bytes as they are")
    return _offset_of(descriptor, piece, data)


def _offset_of(descriptor: int, piece: Piece, member: zipfile.ZipInfo) -> int:
    """Where in the record a member's bytes begin; zipfile insists on sums that torch may leave out."""
    header = os.pread(descriptor, 30, piece.start + member.header_offset)
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return member.header_offset + 30 + name + extra
