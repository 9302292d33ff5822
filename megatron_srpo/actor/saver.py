"""Saving while training goes on.

Weights and optimizer change only in an optimizer's update, and between the end of a step and the next update
lie sampling, a forward and a backward pass.  So `Saver.start` only writes down what this rank has to write; a
thread copies it into host memory and then writes its file; and who updates weights calls `Saver.wait_copied`
before.  Optimizer state that is kept in the host's memory (`actor/offload.py`) is copied from there: the device
need not hold it for a save.  When all ranks have written, rank 0 writes index and manifest and renames the folder
(the invariants are in `checkpoints/manifest.py`).  The threads meet in a process group of their own, so they never
come between the collectives of training.  A failure is raised by the next call, on every rank.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import megatron.core
import torch
import torch.distributed as dist

import megatron_srpo
from megatron_srpo.actor.actor import Actor
from megatron_srpo.actor.checkpoint import METADATA, layout_of, sharded_model
from megatron_srpo.actor.random_states import as_sharded, random_states
from megatron_srpo.actor.shards import Shard, model_objects, model_shards, optimizer_shards, optimizers
from megatron_srpo.actor.snapshot import HostBuffer
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
from megatron_srpo.files import make_folder, replace_file, sync, unwritable
from megatron_srpo.recipe.load import resolved_yaml
from megatron_srpo.recipe.schema import CheckpointSection

RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Contents:
    """What a rank writes; until they are copied, the shards are live memory, `mark` says as of when."""

    version: int
    shards: list[Shard]
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

    def __init__(self, root: Path, section: CheckpointSection, actor: Actor, broken: Collection[int] = ()) -> None:
        """Every rank calls it; what a crash has left behind is removed.

        `broken` are the versions of checkpoints that the start has passed over.
        """
        self._root, self._section, self._broken = root, section, set(broken)
        self._rank = dist.get_rank()
        if self._rank == 0:
            # Before the group is there: nobody can have begun to save until then.
            _remove([*root.glob("saving-*"), *root.glob("dropping-*")])
        # The limit that counts is that of `wait`, which knows what to say.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=2 * section.timeout_seconds))
        self._buffer = HostBuffer(actor.platform.device)
        self._thread: Thread | None = None
        self._copied = Event()
        self._copied.set()
        self._version, self._started, self._stall = 0, 0.0, 0.0
        self._problem: str | None = None
        self._lost: Exception | None = None
        self._saved: SimpleQueue[Saved] = SimpleQueue()

    def start(self, actor: Actor, run: RunFacts | None) -> None:
        """Begin to save the actor's version, after the last save is whole.

        Raises:
            SrpoError: when that one failed.
        """
        called = time.monotonic()
        self.wait()
        contents = self._contents(actor, run)
        self._copied.clear()
        self._version, self._started = contents.version, time.monotonic()
        self._thread = Thread(target=self._save, args=(contents, called), name="saver", daemon=True)
        self._thread.start()
        self._stall = time.monotonic() - called

    def wait_copied(self) -> None:
        """Return when the weights may be changed without harm to the save in hand."""
        started = time.monotonic()
        self._copied.wait()
        self._stall += time.monotonic() - started

    def wait(self) -> None:
        """Return when the last save is whole; raises SrpoError when it failed or takes too long."""
        if self._thread is not None:
            limit = self._section.timeout_seconds
            self._thread.join(max(0.0, self._started + limit - time.monotonic()))
            if self._thread.is_alive():
                raise SrpoError(
                    f"{self._root}: the checkpoint of step {self._version} is not whole after {limit:g} seconds "
                    "(checkpoint.timeout_seconds): a rank or its disk hangs; see to that and start again"
                )
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise SrpoError when a save has failed, RuntimeError when another rank has gone meanwhile."""
        if self._lost is not None:
            # Not a sentence for the user: why the other rank has gone is the controller's to tell.
            raise RuntimeError(f"a save has lost another rank: {cause_of(self._lost)}") from self._lost
        if self._problem is not None:
            raise SrpoError(self._problem)

    def take_saved(self) -> list[dict[str, Any]]:
        """The checkpoints that have become whole since the last call; known to rank 0."""
        return [asdict(self._saved.get()) for _ in range(self._saved.qsize())]

    def _contents(self, actor: Actor, run: RunFacts | None) -> Contents:
        state = sharded_model(actor)
        elsewhere = actor.offload.copies if actor.offload is not None else {}
        of_optimizer = optimizer_shards(state, actor.optimizer, elsewhere)
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

    def _copy(self, contents: Contents) -> None:
        """Put copies in the place of live memory; what there is for the save alone is free then."""
        try:
            copies = self._buffer.copy([shard.tensor for shard in contents.shards], contents.mark)
            contents.shards[:] = [replace(s, tensor=copy) for s, copy in zip(contents.shards, copies, strict=True)]
        finally:
            self._copied.set()

    def _write(self, folder: Path, contents: Contents) -> Report:
        name = f"__{self._rank}_0.distcp"
        try:
            self._copy(contents)
            make_folder(folder)
            writer = PieceWriter(folder, name)
            with writer:
                for shard in contents.shards:
                    writer.add(shard.key, shard.shape, shard.offsets, shard.tensor)
                for key, value in contents.objects.items():
                    writer.add_object(key, value)
        except OSError as error:
            return Report(problem=str(unwritable(folder / name, error)))
        except Exception as error:  # whatever it is, the other ranks wait for an answer
            return Report(problem=f"{folder / name}: cannot be written ({cause_of(error)})")
        return Report(writer.pieces, [writer.written])

    def _finish(self, folder: Path, contents: Contents, reports: Sequence[Report]) -> str | None:
        """Make a checkpoint of what the ranks have written; returns a sentence when that is impossible."""
        problem = next((report.problem for report in reports if report.problem is not None), None)
        try:
            if problem is None:
                self._commit(folder, contents, reports)
        except SrpoError as error:
            problem = str(error)
        except OSError as error:
            problem = str(unwritable(folder, error))
        except Exception as error:  # whatever it is, the other ranks wait for an answer
            problem = f"{folder}: cannot be written ({cause_of(error)})"
        if problem is not None:
            shutil.rmtree(folder, ignore_errors=True)
            return f"the checkpoint of step {contents.version} is not saved: {problem}"
        return self._drop_superfluous(contents.version)

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
        self._broken.discard(contents.version)

    def _drop_superfluous(self, version: int) -> str | None:
        """Remove what need not be kept beside the whole checkpoint of `version`; a sentence when it stays."""
        for old in superfluous(checkpoint_versions(self._root), version, self._broken, self._section):
            try:
                self._drop(old)
            except OSError as error:
                where = checkpoint_folder(self._root, old)
                return f"{where}: cannot be removed ({error.strerror}), and is not kept; remove it and start again"
        return None

    def _drop(self, version: int) -> None:
        """Remove a checkpoint; it stops being one before its first file goes."""
        dropping = self._root / f"dropping-{version:06d}"
        checkpoint_folder(self._root, version).rename(dropping)
        shutil.rmtree(dropping)


def superfluous(
    versions: Sequence[int], newest: int, broken: Collection[int], section: CheckpointSection
) -> list[int]:
    """The versions, of all in order, that are not kept: all but the last `keep` and every `keep_every`-th.

    `newest` has just become whole.  Those behind it belong to steps that are trained again and are replaced then.
    `broken` are those that the start has passed over; the ones before `newest` are of no more use.
    """
    past = [v for v in versions if v <= newest]
    whole = [v for v in past if v == newest or v not in broken]
    old = [v for v in whole[: -section.keep] if section.keep_every is None or v % section.keep_every]
    return old + [v for v in past if v not in whole]


def _remove(folders: Sequence[Path]) -> None:
    """Remove what a killed save has left behind."""
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise SrpoError(f"{folder}: cannot be removed ({error.strerror}); remove it and start again") from None


def common_state(actor: Actor) -> dict[str, Any]:
    """What every rank has alike, as Megatron's own saving would leave it in `common.pt`."""
    sharding = {"param_state_sharding_type": METADATA["distrib_optim_sharding_type"]}
    states = [{**one.state_dict(), **sharding} for one in optimizers(actor.optimizer)]
    # All groups of all ranks have been updated alike, but where this rank holds none of a group's parameters,
    # nobody has counted its updates here: they would begin anew for those who do hold some.
    groups = [group for state in states for group in state["optimizer"]["param_groups"]]
    counted = [group["step"] for group in groups if group.get("step") is not None]
    for group in groups if counted else ():
        group["step"] = counted[0]
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
