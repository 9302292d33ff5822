"""Routing replay: tokens go to the experts that the engine sent them to (arXiv 2510.11370).

Trainer and engine round differently, and where two experts are nearly even they choose differently: the token's
log-prob then jumps, whatever the weights are.  With the engine's choices the two differ by rounding alone.  The
weights of the chosen experts, and their gradients, are still the trainer's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.moe.router import TopKRouter
from numpy.typing import NDArray

from megatron_srpo.actor.parallel import Ranks
from megatron_srpo.errors import SrpoError

if TYPE_CHECKING:
    from megatron_srpo.actor.batch import Microbatch

TopK = Callable[[torch.Tensor, int, int | None, int | None], tuple[torch.Tensor, torch.Tensor]]
# Of a token that no engine has routed: a response's last one, and padding.  The router chooses for it.
UNKNOWN = -1


class RouterReplay:
    """What Megatron's router asks for its choices, in place of Megatron's own class of this name.

    A schedule runs the layer once on every microbatch, in order, and again, in the same order, for those that the
    backward pass recomputes, while it is already ahead with others: so it keeps two places in their list.
    """

    def __init__(self, layer: int) -> None:
        """`layer`: the layer's place among those of `Microbatch.experts`."""
        self._layer = layer
        self._batches: Sequence[Microbatch] = ()
        self._run = 0
        self._recomputed = 0
        self.agreed: list[torch.Tensor] = []
        """For every microbatch run: choices that are also the router's own, and how many there are."""

    def begin(self, batches: Sequence[Microbatch]) -> None:
        """The next schedule runs on these."""
        self._batches, self._run, self._recomputed = batches, 0, 0

    def get_replay_topk(
        self,
        scores: torch.Tensor,
        topk: int,
        num_groups: int | None = None,
        group_topk: int | None = None,
        default_compute_topk: TopK | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and numbers of the experts of every token, both [tokens, topk]; `scores` is [tokens, experts]."""
        assert default_compute_topk is not None, "Megatron's router says how it chooses"
        _, own = default_compute_topk(scores, topk, num_groups, group_topk)
        # The autograd engine runs this thread: the layer is computed again for a backward pass.
        recomputes = torch._C._current_graph_task_id() != -1
        experts = self._batches[self._recomputed if recomputes else self._run].experts
        assert experts is not None, "microbatches of a replaying actor have the engine's choices"
        recorded = experts[:, self._layer].long()
        known = recorded != UNKNOWN
        if recomputes:
            self._recomputed += 1
        else:
            self._run += 1
            same = (recorded[:, :, None] == own[:, None, :]).any(-1)
            self.agreed.append(torch.stack([same.sum(), known.sum()]))
        chosen = torch.where(known, recorded, own)
        return scores.gather(1, chosen), chosen


class Replay:
    """The routers of this rank's chunks, which from now on choose as microbatches say."""

    def __init__(self, chunks: Sequence[GPTModel], ranks: Ranks) -> None:
        """Raises SrpoError when this Megatron-Core's router cannot be told."""
        self._ranks = ranks
        routers = [module for chunk in chunks for module in chunk.modules() if isinstance(module, TopKRouter)]
        if not all(hasattr(router, "router_replay") for router in routers):
            raise SrpoError(
                "trainer.experts.replay_routing needs megatron-core 0.16 or newer; install it, or set the key to "
                "false"
            )
        self._layers = sorted(router.layer_number - 1 for router in routers)
        self._routers = []
        for router in routers:
            replay = RouterReplay(self._layers.index(router.layer_number - 1))
            router.router_replay = replay
            self._routers.append(replay)

    def begin(self, batches: Sequence[Microbatch]) -> None:
        """The next schedule of the chunks runs on these microbatches."""
        for router in self._routers:
            router.begin(batches)

    def choices(
        self, samples: Sequence[NDArray[Any]], starts: Sequence[int], mine: NDArray[np.int64], total: int
    ) -> torch.Tensor:
        """What this rank's routers must choose for a microbatch, [tokens, this rank's layers, topk] int16.

        `samples` are the choices for each of its samples [tokens - 1, layers, topk], which begin at `starts` of
        the `total` packed tokens; `mine` are those of this context rank, which tensor ranks share out in equal
        parts: experts need sequence parallelism.
        """
        whole = np.full((total, len(self._layers), self._chosen(samples)), UNKNOWN, np.int16)
        for start, choices in zip(starts, samples, strict=True):
            whole[start : start + len(choices)] = choices[:, self._layers]
        part = len(mine) // self._ranks.tensor_size
        own = mine[part * self._ranks.tensor : part * (self._ranks.tensor + 1)]
        return torch.from_numpy(whole[own])

    @staticmethod
    def _chosen(samples: Sequence[NDArray[Any]]) -> int:
        # A microbatch without samples is a filler, in which nothing is known of any number of choices.
        return samples[0].shape[2] if samples else 1

    def agreement(self, device: torch.device) -> dict[str, float]:
        """Share of the engine's choices since the last call that the routers would have made too, on all ranks."""
        counts = [pair for router in self._routers for pair in router.agreed]
        for router in self._routers:
            router.agreed.clear()
        numbers = torch.stack(counts).sum(0) if counts else torch.zeros(2, dtype=torch.long, device=device)
        dist.all_reduce(numbers)
        same, known = numbers.tolist()
        return {"routing_agreement": same / known if known else 1.0}
