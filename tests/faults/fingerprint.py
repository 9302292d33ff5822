"""Everything that a run has learned and recorded as digests by name, so that a difference says where it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from megatron_srpo.rollout.journal import SCHEMA, read_table

# What the clock says, and what a step that is replayed does not do again.
_MEASURED = ("time", "seconds", "tokens_per_second", "train_t", "mfu", "peak_memory", "sync_bytes")


def fingerprint(run_dir: Path) -> dict[str, str]:
    """Digests of a finished run: journal, curriculum, metrics, the newest checkpoint, the exported model."""
    found: dict[str, str] = {}
    for part in (_journal, _metrics, _curriculum, _checkpoint, _model):
        for name, value in part(run_dir):
            assert name not in found, f"{name} is there twice"
            found[name] = _digest(value)
    return found


def differences(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """Names of what is not the same, or is in one of the two only; causes (the journal) before consequences."""
    return [name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name)]


def weights(run_dir: Path) -> dict[str, str]:
    """Digests of the exported model alone."""
    return {name: _digest(value) for name, value in _model(run_dir)}


def _journal(run_dir: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted((run_dir / "rollouts").glob("step-*.parquet")):
        table = read_table(path)
        for column in SCHEMA.names:
            yield f"{path.name}: {column}", table[column].to_pylist()
    for path in sorted((run_dir / "rollouts").glob("stage-*.json")):
        yield path.name, json.loads(path.read_text())
    yield "open groups", [path.name for path in (run_dir / "rollouts" / "open").glob("*/*")]
    yield "finished.json", json.loads((run_dir / "finished.json").read_text())


def _metrics(run_dir: Path) -> Iterator[tuple[str, Any]]:
    """The last record of each step."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for step, record in {line["step"]: line for line in lines}.items():
        for name, value in record.items():
            if not name.startswith(_MEASURED):
                yield f"metrics of step {step}: {name}", value


def _curriculum(run_dir: Path) -> Iterator[tuple[str, Any]]:
    newest = max((run_dir / "curriculum").glob("step-*.npz"))
    with np.load(newest, allow_pickle=False) as arrays:
        for name in arrays.files:
            yield f"curriculum {newest.name}: {name}", arrays[name]


def _checkpoint(run_dir: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor and value of the newest whole checkpoint, however its files hold them."""
    newest = max((run_dir / "checkpoints").glob("step-*/manifest.json")).parent
    state: dict[str, Any] = {}
    planner = _EmptyStateDictLoadPlanner()
    _load_state_dict(state, storage_reader=FileSystemReader(newest), planner=planner, no_dist=True)
    yield from _leaves(f"checkpoint {newest.name}", state)
    # Written and read by this machine's own run.
    common = torch.load(newest / "common.pt", weights_only=False)
    yield from _leaves(f"checkpoint {newest.name} common", common)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{name}/{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(f"{name}/{index}", inner)
    else:
        yield name, value


def _model(run_dir: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted((run_dir / "model").glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            yield f"model: {name}", tensor


def _digest(value: Any) -> str:
    """Of the bits of arrays, and of the text of everything else, in which floats are exact."""
    if isinstance(value, torch.Tensor):
        value = value.contiguous().view(torch.uint8).numpy() if value.dim() else value.item()
    if isinstance(value, np.ndarray):
        content = f"{value.dtype} {value.shape} ".encode() + value.tobytes()
    else:
        content = repr(value).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
