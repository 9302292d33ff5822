"""Writing a Hugging Face folder from the trainer's ranks: each writes what it leads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file

from megatron_srpo.actor.parallel import Ranks
from megatron_srpo.bridge.reader import CheckpointReader
from megatron_srpo.bridge.side_files import side_files, write_side_files
from megatron_srpo.bridge.weights import Binding, gather, merged_shapes, shared_and_experts
from megatron_srpo.files import sync, unwritable
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.model_folder import INDEX


def stored_dtypes(model: ModelConfig, bindings: Sequence[Binding]) -> dict[str, torch.dtype]:
    """The dtype that each tensor of this stage has in the model folder, or always has (`Rule.keeps_float32`)."""
    reader = CheckpointReader(model.folder)
    return {name: binding.dtype(reader.dtype(name)) for binding in bindings for name in binding.hf}


def export_hf(
    bindings: Sequence[Binding],
    model: ModelConfig,
    ranks: Ranks,
    target: Path,
    max_file_bytes: int = 5 * 10**9,
) -> None:
    """Write `target` as an HF folder like the one that was loaded: same names, dtypes and side files.

    Every rank calls it.  The folder is written under a temporary name on a file system that all ranks share,
    and renamed when it is whole.
    """
    temporary = target.with_name(target.name + ".tmp")
    if dist.get_rank() == 0:
        _make(temporary)
    dist.barrier()
    shared, experts = shared_and_experts(bindings)
    dtypes = stored_dtypes(model, bindings)
    # The first of the ranks that hold the same gather what tensor parallelism splits; experts need no gathering.
    parts = list(_parts(shared, dtypes, ranks.tensor_size, max_file_bytes)) if ranks.leads_copies else []
    if ranks.leads_experts:
        parts += _parts(experts, dtypes, ranks.tensor_size, max_file_bytes)
    written: dict[str, str] = {}
    total = 0
    for number, part in enumerate(parts):
        tensors = _collect(part, dtypes)
        if tensors:
            file = f"model-rank{dist.get_rank():05d}-{number:05d}.safetensors"
            write_tensors(tensors, temporary / file)
            written |= dict.fromkeys(tensors, file)
            total += sum(t.numel() * t.element_size() for t in tensors.values())
    gathered: list[tuple[dict[str, str], int] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (written, total))
    if dist.get_rank() == 0:
        try:
            _finish([entry for entry in gathered if entry is not None], model, temporary, target)
        except OSError as error:
            raise unwritable(temporary, error) from error
    dist.barrier()


def _make(folder: Path) -> None:
    """An empty folder, whatever a killed export has left there."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _parts(
    bindings: Sequence[Binding], dtypes: dict[str, torch.dtype], tensor_parallel: int, max_bytes: int
) -> Iterator[list[Binding]]:
    part: list[Binding] = []
    size = 0
    for binding in bindings:
        item = dtypes[binding.hf[0]].itemsize
        extra = sum(item * torch.Size(shape).numel() for shape in merged_shapes(binding, tensor_parallel))
        if part and size + extra > max_bytes:
            yield part
            part, size = [], 0
        part.append(binding)
        size += extra
    if part:
        yield part


def _collect(part: Sequence[Binding], dtypes: dict[str, torch.dtype]) -> dict[str, torch.Tensor]:
    collected: dict[str, torch.Tensor] = {}
    for binding in part:
        tensors = gather(binding, dtypes[binding.hf[0]])
        if tensors is not None:
            collected |= {n: t.cpu().contiguous() for n, t in zip(binding.hf, tensors, strict=True)}
    return collected


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file, synced; raises SrpoError when the disk does not take it."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
        sync(path)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, OSError(str(error))) from error


def _finish(gathered: list[tuple[dict[str, str], int]], model: ModelConfig, temporary: Path, target: Path) -> None:
    weight_map = {name: file for names, _ in gathered for name, file in names.items()}
    files = sorted(set(weight_map.values()))
    if len(files) == 1:
        (temporary / files[0]).rename(temporary / "model.safetensors")
    else:
        final = {file: f"model-{i:05d}-of-{len(files):05d}.safetensors" for i, file in enumerate(files, 1)}
        for file, name in final.items():
            (temporary / file).rename(temporary / name)
        index = {
            "metadata": {"total_size": sum(size for _, size in gathered)},
            "weight_map": {name: final[file] for name, file in sorted(weight_map.items())},
        }
        (temporary / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    write_side_files(temporary, side_files(model.folder, with_index=False))
    for path in [*temporary.iterdir(), temporary]:
        sync(path)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    sync(target.parent)
