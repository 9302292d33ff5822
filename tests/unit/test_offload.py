"""What of an optimizer's state may leave the device, and how it comes back."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch

from megatron_srpo.actor.offload import Offload, own_state

CPU = torch.device("cpu")


def optimizer(state: dict[torch.Tensor, dict[str, Any]], *parameters: torch.Tensor) -> Any:
    """What is read of a distributed optimizer: the model's parameters, and its own with their state."""
    return SimpleNamespace(
        model_float16_groups=[list(parameters)],
        model_fp32_groups=[[]],
        optimizer=SimpleNamespace(param_groups=[{"params": list(state)}], state=state),
    )


def test_only_what_fills_a_storage_of_its_own_may_go() -> None:
    buffer, moments = torch.zeros(10), torch.zeros(12)
    whole = torch.zeros(8)  # a parameter that is alone in its buffer
    master, average, square = torch.zeros(6), torch.zeros(2, 3), torch.zeros(6)
    state: dict[torch.Tensor, dict[str, Any]] = {
        buffer[:4]: {"exp_avg": moments[:4], "exp_avg_sq": moments[4:8]},
        whole.view(-1)[0:8]: {"step": torch.tensor(3.0)},
        master: {"exp_avg": average, "exp_avg_sq": square, "step": 3},
        torch.zeros(0): {"exp_avg": torch.zeros(0)},
    }
    found = own_state(optimizer(state, buffer[4:], whole))
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in (master, average, square)]


def test_a_parameter_without_state_gets_none_by_being_looked_at() -> None:
    main = torch.zeros(3)
    state: Any = defaultdict(dict)
    one = optimizer(state)
    one.optimizer.param_groups = [{"params": [main]}]
    assert len(own_state(one)) == 1 and not state, "Megatron asks whether there is any state"


def test_state_comes_and_goes_in_one_block() -> None:
    master, average = torch.arange(6.0), torch.arange(4.0).view(2, 2)
    at_first, then = master.clone(), average.clone()
    state: dict[torch.Tensor, dict[str, Any]] = {master: {}}
    offload = Offload(optimizer(state), CPU)
    assert master.untyped_storage().nbytes() == 0
    with offload.at_hand():
        assert torch.equal(master, at_first) and not offload.copies
        state[master]["exp_avg"] = average  # as the first update does
        master += 1
    places = set()
    for round_ in range(3):
        assert [t.untyped_storage().nbytes() for t in (master, average)] == [0, 0]
        assert torch.equal(offload.copies[id(master)], at_first + 1)
        assert torch.equal(offload.copies[id(average)], then + round_)
        assert offload.copies[id(average)].shape == (2, 2)
        places.add(offload.copies[id(master)].data_ptr())
        with offload.at_hand():
            average += 1
    assert len(places) == 1, "the block is used again"
