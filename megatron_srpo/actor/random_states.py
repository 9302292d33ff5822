"""The random generators of a rank, as a checkpoint keeps them.

Nothing in a training step draws random numbers today: there is no dropout, and the engines sample.  The states
are kept all the same, so that a step that would draw some goes on exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

KEY = "rng_state"


def random_states(is_cuda: bool) -> dict[str, Any]:
    """States by generator: torch's on the CPU and on the GPU, and those that Megatron keeps by name."""
    states = {"torch": torch.get_rng_state(), "tracker": get_cuda_rng_tracker().get_states()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if is_cuda else {})


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo everything that was drawn since `random_states`."""
    torch.set_rng_state(states["torch"])
    get_cuda_rng_tracker().set_states(states["tracker"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def as_sharded(states: dict[str, Any], rank: int, ranks: int) -> ShardedObject:
    """The states as one of `ranks` objects of a checkpoint."""
    return ShardedObject(KEY, states, (ranks,), (rank,), replica_id=0)
