"""A distributed checkpoint of Megatron as a Hugging Face folder, one tensor at a time.

What `hf-to-megatron` has made becomes again the files it was made of, byte for byte: the checkpoint carries how
the weights were laid out.  A training checkpoint is laid out like the model folder that the run began with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import xxhash
from rich.console import Console

import megatron_srpo
from megatron_srpo.bridge import fp8, side_files
from megatron_srpo.bridge.hf_files import (
    FileLayout,
    HfWeights,
    aligned,
    bytes_of,
    copy_rounded,
    header_bytes,
    index_of,
    size_in_bytes,
    split,
    tensor_in,
)
from megatron_srpo.bridge.tables import float32_names
from megatron_srpo.bridge.torch_dist import HashingStream
from megatron_srpo.convert import threads
from megatron_srpo.convert.megatron_files import MegatronWeights
from megatron_srpo.convert.options import DTYPES, FILE_BYTES, FP8, Options, memory_budget
from megatron_srpo.convert.parameters import Parameter, Part, parameters
from megatron_srpo.convert.work import Work
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import sync, unwritable
from megatron_srpo.recipe.model_config import ModelConfig, read_model_config
from megatron_srpo.recipe.model_folder import INDEX

TIED = "lm_head.weight"


@dataclass(frozen=True)
class Target:
    """What is to be written: files, shapes of all tensors, and where each comes from (not the scales of fp8)."""

    layout: list[FileLayout]
    shapes: dict[str, tuple[int, ...]]
    sources: dict[str, tuple[Parameter, Part]]
    contents: dict[str, bytes]

    def sizes(self) -> dict[str, int]:
        """Bytes of every safetensors file."""
        return {file.name: len(header_bytes(file, self.shapes)) + self.payload(file.name) for file in self.layout}

    def payload(self, name: str) -> int:
        """Bytes of a file's tensors."""
        [file] = [file for file in self.layout if file.name == name]
        return sum(size_in_bytes(self.shapes[tensor], dtype) for tensor, dtype in file.tensors)


def megatron_to_hf(source: Path, target: Path, options: Options, console: Console, hf: Path | None = None) -> None:
    """Convert checkpoint `source` into folder `target`; an interrupted conversion goes on where it was.

    hf: folder with configuration, tokenizer and layout, where the checkpoint does not name or carry one.

    Raises:
        SrpoError: when the source is no whole checkpoint of the model, the target exists, or the disk is full.
    """
    weights = MegatronWeights(source, options.is_verified)
    folder = weights.model_folder(hf)
    model = read_model_config(folder)
    wanted = plan(weights, model, options)
    arguments = {
        "to": "hf",
        "source": str(source.absolute()),
        "fingerprint": weights.fingerprint(),
        "dtype": options.dtype,
        "file_bytes": options.file_bytes,
        "files": wanted.sizes(),
        "layout": xxhash.xxh3_128_hexdigest(side_files.layout_to_json(wanted.layout)),
        "version": megatron_srpo.__version__,
    }
    work = Work(target, arguments)
    try:
        if work.notice:
            console.print(work.notice, highlight=False, markup=False, soft_wrap=True)
        if options.dtype == FP8 and (warning := _uneven(wanted.shapes)):
            console.print(warning, highlight=False, markup=False, soft_wrap=True)
        work.check_space(wanted.sizes())
        with threads.progress_bar("to Hugging Face", sum(map(wanted.payload, wanted.sizes())), console) as advance:
            flow = threads.Flow(memory_budget(_largest(wanted, weights)), advance)
            for name in work.done:
                flow.advance(wanted.payload(name))
            missing = [file for file in wanted.layout if file.name not in work.done]
            threads.run(lambda file: _write(file, wanted, weights, work, flow), missing, options.threads, flow)
        side_files.write_side_files(work.folder, wanted.contents)
        work.commit()
    except OSError as error:
        raise unwritable(Path(error.filename or work.folder), error) from None
    finally:
        work.close()


def plan(weights: MegatronWeights, model: ModelConfig, options: Options) -> Target:
    """Everything about the folder to be written but the weights; raises SrpoError when the two do not fit."""
    found = parameters(model)
    weights.check_all_used(found)
    sources = {part.name: (parameter, part) for parameter in found for part in parameter.parts}
    shapes = {name: part.shape for name, (_, part) in sources.items()}
    carried = _carried_layout(weights, model)
    if model.tie_word_embeddings and any(name == TIED for file in carried or () for name, _ in file.tensors):
        sources[TIED] = sources[found[0].parts[0].name]  # written twice, as it was
        shapes[TIED] = sources[TIED][1].shape
    stored = {name: weights.dtype(parameter) for name, (parameter, _) in sources.items()}
    if weights.is_conversion and carried is not None:
        # Tensors of a key that had several types are stored in the widest; their own are in the layout.
        stored |= {name: dtype for file in carried for name, dtype in file.tensors if name in stored}
    dtypes = _output_dtypes(stored, options.dtype, float32_names(model))
    if options.dtype == FP8:
        for name in [name for name in dtypes if dtypes[name] == fp8.FP8]:
            shapes[name + fp8.SCALE] = fp8.scale_shape(shapes[name])
    is_same = options.dtype == "keep" and options.file_bytes is None and carried is not None
    if is_same and {name for file in carried or () for name, _ in file.tensors} >= set(dtypes):
        layout = [file for file in (_in_types(file, dtypes) for file in carried or ()) if file.tensors]
    else:
        is_same = False
        layout = split(dtypes, shapes, options.file_bytes or FILE_BYTES)
    contents = _contents(model, layout, shapes, options, carried if is_same else None)
    return Target(layout, shapes, sources, contents)


def _carried_layout(weights: MegatronWeights, model: ModelConfig) -> list[FileLayout] | None:
    """How the model's files were laid out: the checkpoint says it, or the model folder has them still."""
    if (model.folder / side_files.LAYOUT).is_file():
        return side_files.layout_from_json(model.folder / side_files.LAYOUT)
    try:
        return HfWeights(model.folder).layout
    except SrpoError:
        return None  # a folder without weights is enough


def _in_types(file: FileLayout, dtypes: dict[str, torch.dtype]) -> FileLayout:
    """A file of the source with the types that are written; without tensors that the model does not have."""
    return replace(file, tensors=tuple((name, dtypes[name]) for name, _ in file.tensors if name in dtypes))


def _output_dtypes(stored: dict[str, torch.dtype], dtype: str, kept: set[str]) -> dict[str, torch.dtype]:
    """The type of every tensor to be written, each weight's scales behind it; those of `kept` keep theirs."""
    if dtype != FP8:
        chosen = DTYPES[dtype]
        return {name: own if name in kept else chosen or own for name, own in stored.items()}
    found: dict[str, torch.dtype] = {}
    for name, own in stored.items():
        found[name] = fp8.FP8 if fp8.is_quantized(name) else own
        if fp8.is_quantized(name):
            found[name + fp8.SCALE] = torch.float32
    return found


def _contents(
    model: ModelConfig,
    layout: list[FileLayout],
    shapes: dict[str, tuple[int, ...]],
    options: Options,
    carried: list[FileLayout] | None,
) -> dict[str, bytes]:
    """The side files, with the index and the types of what is written."""
    contents = side_files.side_files(model.folder, with_index=carried == layout)
    if carried != layout and len(layout) > 1:
        contents[INDEX] = side_files.as_json(index_of(layout, shapes))
    if options.dtype == FP8:
        values = json.loads(contents["config.json"])
        kept = [name.removesuffix(".weight") for name in shapes if _is_router(name)]
        values["quantization_config"] = fp8.quantization_config([*kept, "lm_head"])
        contents["config.json"] = side_files.as_json(values)
        return contents
    fixed = float32_names(model)
    types = {dtype for file in layout for name, dtype in file.tensors if name not in fixed}
    if len(types) == 1:
        contents["config.json"] = side_files.with_dtype(
            contents["config.json"], side_files.dtype_name(types.pop())
        )
    return contents


def _is_router(name: str) -> bool:
    """Whether the tensor is the weight of a linear module in a layer that fp8 leaves alone."""
    return name.endswith((".gate.weight", ".shared_expert_gate.weight"))


def _uneven(shapes: dict[str, tuple[int, ...]]) -> str:
    """A sentence when there are weights that do not consist of whole blocks, which not every reader takes."""
    uneven = [name for name in shapes if fp8.is_quantized(name) and any(size % fp8.BLOCK for size in shapes[name])]
    if not uneven:
        return ""
    return (
        f"{len(uneven)} weights such as {uneven[0]} {list(shapes[uneven[0]])} are no multiple of {fp8.BLOCK}: "
        "transformers refuses such a folder, and an engine may"
    )


def _largest(wanted: Target, weights: MegatronWeights) -> int:
    """Bytes of the largest tensor, read or written."""
    sizes = [size_in_bytes(wanted.shapes[name], dtype) for file in wanted.layout for name, dtype in file.tensors]
    sizes += [size_in_bytes(part.shape, weights.dtype(parameter)) for parameter, part in wanted.sources.values()]
    return max(sizes)


def _write(file: FileLayout, wanted: Target, weights: MegatronWeights, work: Work, flow: threads.Flow) -> None:
    """Write a file, sync it, and count it."""
    path = work.folder / file.name
    try:
        stream = HashingStream(path)
        is_whole = False
        try:
            stream.write(header_bytes(file, wanted.shapes))
            for name, dtype in file.tensors:
                with flow.buffer(*_needed(name, dtype, wanted, weights)) as buffer:
                    stream.write(bytes_of(_tensor(name, dtype, wanted, weights, buffer)))
                flow.advance(size_in_bytes(wanted.shapes[name], dtype))
            is_whole = True
        finally:
            stream.close(is_whole)
        sync(work.folder)
    except OSError as error:
        raise unwritable(path, error) from None
    work.finish(file.name, stream.size, stream.hash.hexdigest())


def _tensor(
    name: str, dtype: torch.dtype, wanted: Target, weights: MegatronWeights, buffer: torch.Tensor
) -> torch.Tensor:
    """An HF tensor in the type that is written, in `buffer` unless it is of 8 bits."""
    parameter, part = wanted.sources[name.removesuffix(fp8.SCALE)]
    stored = tensor_in(buffer, 0, part.shape, weights.dtype(parameter))
    first = 0
    for run in part.runs:
        weights.read_rows(parameter, run.start, stored[first : first + run.count])
        first += run.count
    if name.endswith(fp8.SCALE):
        return fp8.block_scales(stored, part.name)
    if dtype == fp8.FP8:
        return fp8.quantize_blocks(stored, name)[0]
    if dtype == stored.dtype:
        return stored
    start = aligned(size_in_bytes(part.shape, stored.dtype))
    return copy_rounded(tensor_in(buffer, start, part.shape, dtype), stored, name)


def _needed(name: str, dtype: torch.dtype, wanted: Target, weights: MegatronWeights) -> tuple[int, int]:
    """Bytes of the buffer to make a tensor in, and of what is taken besides."""
    parameter, part = wanted.sources[name.removesuffix(fp8.SCALE)]
    size, beside = size_in_bytes(part.shape, weights.dtype(parameter)), weights.largest_piece(parameter)
    if dtype == fp8.FP8 or name.endswith(fp8.SCALE):
        beside += fp8.workspace(part.shape) + size_in_bytes(wanted.shapes[name], dtype)
    elif dtype != weights.dtype(parameter):
        size = aligned(size) + size_in_bytes(part.shape, dtype)
    return size, beside
