"""Training checkpoints: Megatron's distributed checkpoint plus a manifest that makes it count.

    checkpoints/step-000020/        weights, optimizer, schedule, as megatron.core.dist_checkpointing writes them
    checkpoints/step-000020/manifest.json

A checkpoint is written in a folder of another name, its manifest last, and renamed when everything is on
disk: a folder without a manifest is not a checkpoint.  The number is the weight version: how many steps the
weights have been trained on, so also the first step that must be trained next.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import megatron.core
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException

from megatron_srpo.actor.step import Actor
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import sync

MANIFEST = "manifest.json"
_NAME = re.compile(r"^step-(\d{6})$")
# Optimizer state in the shape of the parameters, so that another parallel layout can load it.
_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}


def checkpoint_folder(root: Path, version: int) -> Path:
    """Where the checkpoint of a weight version lies."""
    return root / f"step-{version:06d}"


def checkpoint_versions(root: Path) -> list[int]:
    """Weight versions of the whole checkpoints, oldest first."""
    if not root.exists():
        return []
    found = [(m, p) for p in root.iterdir() if (m := _NAME.match(p.name))]
    return sorted(int(match.group(1)) for match, path in found if (path / MANIFEST).exists())


def _state(actor: Actor, is_loading: bool) -> dict[str, Any]:
    # Keys on disk have global layer numbers, so the chunks of one rank do not meet.
    model = {f"model{i}": chunk.sharded_state_dict() for i, chunk in enumerate(actor.chunks)}
    return {
        **model,
        "optimizer": actor.optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=_METADATA),
        "scheduler": actor.scheduler.state_dict(),
        "version": actor.version,
    }


def save_checkpoint(actor: Actor, root: Path, keep: int) -> Path:
    """Save this version and drop all but the newest `keep`; every rank calls it, `root` is shared by all."""
    target = checkpoint_folder(root, actor.version)
    temporary = root / f"saving-{actor.version:06d}"
    if dist.get_rank() == 0:
        for left in root.glob("saving-*"):  # what a crash has left
            shutil.rmtree(left)
        temporary.mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(_state(actor, is_loading=False), str(temporary), content_metadata=_METADATA)
    dist.barrier()
    if dist.get_rank() == 0:
        _write_manifest(actor, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        sync(root)
        for version in checkpoint_versions(root)[:-keep]:
            shutil.rmtree(checkpoint_folder(root, version))
    dist.barrier()
    return target


def _write_manifest(actor: Actor, folder: Path) -> None:
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    for name in files:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    manifest = {
        "weight_version": actor.version,
        "model": str(actor.model_config.folder),
        "megatron_core": megatron.core.__version__,
        "torch": torch.__version__,
        "files": files,
    }
    with (folder / MANIFEST).open("w") as file:
        file.write(json.dumps(manifest, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    sync(folder)


def load_checkpoint(actor: Actor, root: Path, version: int) -> None:
    """Restore weights, optimizer and schedule of a version; every rank calls it.

    Raises SrpoError naming the file when the checkpoint is not what its manifest says.
    """
    folder = checkpoint_folder(root, version)
    check_files(folder)
    try:
        state = dist_checkpointing.load(_state(actor, is_loading=True), str(folder))
    except (CheckpointingException, RuntimeError, OSError) as error:
        raise SrpoError(
            f"{folder}: cannot be loaded ({' '.join(str(error).split())[:300]}); remove this folder to go on "
            "from the checkpoint before it"
        ) from error
    for i, chunk in enumerate(actor.chunks):
        chunk.load_state_dict(state[f"model{i}"])
    actor.optimizer.load_state_dict(state["optimizer"])
    actor.scheduler.load_state_dict(state["scheduler"])
    actor.version = int(state["version"])


def check_files(folder: Path) -> None:
    """Raise SrpoError unless every file of the manifest is there in full."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (ValueError, KeyError) as error:
        raise SrpoError(
            f"{folder / MANIFEST}: is not a checkpoint's manifest ({error!r}); remove the whole folder to go on "
            "from the checkpoint before it"
        ) from error
    for name, size in files.items():
        found = (folder / name).stat().st_size if (folder / name).exists() else None
        if found != size:
            raise SrpoError(
                f"{folder / name}: {'missing' if found is None else f'{found} bytes'}, the manifest says {size} "
                "bytes; restore it, or remove the whole folder to go on from the checkpoint before it"
            )
