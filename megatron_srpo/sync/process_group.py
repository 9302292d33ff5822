"""The process group that the trainer and the engines share for weight broadcasts.

It exists beside the trainer's own default group.  SGLang makes its side with a recipe that both sides must
follow to the letter, because ranks find each other by key names in a store: a TCP store at rank 0, keys
prefixed with the group's name, torch's internal `_new_process_group_helper` called as for a default group.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

import torch.distributed as dist
from torch.distributed import distributed_c10d

from megatron_srpo.errors import SrpoError


def join_group(
    *,
    address: str,
    port: int,
    rank: int,
    world_size: int,
    name: str,
    backend: Literal["gloo", "nccl"],
    timeout: float,
    store: dist.TCPStore | None = None,
) -> dist.ProcessGroup:
    """Join the group `name` as `rank` of `world_size`; returns when all ranks have joined.

    Rank 0, the trainer, hosts the store on `address`:`port`, or has opened it before (`open_store`); ranks from
    1 on are engine ranks.  `timeout` in
    seconds limits the joining and each later collective.  `dist.broadcast(tensor, src=0, group=group)` sends
    from the trainer, whatever its rank in its default group is.  Raises SrpoError when the ranks do not meet.
    """
    limit = timedelta(seconds=timeout)
    # torch's type hints leave these out; they are alike in 2.11 to 2.13.
    stores: Any = dist
    c10d: Any = distributed_c10d
    try:
        store = store or stores.TCPStore(address, port, world_size, rank == 0, limit, multi_tenant=True)
        store.set_timeout(limit)
        group: dist.ProcessGroup
        group, _ = c10d._new_process_group_helper(
            world_size,
            rank,
            [],
            dist.Backend(backend),
            stores.PrefixStore(name, store),
            group_name=name,
            timeout=limit,
        )
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise SrpoError(
            f"weight group {name}: rank {rank} of {world_size} could not join at {address}:{port} within "
            f"{timeout:g} seconds ({_first_line(error)}): check that all engines run and the port is free"
        ) from error
    # Collectives look ranks up here; in this group they number themselves.
    c10d._world.pg_group_ranks[group] = {member: member for member in range(world_size)}
    return group


def open_store(address: str, timeout: float) -> dist.TCPStore:
    """Rank 0's store on a free port of `address` (its `port`); does not wait for anybody."""
    limit = timedelta(seconds=timeout)
    return dist.TCPStore(address, 0, None, True, limit, wait_for_workers=False, multi_tenant=True)


def leave_group(group: dist.ProcessGroup) -> None:
    """Leave a group that `join_group` made, so that its name can be used again."""
    dist.destroy_process_group(group)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
