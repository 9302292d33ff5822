"""Loading training checkpoints, on any parallel layout, after every byte of them has been looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException

from megatron_srpo.actor.actor import Actor
from megatron_srpo.actor.optimizer import weights_from_masters
from megatron_srpo.actor.parallel import Ranks
from megatron_srpo.actor.random_states import as_sharded, random_states, restore_random_states
from megatron_srpo.bridge.torch_dist import refuse_code
from megatron_srpo.checkpoints.manifest import Layout, Manifest, checkpoint_folder, checkpoint_versions
from megatron_srpo.checkpoints.verify import check_files, share_of
from megatron_srpo.errors import SrpoError, one_line

# Optimizer state in the shape of the parameters, so that another parallel layout can load it.
METADATA = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}

# Which experts engines chose in steps before the oldest checkpoint is not kept (trainer.experts.keep_routing).
NEW_RUN = "start a new run"


@dataclass(frozen=True)
class Resumed:
    """What a start goes on from: the weight version, and what is wrong with newer checkpoints, by version."""

    version: int
    broken: Mapping[int, str] = field(default_factory=dict)


def layout_of(ranks: Ranks) -> Layout:
    """The layout as a manifest names it."""
    return Layout(
        tensor=ranks.tensor_size,
        pipeline=ranks.pipeline_size,
        data=ranks.data_size,
        expert=ranks.expert_size,
        context=ranks.context_size,
    )


def resume(actor: Actor, root: Path, fall_back: bool) -> Resumed:
    """Load the newest checkpoint, or leave the actor as it is where there is none; every rank calls it.

    Each file is checked by one rank.  With `fall_back` a broken checkpoint is passed over for the one before it.

    Raises:
        SrpoError: naming the file, on all ranks, when a checkpoint is broken and may not or cannot be passed over.
    """
    broken: dict[int, str] = {}
    can_begin_again = actor.recipe.trainer.experts.can_begin_again
    versions = checkpoint_versions(root)
    for version in reversed(versions):
        problem = _first_problem(checkpoint_folder(root, version), version)
        if problem is None:
            load_checkpoint(actor, root, version)
            return Resumed(version, broken)
        if not fall_back:
            folder, is_another = checkpoint_folder(root, version), version != versions[0]
            raise SrpoError(f"{problem}; {_way_out(folder, is_another, can_begin_again)}")
        broken[version] = problem
    if broken:
        or_else = (
            "remove them all to train on the recorded steps from the beginning" if can_begin_again else NEW_RUN
        )
        raise SrpoError(f"{broken[versions[0]]}, and no checkpoint in {root} is whole; restore one, or {or_else}")
    return Resumed(actor.version)


def _way_out(folder: Path, is_another: bool, can_begin_again: bool) -> str:
    if is_another:
        return f"restore it, or set checkpoint.fall_back=true to go on from the checkpoint before {folder.name}"
    if not can_begin_again:
        return f"restore it, or {NEW_RUN}"
    return f"restore it, or remove {folder} to train on the recorded steps from the beginning"


def _first_problem(folder: Path, version: int) -> str | None:
    """What is wrong with a checkpoint, the same answer on every rank; each looks at its share of the files."""
    found: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, _problems_of_share(folder, version))
    problem = next((problem for problems in found for problem in problems), None)
    if problem is not None:
        return problem
    # A checksum does not say who wrote a file: what torch would unpickle is looked at before it does.
    answer = [_foreign_code(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]


def _problems_of_share(folder: Path, version: int) -> list[str]:
    try:
        manifest = Manifest.read(folder)
    except SrpoError as error:
        return [str(error)]
    problems = check_files(folder, share_of(manifest.files, dist.get_rank(), dist.get_world_size()))
    if manifest.weight_version != version:
        problems.append(f"{folder}: its manifest is of weight version {manifest.weight_version}")
    return problems


def _foreign_code(folder: Path) -> str | None:
    """A sentence when a pickle of the checkpoint is anything but plain values and tensors."""
    try:
        refuse_code(folder)
    except SrpoError as error:
        return str(error)
    return None


def load_checkpoint(actor: Actor, root: Path, version: int) -> None:
    """Restore weights, optimizer, schedule and random states of a version; every rank calls it.

    Random states belong to ranks: on another layout they stay those of the seed.  Raises SrpoError when the
    checkpoint does not fit the model.
    """
    with actor.state_at_hand():
        _load(actor, checkpoint_folder(root, version))


def _load(actor: Actor, folder: Path) -> None:
    template = _template(actor)
    is_same_layout = Manifest.read(folder).layout == layout_of(actor.ranks)
    if is_same_layout:
        states = random_states(actor.platform.is_cuda)
        template["random"] = as_sharded(states, dist.get_rank(), dist.get_world_size())
    try:
        state = dist_checkpointing.load(template, str(folder))
    # No RuntimeError: it comes when another rank has died, which is for the controller to tell.
    except (CheckpointingException, AssertionError, KeyError, OSError, ValueError) as error:
        raise SrpoError(
            f"{folder}: cannot be loaded ({one_line(error)[:300]}); its files are whole, so look whether it "
            "belongs to the recipe's model"
        ) from error
    for i, chunk in enumerate(actor.chunks):
        chunk.load_state_dict(state[f"model{i}"])
    actor.optimizer.load_state_dict(state["optimizer"])
    weights_from_masters(actor.optimizer, actor.model)
    actor.scheduler.load_state_dict(state["scheduler"])
    if is_same_layout:
        restore_random_states(state["random"])
    actor.version = int(state["version"])


def sharded_model(actor: Actor) -> dict[str, Any]:
    """The weights of this rank's chunks; their keys on disk have global layer numbers, so chunks do not meet."""
    return {f"model{i}": chunk.sharded_state_dict() for i, chunk in enumerate(actor.chunks)}


def _template(actor: Actor) -> dict[str, Any]:
    """What the stock loading is to fill."""
    model = sharded_model(actor)
    return {
        **model,
        "optimizer": actor.optimizer.sharded_state_dict(model, is_loading=True, metadata=METADATA),
        "scheduler": actor.scheduler.state_dict(),
        "version": actor.version,
    }
