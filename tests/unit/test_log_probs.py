"""Log-probs in blocks, entropy and gradients against the whole logits in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megatron_srpo.actor.log_probs import Vocabulary, linear_log_probs
from tests.log_probs_reference import Case, expected

ROWS, VOCABULARY = 11, 13
WHOLE = Vocabulary(VOCABULARY, start=0, group=None, temperature=0.7, block_elements=ROWS * VOCABULARY)


def blocks_of(columns: int) -> Vocabulary:
    return replace(WHOLE, block_elements=columns * ROWS)


@pytest.mark.parametrize("columns", [1, 2, 5, 12, 13, 100])
def test_every_block_size_gives_the_whole(columns: int) -> None:
    case = Case.random(ROWS, VOCABULARY)
    hidden, weight = case.hidden.clone().requires_grad_(), case.weight.clone().requires_grad_()
    log_probs, entropy = linear_log_probs(hidden, weight, case.targets, blocks_of(columns))
    (log_probs * case.weights).sum().backward()
    want = expected(case)
    torch.testing.assert_close(log_probs, want.log_probs, atol=1e-12, rtol=0)
    torch.testing.assert_close(entropy, want.entropy, atol=1e-12, rtol=0)
    torch.testing.assert_close(hidden.grad, want.hidden_gradient, atol=1e-12, rtol=0)
    torch.testing.assert_close(weight.grad, want.weight_gradient, atol=1e-12, rtol=0)
    assert not entropy.requires_grad


def test_padding_of_the_vocabulary_has_no_part() -> None:
    case = Case.random(ROWS, VOCABULARY)
    hidden = case.hidden.clone().requires_grad_()
    weight = torch.cat([case.weight, torch.full((3, 6), 9.0, dtype=torch.float64)]).requires_grad_()
    log_probs, entropy = linear_log_probs(hidden, weight, case.targets, blocks_of(4))
    (log_probs * case.weights).sum().backward()
    want = expected(case)
    torch.testing.assert_close(log_probs, want.log_probs)
    torch.testing.assert_close(entropy, want.entropy)
    assert hidden.grad is not None and weight.grad is not None
    torch.testing.assert_close(hidden.grad, want.hidden_gradient)
    torch.testing.assert_close(weight.grad[:VOCABULARY], want.weight_gradient)
    assert not weight.grad[VOCABULARY:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_goes_to_megatrons_buffer(dtype: torch.dtype) -> None:
    """Two microbatches add up there, in float32; the placeholder that autograd gets is marked."""
    case = Case.random(ROWS, VOCABULARY)
    case = replace(case, hidden=case.hidden.to(dtype).double(), weight=case.weight.to(dtype).double())
    weight = case.weight.to(dtype).requires_grad_()
    buffer = torch.zeros(VOCABULARY, 6, dtype=torch.float32)
    weight.main_grad = buffer  # type: ignore[attr-defined]
    for _ in range(2):
        hidden = case.hidden.to(dtype).requires_grad_()
        log_probs, _ = linear_log_probs(hidden, weight, case.targets, blocks_of(3))
        assert log_probs.dtype == torch.float32
        (log_probs * case.weights.float()).sum().backward()
    want = expected(case)
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(buffer.double() / 2, want.weight_gradient, atol=tolerance, rtol=0)
    torch.testing.assert_close(log_probs.double(), want.log_probs, atol=tolerance, rtol=0)
    assert weight.grad_added_to_main_grad  # type: ignore[attr-defined]


def test_a_tied_weight_gets_a_placeholder_of_zeros() -> None:
    """Autograd adds it to the embedding's gradient, which Megatron then adds to the buffer."""
    case = Case.random(ROWS, VOCABULARY)
    weight = case.weight.clone().requires_grad_()
    weight.main_grad = torch.zeros_like(case.weight)  # type: ignore[attr-defined]
    weight.zero_out_wgrad = True  # type: ignore[attr-defined]
    hidden = case.hidden.clone().requires_grad_()
    log_probs, _ = linear_log_probs(hidden, weight, case.targets, WHOLE)
    log_probs.sum().backward()
    assert weight.grad is not None and not weight.grad.any()
    assert weight.main_grad.any()  # type: ignore[attr-defined]


def test_no_rows() -> None:
    """A microbatch without response tokens takes part all the same."""
    case = Case.random(ROWS, VOCABULARY)
    hidden, weight = case.hidden[:0].clone().requires_grad_(), case.weight.clone().requires_grad_()
    log_probs, entropy = linear_log_probs(hidden, weight, case.targets[:0], WHOLE)
    log_probs.sum().backward()
    assert log_probs.shape == entropy.shape == (0,)
    assert weight.grad is not None and not weight.grad.any()


def test_logits_far_apart() -> None:
    """Neither overflow nor a logarithm of zero."""
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0]])
    log_probs, entropy = linear_log_probs(
        hidden, weight, torch.tensor([0, 0]), Vocabulary(3, 0, None, 1.0, block_elements=3)
    )
    assert log_probs.tolist() == [0.0, -2e4]
    assert entropy.tolist() == [0.0, 0.0]


def test_types_must_agree() -> None:
    with pytest.raises(TypeError, match="bfloat16"):
        linear_log_probs(torch.zeros(1, 2), torch.zeros(3, 2).bfloat16(), torch.zeros(1).long(), WHOLE)
