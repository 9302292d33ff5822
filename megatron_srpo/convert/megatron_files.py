"""Reading the weights of a distributed checkpoint, whatever parallel layout wrote it, rows at a time."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_srpo.bridge import side_files
from megatron_srpo.bridge.hf_files import bytes_of, size_in_bytes
from megatron_srpo.bridge.torch_dist import METADATA, Piece, data_start, read_index, read_into
from megatron_srpo.checkpoints.manifest import MANIFEST, files_of, read_sealed
from megatron_srpo.checkpoints.verify import problem_of
from megatron_srpo.convert.parameters import Parameter
from megatron_srpo.errors import SrpoError, one_line

_MODEL_KEYS = ("embedding.", "decoder.", "output_layer.")


@dataclass(frozen=True)
class _Box:
    """The part of a piece that lies in wanted rows: rows `first`..`last`, columns `column`..`column + columns`.

    `skipped`: elements of the piece before the first of them.
    """

    first: int
    last: int
    column: int
    columns: int
    skipped: int


class MegatronWeights:
    """The model's tensors in a checkpoint: of a conversion, of a run, or of Megatron itself (no manifest).

    is_verified: whether every file is compared with the manifest's checksum before it is first read.

    Raises:
        SrpoError: when the folder is no whole checkpoint.
    """

    def __init__(self, folder: Path, is_verified: bool = True) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise SrpoError(f"{folder}: there is no such folder (looked for {folder.absolute()})")
        if (folder / "checkpoints").is_dir():
            raise SrpoError(f"{folder}: is a run; give one of its checkpoints, {folder / 'checkpoints'}/step-*")
        self.manifest = _manifest(folder)
        self._files = files_of(folder) if self.manifest else {}
        self._is_verified = is_verified
        self._verified: set[str] = set()
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        for name, entry in self._files.items():
            _refuse(problem_of(folder / name, entry, is_hashed=False))
        for name in self._files:  # the small ones at once; weights when they are read
            if not name.endswith(".distcp"):
                self._verify(name)
        self.index = read_index(folder)
        self._starts: dict[Piece, int] = {}
        missing = sorted(
            {p.file for pieces in self.index.values() for p in pieces if not (folder / p.file).is_file()}
        )
        if missing:
            raise SrpoError(f"{folder / missing[0]}: missing, the checkpoint's index names it; restore it")

    @property
    def is_conversion(self) -> bool:
        """Whether `hf-to-megatron` made it."""
        return self.manifest.get("kind") == "weights"

    def fingerprint(self) -> str:
        """16 hex digits of what the checkpoint says about itself."""
        digest = hashlib.sha256((self.folder / METADATA).read_bytes())
        digest.update(json.dumps(self.manifest, sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def model_folder(self, given: Path | None) -> Path:
        """The HF folder with the side files: the given one, the checkpoint's own, or that of the run's model."""
        if given is not None:
            return given
        own = self.folder / side_files.FOLDER
        if own.is_dir():
            return own
        named = (self.manifest.get("run") or {}).get("model")
        if not isinstance(named, str):
            raise SrpoError(f"{self.folder}: does not say which model it is of; give its folder with --hf")
        if not (Path(named) / "config.json").is_file():
            raise SrpoError(
                f"{self.folder / MANIFEST}: the model {named} is not there (looked in {Path(named).absolute()}); "
                "give its folder with --hf"
            )
        return Path(named)

    def key(self, parameter: Parameter) -> str:
        """The key that holds a parameter, its shape checked."""
        for key in parameter.keys:
            if key in self.index and self.index[key][0].dtype is not None:
                shape = self.index[key][0].shape
                wanted = parameter.global_shape
                padded = parameter.is_vocabulary and shape[:1] >= wanted[:1]
                if shape != wanted and not (padded and shape[1:] == wanted[1:]):
                    raise SrpoError(
                        f"{self.folder}: {key} is {list(shape)}, but config.json asks for {list(wanted)}; "
                        "checkpoint and config belong to different models"
                    )
                return key
        raise SrpoError(f"{self.folder}: {parameter.keys[0]} is missing; config.json asks for it")

    def dtype(self, parameter: Parameter) -> torch.dtype:
        """The type that a parameter is stored in."""
        dtype = self.index[self.key(parameter)][0].dtype
        assert dtype is not None
        return dtype

    def check_all_used(self, parameters: list[Parameter]) -> None:
        """Raise SrpoError when the checkpoint has weights of a model that the config does not speak of."""
        used = {key for parameter in parameters for key in parameter.keys}
        used.add("output_layer.weight")  # a copy of a tied embedding
        unused = sorted(
            key
            for key, pieces in self.index.items()
            if key.startswith(_MODEL_KEYS) and pieces[0].dtype is not None and key not in used
        )
        if unused:
            raise SrpoError(
                f"{self.folder}: {len(unused)} tensors such as {unused[0]} are not part of the model as "
                "config.json describes it, and would be lost"
            )

    def read_rows(self, parameter: Parameter, first: int, out: torch.Tensor) -> None:
        """Fill `out` [rows, ...], contiguous and of the stored type, with a parameter's rows from `first` on."""
        key = self.key(parameter)
        flat = out.view(out.shape[0], -1)
        found = 0
        for piece in self.index[key]:
            box = _overlap(piece, parameter, first, flat.shape[0])
            if box is not None:
                self._read_box(piece, box, flat, first)
                found += (box.last - box.first) * box.columns
        if found != flat.numel():
            raise SrpoError(
                f"{self.folder}: {key} has {found} of {flat.numel()} values of rows {first} to "
                f"{first + flat.shape[0]}; a part of the checkpoint is missing, restore it"
            )

    def _read_box(self, piece: Piece, box: _Box, flat: torch.Tensor, first: int) -> None:
        self._verify(piece.file)
        target = flat[box.first - first : box.last - first, box.column : box.column + box.columns]
        part = (
            target if target.is_contiguous() else torch.empty_like(target, memory_format=torch.contiguous_format)
        )
        position = self._start(piece) + box.skipped * flat.dtype.itemsize
        path = self.folder / piece.file
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                read_into(descriptor, bytes_of(part), position)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise SrpoError(f"{path}: the record of {piece.key} cannot be read ({one_line(error)})") from None
        if part is not target:
            target.copy_(part)

    def largest_piece(self, parameter: Parameter) -> int:
        """Bytes that `read_rows` may take besides its result: a piece that is not of whole rows."""
        front, dtype = len(parameter.place), self.dtype(parameter)
        boxes = (piece.sizes[front:] for piece in self.index[self.key(parameter)])
        return max((size_in_bytes(box, dtype) for box in boxes if box[1:] != parameter.shape[1:]), default=0)

    def _start(self, piece: Piece) -> int:
        with self._lock:
            start = self._starts.get(piece)
        if start is None:
            start = data_start(self.folder, piece)
            with self._lock:
                self._starts[piece] = start
        return start

    def _verify(self, name: str) -> None:
        """Compare a file with the manifest, once; other threads that need it wait."""
        entry = self._files.get(name)
        if not self._is_verified or entry is None:
            return
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name in self._verified:
                return
            _refuse(problem_of(self.folder / name, entry))
            self._verified.add(name)


def _overlap(piece: Piece, parameter: Parameter, first: int, rows: int) -> _Box | None:
    """Which of the wanted rows of a parameter a piece has."""
    front = len(parameter.place)
    skipped = 0
    for index, offset, size in zip(parameter.place, piece.offsets, piece.sizes, strict=False):
        if not offset <= index < offset + size:
            return None
        skipped = skipped * size + index - offset
    row, row_count = piece.offsets[front], piece.sizes[front]
    begin, end = max(first, row), min(first + rows, row + row_count)
    if begin >= end:
        return None
    rest = piece.sizes[front + 1 :]
    column, columns = (piece.offsets[front + 1], rest[0]) if rest else (0, 1)
    return _Box(begin, end, column, columns, ((skipped * row_count) + begin - row) * columns)


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest, empty where Megatron itself saved the checkpoint."""
    return read_sealed(folder / MANIFEST) if (folder / MANIFEST).exists() else {}


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise SrpoError(f"{problem}; copy the checkpoint again")
