"""The checkpoint format: what is written is read back, by us and by torch, and nothing in it can run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from megatron_srpo.bridge.torch_dist import (
    COMMON,
    FORMAT,
    METADATA,
    PieceWriter,
    read_common,
    read_index,
    write_index,
)
from megatron_srpo.errors import SrpoError
from tests.stored import read_piece

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.float64)


def whole_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {str(dtype): torch.randn(6, 5, generator=generator).mul(40).abs().to(dtype) for dtype in DTYPES}


def write(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor in four rectangles, two a file: views of the whole, some not contiguous."""
    folder.mkdir()
    tensors = whole_tensors()
    writers = [PieceWriter(folder, f"__{i}_0.distcp") for i in range(2)]
    for key, tensor in tensors.items():
        for row, rows in ((0, 2), (2, 4)):
            for column, columns in ((0, 3), (3, 2)):
                part = tensor[row : row + rows, column : column + columns]
                writers[row > 0].add(key, tensor.shape, (row, column), part)
    writers[1].add_object("state/shard_0_1", None)
    for writer in writers:
        with writer:
            pass
    files = [writer.written for writer in writers]
    files += write_index(folder, [p for w in writers for p in w.pieces], {"version": 3, "rates": [0.5]})
    for file in files:
        content = (folder / file.name).read_bytes()
        assert (file.size, file.xxh3_128) == (len(content), xxhash.xxh3_128_hexdigest(content))
    assert {file.name for file in files} == set(os.listdir(folder))
    return tensors


def test_pieces_come_back(tmp_path: Path) -> None:
    tensors = write(tmp_path / "c")
    index = read_index(tmp_path / "c")
    assert set(index) == {*tensors, "state/shard_0_1"}
    for key, tensor in tensors.items():
        found = torch.zeros_like(tensor)
        for piece in index[key]:
            part = read_piece(tmp_path / "c", piece)
            (row, column), (rows, columns) = piece.offsets, piece.sizes
            found[row : row + rows, column : column + columns] = part
        assert torch.equal(found, tensor) and found.dtype == tensor.dtype
    assert read_common(tmp_path / "c") == {"version": 3, "rates": [0.5]}


def test_torch_reads_it(tmp_path: Path) -> None:
    tensors = write(tmp_path / "c")
    found = {key: torch.zeros_like(tensor) for key, tensor in tensors.items()}
    load(found, storage_reader=FileSystemReader(tmp_path / "c"), no_dist=True)
    for key, tensor in tensors.items():
        assert torch.equal(found[key], tensor)


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", [METADATA, COMMON])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, name: str, monkeypatch: Any) -> None:
    write(tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    if name == METADATA:
        (tmp_path / "c" / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(SrpoError, match=r"\.metadata: is not the index .*mkdir"):
            read_index(tmp_path / "c")
    else:
        torch.save(Bomb(), tmp_path / "c" / name)
        with pytest.raises(SrpoError, match=r"common\.pt: cannot be read as plain values"):
            read_common(tmp_path / "c")
    assert not (tmp_path / "ran").exists()


def test_a_path_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c")
    path = tmp_path / "c" / METADATA
    path.write_bytes(path.read_bytes().replace(b"__0_0.distcp", b"../../../etc"))
    with pytest.raises(SrpoError, match="no file of the folder"):
        read_index(tmp_path / "c")


def test_another_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c")
    (tmp_path / "c" / FORMAT).write_text('{"sharded_backend": "zarr"}')
    with pytest.raises(SrpoError, match="not torch_dist"):
        read_index(tmp_path / "c")
    with pytest.raises(SrpoError, match=r"metadata\.json: cannot be read"):
        read_index(tmp_path)


def test_a_short_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "c")
    file = tmp_path / "c" / "__1_0.distcp"
    piece = next(p for p in read_index(tmp_path / "c")[str(torch.float32)] if p.file == file.name)
    os.truncate(file, piece.start + piece.length // 2)
    with pytest.raises(SrpoError, match=r"__1_0\.distcp: the record of torch\.float32 cannot be read"):
        read_piece(tmp_path / "c", piece)
