"""Weights that Transformer Engine keeps in 8 bits (`trainer.fp8.parameters`), seen from outside.

Such a parameter says that it is bfloat16, but has no bfloat16 numbers: `plain` computes its values, and who writes
to it (`copy_`) has it round them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from megatron.core.fp8_utils import dequantize_fp8_tensor, is_float8tensor


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The values in the dtype that the tensor says it has, detached: of one in 8 bits new memory, else its own."""
    tensor = tensor.detach()
    return dequantize_fp8_tensor(tensor).to(tensor.dtype) if is_float8tensor(tensor) else tensor


def fill(parameter: torch.Tensor, values: torch.Tensor) -> None:
    """Write `values`, of the same shape; a parameter in 8 bits remembers them until `forget_unrounded`.

    Megatron's distributed optimizer asks it for them, so that master weights begin with what was read and not with
    what 8 bits have left of it.  They wait in the host's memory, rounded to the dtype that the parameter says it
    has: the master weights are those of a model without 8 bits.
    """
    values = values.to(parameter.dtype)
    parameter.copy_(values)
    if is_float8tensor(parameter):
        forget_unrounded([parameter])  # Transformer Engine's own, from before the weights were read
        held = [values.cpu()]
        parameter.get_high_precision_init_val = lambda: held[0] if held else None  # type: ignore[attr-defined]
        parameter.clear_high_precision_init_val = held.clear  # type: ignore[attr-defined]


def forget_unrounded(parameters: Iterable[torch.Tensor]) -> None:
    """Free what parameters in 8 bits remember: after the optimizer is built, or where there is none."""
    for parameter in parameters:
        if is_float8tensor(parameter) and hasattr(parameter, "clear_high_precision_init_val"):
            parameter.clear_high_precision_init_val()
