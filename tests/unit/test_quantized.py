"""Weights in 8 bits from outside, by a stand-in for Transformer Engine's, and what a save makes of them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_srpo.actor.saver import Saver
from megatron_srpo.actor.shards import Shard
from megatron_srpo.actor.snapshot import HostBuffer
from megatron_srpo.bridge.layouts import Whole
from megatron_srpo.bridge.quantized import fill, forget_unrounded, plain
from megatron_srpo.bridge.tables import Rule
from megatron_srpo.bridge.weights import Binding, gather, merged_shapes
from tests.integration.eight_bits import Quantized, stand_in


@pytest.fixture(autouse=True)
def eight_bits() -> Iterator[None]:
    with stand_in():
        yield


def values() -> torch.Tensor:
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_parameter_in_8_bits_remembers_what_it_was_made_of() -> None:
    """In bfloat16, as another model's masters begin; who asks later gets nothing."""
    parameter: Any = torch.nn.Parameter(Quantized.of(torch.zeros(8, 16)))
    fill(parameter, values())
    assert torch.equal(parameter.get_high_precision_init_val(), values().bfloat16())
    assert torch.equal(plain(parameter), Quantized.of(values().bfloat16()).dequantize())
    assert plain(parameter).dtype == torch.bfloat16 and type(plain(parameter)) is torch.Tensor
    forget_unrounded([parameter])
    assert parameter.get_high_precision_init_val() is None


@torch.no_grad()
def test_other_parameters_are_as_ever() -> None:
    parameter = torch.nn.Parameter(torch.zeros(8, 16, dtype=torch.bfloat16))
    fill(parameter, values())
    assert not hasattr(parameter, "get_high_precision_init_val")
    forget_unrounded([parameter])
    assert torch.equal(parameter, values().bfloat16())
    assert plain(parameter).data_ptr() == parameter.data_ptr() and not plain(parameter).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_engines_get_plain_tensors(dtype: torch.dtype) -> None:
    """Also in bfloat16, which a parameter in 8 bits says that it has already."""
    parameter = torch.nn.Parameter(Quantized.of(values()))
    binding = Binding("weight", parameter, Rule(("weight",), ("{expert}",), Whole()), ("weight",))
    (found,) = gather(binding, dtype) or ()
    assert type(found) is torch.Tensor and found.dtype == dtype
    assert torch.equal(found.bfloat16(), Quantized.of(values()).dequantize())
    assert merged_shapes(binding, 2) == [[8, 16]]


def test_what_a_save_has_dequantized_is_free_when_it_is_copied() -> None:
    """Not when the file is written, which may take minutes."""
    saver: Any = Saver.__new__(Saver)
    saver._buffer, saver._copied = HostBuffer(torch.device("cpu")), Event()
    dequantized = plain(Quantized.of(values()))
    expected, alive = dequantized.clone(), weakref.ref(dequantized)
    contents: Any = SimpleNamespace(shards=[Shard("key", (8, 16), (0, 0), dequantized)], mark=None)
    del dequantized
    saver._copy(contents)
    assert saver._copied.is_set() and alive() is None
    assert torch.equal(contents.shards[0].tensor, expected)
