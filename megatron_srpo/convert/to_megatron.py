"""A Hugging Face folder as a distributed checkpoint of Megatron, one tensor at a time.

The checkpoint's tensors are cut as one rank would save them (SwiGLU's two halves apart), which any parallel
layout can load.  Files are cut by size alone, so the number of threads changes no byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

import megatron_srpo
from megatron_srpo.bridge import side_files
from megatron_srpo.bridge.hf_files import FileLayout, HfWeights, aligned, copy_rounded, size_in_bytes, tensor_in
from megatron_srpo.bridge.tables import float32_names
from megatron_srpo.bridge.torch_dist import Piece, PieceWriter, WrittenFile, without_crc, write_index
from megatron_srpo.checkpoints.manifest import MANIFEST, sealed
from megatron_srpo.convert import threads
from megatron_srpo.convert.options import DTYPES, Options, memory_budget
from megatron_srpo.convert.parameters import Parameter, Part, extra_states, parameters
from megatron_srpo.convert.work import Work
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import checksum, replace_file, sync, unwritable
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.model_folder import check_model_folder, extra_layers_notice, fingerprint

FILE_BYTES = 2**28  # a `.distcp` file ends after the chunk that passes this
TIED = "lm_head.weight"
_OVERHEAD = 4096  # bytes that a chunk's record and its entry in the index may add
_COMPARED_ROWS = 4096


@dataclass(frozen=True)
class Chunk:
    """A chunk of the checkpoint: `rows` rows of a parameter from `first` on, made of `parts`."""

    parameter: Parameter
    first: int
    rows: int
    parts: tuple[Part, ...]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the axes in front."""
        return (self.rows, *self.parameter.shape[1:])

    @property
    def size(self) -> int:
        """Bytes."""
        return size_in_bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class DistcpFile:
    """A file to write, with its chunks; the first one also has the empty objects."""

    name: str
    chunks: tuple[Chunk, ...]
    objects: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes, rounded up."""
        return sum(chunk.size + _OVERHEAD for chunk in self.chunks) + _OVERHEAD * len(self.objects)


def hf_to_megatron(source: Path, target: Path, options: Options, console: Console) -> None:
    """Convert folder `source` into checkpoint `target`; an interrupted conversion goes on where it was.

    Raises:
        SrpoError: when the source is not a whole model that can be trained, when the target exists, and when the
            disk is full.
    """
    model = check_model_folder(source)
    weights = HfWeights(source)
    found = parameters(model)
    _check_tensors(model, weights, found)
    files = _files(_chunks(found, weights, options.dtype), extra_states(model))
    work = Work(target, _arguments(source, options))
    try:
        if work.notice:
            console.print(work.notice, highlight=False, markup=False, soft_wrap=True)
        if notice := extra_layers_notice(model):
            console.print(notice, highlight=False, markup=False, soft_wrap=True)
        work.check_space({file.name: file.size for file in files})
        if model.tie_word_embeddings and TIED in weights.tensors:
            _check_tied(weights, found[0].parts[0].name)
        largest = max(chunk.size for file in files for chunk in file.chunks)
        largest = max(largest, *(tensor.size for tensor in weights.tensors.values()))
        total = sum(chunk.size for file in files for chunk in file.chunks)
        with threads.progress_bar("to Megatron", total, console) as advance, without_crc():
            flow = threads.Flow(memory_budget(largest), advance)
            for file in files:
                if file.name in work.done:
                    flow.advance(sum(chunk.size for chunk in file.chunks))
            missing = [file for file in files if file.name not in work.done]
            threads.run(lambda file: _write(file, weights, work, flow), missing, options.threads, flow)
        _finish(work, files, model, weights, options)
    finally:
        work.close()


def _arguments(source: Path, options: Options) -> dict[str, object]:
    """What the bytes of the checkpoint depend on."""
    return {
        "to": "megatron",
        "source": str(source.absolute()),
        "fingerprint": fingerprint(source),
        "dtype": options.dtype,
        "version": megatron_srpo.__version__,
    }


def _check_tensors(model: ModelConfig, weights: HfWeights, found: list[Parameter]) -> None:
    """Every tensor that config.json asks for is there in its shape, and none besides."""
    wanted = {part.name: part.shape for parameter in found for part in parameter.parts}
    for name, shape in wanted.items():
        tensor = weights.tensors.get(name)
        if tensor is None:
            raise SrpoError(f"{model.folder}: tensor {name} is missing; {model.file} asks for it")
        if tensor.shape != shape:
            raise SrpoError(
                f"{model.folder / tensor.file}: {name} is {list(tensor.shape)}, but {model.file} asks for "
                f"{list(shape)}; config and weights belong to different models"
            )
    unused = sorted(name for name in weights.tensors if name not in wanted and not _is_dropped(name, model))
    if unused:
        raise SrpoError(
            f"{model.folder}: {len(unused)} tensors such as {unused[0]} are not part of {model.architecture} as "
            "config.json describes it, and would be lost"
        )


def _is_dropped(name: str, model: ModelConfig) -> bool:
    """What old exports carry though it is computed from the config, tied output weights, layers not trained."""
    if model.tie_word_embeddings and name == TIED:
        return True
    return name.endswith(".rotary_emb.inv_freq") or model.is_extra(name)


def _check_tied(weights: HfWeights, embedding: str) -> None:
    """Output weights that config.json ties to the embedding are equal to it."""
    first, second = weights.tensors[embedding], weights.tensors[TIED]
    equal = (first.dtype, first.shape) == (second.dtype, second.shape)
    for row in range(0, first.shape[0], _COMPARED_ROWS) if equal else ():
        rows = min(_COMPARED_ROWS, first.shape[0] - row)
        parts = [torch.empty((rows, *first.shape[1:]), dtype=first.dtype) for _ in range(2)]
        for name, part in zip((embedding, TIED), parts, strict=True):
            weights.read_rows(name, row, part)
        equal = equal and torch.equal(*(part.view(torch.uint8) for part in parts))
    if not equal:
        raise SrpoError(
            f"{weights.folder}: config.json says tie_word_embeddings, but {TIED} differs from {embedding}; set it "
            "to false, or remove the tensor"
        )


def _chunks(found: list[Parameter], weights: HfWeights, dtype: str) -> list[Chunk]:
    """The chunks in the model's order; all chunks of a key have the one type that holds every value of it."""
    types: dict[str, torch.dtype] = {}
    for parameter in found:
        for part in parameter.parts:
            stored = torch.float32 if parameter.keeps_float32 else DTYPES[dtype]
            stored = stored or weights.tensors[part.name].dtype
            key = parameter.keys[0]
            types[key] = torch.promote_types(types.get(key, stored), stored)
    chunks = []
    for parameter in found:
        chosen = types[parameter.keys[0]]
        if all(len(part.runs) == 1 for part in parameter.parts):
            for part in parameter.parts:
                chunks.append(Chunk(parameter, part.runs[0].start, part.runs[0].count, (part,), chosen))
        else:
            chunks.append(Chunk(parameter, 0, parameter.shape[0], parameter.parts, chosen))
    return chunks


def _files(chunks: list[Chunk], objects: list[str]) -> list[DistcpFile]:
    groups: list[list[Chunk]] = [[]]
    size = 0
    for chunk in chunks:
        if size >= FILE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(chunk)
        size += chunk.size
    return [
        DistcpFile(f"__0_{i}.distcp", tuple(group), tuple(objects) if i == 0 else ())
        for i, group in enumerate(groups)
    ]


def _write(file: DistcpFile, weights: HfWeights, work: Work, flow: threads.Flow) -> None:
    """Write a file, sync it, and count it."""
    try:
        with PieceWriter(work.folder, file.name) as writer:
            for key in file.objects:
                writer.add_object(key, [None])  # Megatron keeps a list of what one rank has
            for chunk in file.chunks:
                with flow.buffer(_needed(chunk, weights)) as buffer:
                    whole = _read(chunk, weights, buffer).view(*(1 for _ in chunk.parameter.place), *chunk.shape)
                    offsets = (*chunk.parameter.place, chunk.first, *(0 for _ in chunk.shape[1:]))
                    writer.add(chunk.parameter.keys[0], chunk.parameter.global_shape, offsets, whole)
                flow.advance(chunk.size)
        sync(work.folder)
    except OSError as error:
        raise unwritable(work.folder / file.name, error) from None
    places = [(piece.start, piece.length) for piece in writer.pieces]
    work.finish(file.name, writer.written.size, writer.written.xxh3_128, places)


def _needed(chunk: Chunk, weights: HfWeights) -> int:
    """Bytes of memory to make a chunk in: itself, and behind it an HF tensor that must be converted."""
    stored = [weights.tensors[part.name] for part in chunk.parts]
    return aligned(chunk.size) + max((t.size for t in stored if t.dtype != chunk.dtype), default=0)


def _read(chunk: Chunk, weights: HfWeights, buffer: torch.Tensor) -> torch.Tensor:
    """The chunk, assembled out of its HF tensors at the beginning of `buffer`."""
    out = tensor_in(buffer, 0, chunk.shape, chunk.dtype)
    for part in chunk.parts:
        tensor = weights.tensors[part.name]
        converted = None
        if tensor.dtype != chunk.dtype:
            converted = tensor_in(buffer, aligned(chunk.size), tensor.shape, tensor.dtype)
            weights.read_rows(part.name, 0, converted)
        first = 0
        for run in part.runs:
            rows = out[run.start - chunk.first : run.start - chunk.first + run.count]
            if converted is None:
                weights.read_rows(part.name, first, rows)
            else:
                copy_rounded(rows, converted[first : first + run.count], part.name)
            first += run.count
    return out


def _finish(work: Work, files: list[DistcpFile], model: ModelConfig, weights: HfWeights, options: Options) -> None:
    """Index, side files, and the manifest as the last file."""
    contents = _side_files(model, weights, options)
    try:
        written = [WrittenFile(f.name, work.done[f.name].size, work.done[f.name].xxh3_128) for f in files]
        written += write_index(work.folder, _pieces(work, files), {})
        side_files.write_side_files(work.folder / side_files.FOLDER, contents)
        for name in contents:
            path = work.folder / side_files.FOLDER / name
            written.append(WrittenFile(f"{side_files.FOLDER}/{name}", path.stat().st_size, checksum(path)))
        manifest = {
            "kind": "weights",
            "source": str(model.folder.absolute()),
            "architecture": model.architecture,
            "dtype": options.dtype,
            "megatron_srpo": megatron_srpo.__version__,
            "files": {file.name: {"size": file.size, "xxh3_128": file.xxh3_128} for file in written},
        }
        replace_file(work.folder / MANIFEST, sealed(manifest))
        work.commit()
    except OSError as error:
        raise unwritable(Path(error.filename or work.folder), error) from None


def _pieces(work: Work, files: list[DistcpFile]) -> list[Piece]:
    """The index's entries, with the places that the journal has."""
    pieces = []
    for file in files:
        places = iter(work.done[file.name].extra)
        for key in file.objects:
            start, length = next(places)
            pieces.append(Piece(key, (), (), (), None, file.name, start, length))
        for chunk in file.chunks:
            start, length = next(places)
            parameter = chunk.parameter
            offsets = (*parameter.place, chunk.first, *(0 for _ in chunk.shape[1:]))
            sizes = (*(1 for _ in parameter.place), *chunk.shape)
            extent = (parameter.global_shape, offsets, sizes)
            pieces.append(Piece(parameter.keys[0], *extent, chunk.dtype, file.name, start, length))
    return pieces


def _side_files(model: ModelConfig, weights: HfWeights, options: Options) -> dict[str, bytes]:
    contents = side_files.side_files(model.folder, with_index=True)
    layout, dtype = weights.layout, DTYPES[options.dtype]
    if dtype is not None:
        contents["config.json"] = side_files.with_dtype(contents["config.json"], options.dtype)
        kept = dict.fromkeys(float32_names(model), torch.float32)
        layout = [
            FileLayout(f.name, f.metadata, tuple((n, kept.get(n, dtype)) for n, _ in f.tensors)) for f in layout
        ]
    contents[side_files.LAYOUT] = side_files.layout_to_json(layout)
    return contents
