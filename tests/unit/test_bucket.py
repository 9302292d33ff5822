"""The flat byte form of weight buckets."""

from __future__ import annotations

import pytest
import torch

from megatron_srpo.bridge.layouts import Whole
from megatron_srpo.bridge.tables import Rule
from megatron_srpo.bridge.weights import Binding
from megatron_srpo.sync.bucket import empty_bucket, flatten, unflatten
from megatron_srpo.sync.exchange import FIRST_BUCKET_SHARE, describe, plan_buckets

TENSORS = {
    "double": torch.randn(3, dtype=torch.float64),
    "single": torch.randn(2, 5),
    "transposed": torch.randn(4, 2).t(),
    "scalar": torch.tensor(1.5),
    "half": torch.randn(3, 3).to(torch.bfloat16),
    "empty": torch.empty(0, 4),
    "bytes": torch.tensor([1, 2, 255], dtype=torch.uint8),
}


def test_round_trip_keeps_every_bit() -> None:
    tensors = {name: tensor for name, tensor in TENSORS.items() if name != "empty"}
    flat = flatten(list(tensors.values()))
    dtypes = [tensor.dtype for tensor in tensors.values()]
    shapes = [tensor.shape for tensor in tensors.values()]
    assert flat.dtype == torch.uint8
    assert flat.numel() == empty_bucket(dtypes, shapes).numel() == sum(t.nbytes for t in tensors.values())
    back = unflatten(flat, list(tensors), dtypes, shapes)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name


def test_bytes_follow_each_other_without_gaps() -> None:
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([3], dtype=torch.int16)
    assert bytes(flatten([first, second]).tolist()) == first.numpy().tobytes() + second.numpy().tobytes()


def test_wider_dtype_after_an_odd_offset_is_refused() -> None:
    odd = torch.zeros(1, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="tensor 1 of torch.float32 would begin at byte 2"):
        flatten([odd, torch.zeros(1)])
    with pytest.raises(ValueError, match="w of torch.float32 would begin at byte 2"):
        unflatten(torch.zeros(6, dtype=torch.uint8), ["o", "w"], [odd.dtype, torch.float32], [(1,), (1,)])


@pytest.mark.parametrize("size", [3, 5])
def test_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"of {size} bytes|bucket's {size} bytes"):
        unflatten(torch.zeros(size, dtype=torch.uint8), ["w"], [torch.float32], [(1,)])


def test_what_stays_float32_comes_first() -> None:
    """Behind an odd number of 16-bit values it would begin between two multiples of its size."""
    weight = Binding("weight", torch.arange(3.0), Rule(("weight",), ("a.weight",), Whole()), ("a.weight",))
    bias = Binding("bias", torch.rand(2), Rule(("bias",), ("a.bias",), Whole(), keeps_float32=True), ("a.bias",))
    plan = plan_buckets([weight, bias], 1, torch.bfloat16, 14 * FIRST_BUCKET_SHARE)
    [bucket] = describe(plan, 1, torch.bfloat16)
    assert (bucket.names, bucket.dtypes) == (["a.bias", "a.weight"], ["float32", "bfloat16"])
    sent = [binding.parameter.to(binding.dtype(torch.bfloat16)) for binding in plan[0]]
    dtypes = [getattr(torch, dtype) for dtype in bucket.dtypes]
    back = unflatten(flatten(sent), bucket.names, dtypes, bucket.shapes)
    assert back["a.bias"].equal(bias.parameter)
    assert back["a.weight"].tolist() == [0, 1, 2]
