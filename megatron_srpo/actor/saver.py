"""Saving while training goes on.

Weights and optimizer change only in an optimizer's update, and between the end of a step and the next update
lie sampling, a forward and a backward pass.  So `Saver.start` only writes down what this rank has to write; a
thread copies it into host memory and then writes its file; and who updates weights calls `Saver.wait_copied`
before.  When all ranks have written, rank 0 writes index and manifest and renames the folder (the invariants are
in `checkpoints/manifest.py`).  The threads meet in a process group of their own, so they never come between the
collectives of training.  A failure is raised by the next call, on every rank.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import megatron.core
import torch
import torch.distributed as dist

import megatron_srpo
from megatron_srpo.actor.checkpoint import METADATA, layout_of, sharded_model
from megatron_srpo.actor.random_states import as_sharded, random_states
from megatron_srpo.actor.shards import Shard, model_objects, model_shards, optimizer_shards, optimizers
from megatron_srpo.actor.snapshot import HostBuffer
from megatron_srpo.actor.step import Actor
from megatron_srpo.bridge.torch_dist import Piece, PieceWriter, WrittenFile, write_index
from megatron_srpo.checkpoints.manifest import (
    FileEntry,
    Manifest,
    RunFacts,
    Tensors,
    checkpoint_folder,
    checkpoint_versions,
)
from megatron_srpo.errors import SrpoError, cause_of
from megatron_srpo.files import replace_file, sync, unwritable
from megatron_srpo.recipe.load import resolved_yaml
from megatron_srpo.recipe.schema import CheckpointSection

RECIPE = "recipe.yaml"
# How long a rank waits for the others' files: longer than any disk takes.
_LONGEST = timedelta(days=1)


@dataclass(frozen=True)
class Contents:
    """What a rank writes; the shards are views of live memory, `mark` says as of when."""

    version: int
    shards: Sequence[Shard]
    mark: Any
    objects: Mapping[str, Any]
    common: Mapping[str, Any]
    manifest: Manifest
    recipe: bytes


@dataclass(frozen=True)
class Report:
    """What a rank has written, or why it could not."""

    pieces: Sequence[Piece] = ()
    files: Sequence[WrittenFile] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole: bytes of its files, seconds that training waited and from start to end."""

    weight_version: int
    bytes: int
    stall_seconds: float
    seconds: float


class Saver:
    """Checkpoints of one actor in `root`, which all ranks share; one is written at a time."""

    def __init__(self, root: Path, section: CheckpointSection, actor: Actor) -> None:
        """Every rank calls it; what a crash has left behind is removed."""
        self._root, self._section = root, section
        self._rank = dist.get_rank()
        self._group = dist.new_group(backend="gloo", timeout=_LONGEST)
        self._buffer = HostBuffer(actor.platform.device)
        self._thread: Thread | None = None
        self._copied = Event()
        self._copied.set()
        self._stall = 0.0
        self._problem: str | None = None
        self._lost: Exception | None = None
        self._saved: SimpleQueue[Saved] = SimpleQueue()
        if self._rank == 0:
            for left in [*root.glob("saving-*"), *root.glob("dropping-*")]:
                shutil.rmtree(left)

    def start(self, actor: Actor, run: RunFacts | None) -> None:
        """Begin to save the actor's version, after the last save is whole.

        Raises:
            SrpoError: when that one failed.
        """
        started = time.monotonic()
        self.wait()
        contents = self._contents(actor, run)
        self._copied.clear()
        self._thread = Thread(target=self._save, args=(contents, started), name="saver", daemon=True)
        self._thread.start()
        self._stall = time.monotonic() - started

    def wait_copied(self) -> None:
        """Return when the weights may be changed without harm to the save in hand."""
        started = time.monotonic()
        self._copied.wait()
        self._stall += time.monotonic() - started

    def wait(self) -> None:
        """Return when the last save is whole; raises SrpoError when it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise SrpoError when a save has failed, RuntimeError when another rank has gone meanwhile."""
        if self._lost is not None:
            # Not a sentence for the user: why the other rank has gone is the controller's to tell.
            raise RuntimeError("a save lost its connection to another rank") from self._lost
        if self._problem is not None:
            raise SrpoError(self._problem)

    def take_saved(self) -> list[dict[str, Any]]:
        """The checkpoints that have become whole since the last call; known to rank 0."""
        return [asdict(self._saved.get()) for _ in range(self._saved.qsize())]

    def _contents(self, actor: Actor, run: RunFacts | None) -> Contents:
        state = sharded_model(actor)
        of_optimizer = optimizer_shards(state, actor.optimizer)
        of_model = model_shards(state)
        random = as_sharded(random_states(actor.platform.is_cuda), self._rank, dist.get_world_size())
        manifest = Manifest(
            weight_version=actor.version,
            written_by={
                "megatron_srpo": megatron_srpo.__version__,
                "megatron_core": megatron.core.__version__,
                "torch": torch.__version__,
            },
            layout=layout_of(actor.ranks),
            weights=Tensors(tensors=0, bytes=0),
            optimizer=Tensors(tensors=0, bytes=0),
            scheduler=actor.scheduler.state_dict(),
            rng=f"a state of every rank, by rank, under {random.key}",
            run=run,
            files={},
        )
        objects = {**model_objects(state), random.unique_key: random.data}
        shards = [*of_model, *of_optimizer]
        recipe = resolved_yaml(actor.recipe).encode()
        return Contents(actor.version, shards, self._buffer.mark(), objects, common_state(actor), manifest, recipe)

    def _save(self, contents: Contents, started: float) -> None:
        """The thread: this rank's copy and file, then on rank 0 the rest."""
        try:
            folder = self._root / f"saving-{contents.version:06d}"
            report = self._write(folder, contents)
            reports: list[Any] | None = [None] * dist.get_world_size() if self._rank == 0 else None
            dist.gather_object(report, reports, group=self._group)
            outcome: list[str | None] = [None]
            if reports is not None:
                # Before the others know: who speaks with the controller should be the first to raise it.
                self._problem = self._finish(folder, contents, reports)
                outcome = [self._problem]
            dist.broadcast_object_list(outcome, group=self._group)
            self._problem = outcome[0]
        except Exception as error:
            self._lost = error
            return
        if self._rank == 0 and self._problem is None:
            size = sum(path.stat().st_size for path in checkpoint_folder(self._root, contents.version).iterdir())
            self._saved.put(Saved(contents.version, size, self._stall, time.monotonic() - started))

    def _copy(self, contents: Contents) -> Sequence[torch.Tensor]:
        try:
            return self._buffer.copy([shard.tensor for shard in contents.shards], contents.mark)
        finally:
            self._copied.set()

    def _write(self, folder: Path, contents: Contents) -> Report:
        name = f"__{self._rank}_0.distcp"
        try:
            copies = self._copy(contents)
            folder.mkdir(parents=True, exist_ok=True)
            writer = PieceWriter(folder, name)
            with writer:
                for shard, copy in zip(contents.shards, copies, strict=True):
                    writer.add(shard.key, shard.shape, shard.offsets, copy)
                for key, value in contents.objects.items():
                    writer.add_object(key, value)
        except OSError as error:
            return Report(problem=str(unwritable(folder / name, error)))
        except (RuntimeError, MemoryError) as error:
            return Report(problem=f"{folder / name}: cannot be written ({cause_of(error)})")
        return Report(writer.pieces, [writer.written])

    def _finish(self, folder: Path, contents: Contents, reports: Sequence[Report]) -> str | None:
        """Make a checkpoint of what the ranks have written; returns a sentence when that is impossible."""
        problems = [report.problem for report in reports if report.problem is not None]
        try:
            if not problems:
                self._commit(folder, contents, reports)
                return None
        except SrpoError as error:
            problems = [str(error)]
        except OSError as error:
            problems = [str(unwritable(folder, error))]
        shutil.rmtree(folder, ignore_errors=True)
        return f"the checkpoint of step {contents.version} is not saved: {problems[0]}"

    def _commit(self, folder: Path, contents: Contents, reports: Sequence[Report]) -> None:
        pieces = [piece for report in reports for piece in report.pieces]
        replace_file(folder / RECIPE, contents.recipe)
        files = [file for report in reports for file in report.files]
        files += write_index(folder, pieces, contents.common)
        files.append(WrittenFile.of(RECIPE, contents.recipe))
        complete = contents.manifest.model_copy(
            update={
                "weights": _tensors(piece for piece in pieces if not piece.key.startswith("optimizer.")),
                "optimizer": _tensors(piece for piece in pieces if piece.key.startswith("optimizer.")),
                "files": {f.name: FileEntry(size=f.size, xxh3_128=f.xxh3_128) for f in files},
            }
        )
        complete.write(folder)
        target = checkpoint_folder(self._root, contents.version)
        if target.exists():
            self._drop(contents.version)
        folder.rename(target)
        sync(self._root)
        for version in superfluous(checkpoint_versions(self._root), self._section):
            self._drop(version)

    def _drop(self, version: int) -> None:
        """Remove a checkpoint; it stops being one before its first file goes."""
        dropping = self._root / f"dropping-{version:06d}"
        checkpoint_folder(self._root, version).rename(dropping)
        shutil.rmtree(dropping)


def superfluous(versions: Sequence[int], section: CheckpointSection) -> list[int]:
    """The versions, of all in order, that are not kept: all but the newest `keep` and every `keep_every`-th."""
    old = versions[: -section.keep]
    return [v for v in old if section.keep_every is None or v % section.keep_every]


def common_state(actor: Actor) -> dict[str, Any]:
    """What every rank has alike, as Megatron's own saving would leave it in `common.pt`."""
    sharding = {"param_state_sharding_type": METADATA["distrib_optim_sharding_type"]}
    states = [{**one.state_dict(), **sharding} for one in optimizers(actor.optimizer)]
    return {
        "optimizer": states[0] if len(states) == 1 else dict(enumerate(states)),
        "scheduler": actor.scheduler.state_dict(),
        "version": actor.version,
        "content_metadata": METADATA,
    }


def _tensors(pieces: Any) -> Tensors:
    of_tensors = [piece for piece in pieces if piece.dtype is not None]
    size = sum(piece.dtype.itemsize * torch.Size(piece.sizes).numel() for piece in of_tensors)
    return Tensors(tensors=len({piece.key for piece in of_tensors}), bytes=size)
