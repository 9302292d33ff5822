"""The optimizer's state in the host's memory while nobody reads it.

Moments, and the float32 master weights of a bfloat16 model, are read and written by an update alone.  Between two
updates they lie in the host's memory, and the device has room for activations.  Their tensors stay the same
objects and keep their shapes: what goes and comes back is the storage.  Whoever reads or writes the state does so
within `Offload.at_hand`; a save is given the copies (`Offload.copies`), which do not change before the next update
has ended, no more than weights do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from megatron.core.fp8_utils import is_float8tensor
from megatron.core.optimizer import MegatronOptimizer

from megatron_srpo.actor.shards import optimizers
from megatron_srpo.actor.snapshot import ALIGNMENT, HostBuffer


class Offload:
    """The state of one rank's optimizer, which is put away at once and after every use."""

    def __init__(self, optimizer: MegatronOptimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._buffer = HostBuffer(device)
        self._away: list[tuple[torch.Tensor, torch.Tensor]] = []
        # Masters alone at first; the first update makes two moments of each, and rows of a block are aligned.
        self._buffer.reserve(sum(3 * (tensor.nbytes + ALIGNMENT) for tensor in own_state(optimizer)))
        self._put_away()

    @property
    def copies(self) -> Mapping[int, torch.Tensor]:
        """Of each tensor that is away, by its `id`: the copy that holds its values."""
        return {id(tensor): copy for tensor, copy in self._away}

    @contextlib.contextmanager
    def at_hand(self) -> Iterator[None]:
        """The state is on the device within; an error leaves it there."""
        self._fetch()
        yield
        self._put_away()

    def _fetch(self) -> None:
        for tensor, copy in self._away:
            tensor.untyped_storage().resize_(copy.nbytes)
            # In the order of the stream: the update's kernels come behind it, and so does the next `_put_away`.
            tensor.detach().copy_(copy, non_blocking=True)
        self._away = []

    def _put_away(self) -> None:
        # Looked for every time: the first update and loading make new tensors.
        tensors = own_state(self._optimizer)
        copies = self._buffer.copy(tensors, self._buffer.mark())  # complete on return
        self._away = list(zip(tensors, copies, strict=True))
        for tensor in tensors:
            tensor.untyped_storage().resize_(0)


def own_state(optimizer: MegatronOptimizer) -> list[torch.Tensor]:
    """The state's tensors that fill a storage of their own, so that it may be freed.

    Master weights of a float32 model do not: they are pieces of the model's own parameters.
    """
    found = []
    for one in optimizers(optimizer):
        of_model = {
            parameter.untyped_storage().data_ptr()
            for groups in (one.model_float16_groups, one.model_fp32_groups)
            for group in groups
            for parameter in group
            if not is_float8tensor(parameter)  # it has no storage, and its master no bits of it
        }
        for group in one.optimizer.param_groups:
            for main in group["params"]:
                state = one.optimizer.state.get(main, {}).values()
                found += [
                    tensor
                    for tensor in (main, *state)
                    if isinstance(tensor, torch.Tensor)
                    and tensor.dim()  # a step count stays, if it is a tensor
                    and tensor.untyped_storage().nbytes() == tensor.nbytes > 0
                    and tensor.untyped_storage().data_ptr() not in of_model
                ]
    return found
