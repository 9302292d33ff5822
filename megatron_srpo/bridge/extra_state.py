"""What Transformer Engine keeps of a linear beside its weights (`_extra_state`): scales and past largest values.

It is a pickle in a tensor of bytes, which Transformer Engine unpickles whatever it names.  So it is looked at here
before: read with a list of harmless names, of which Transformer Engine's own are only pretended.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch

MARK = "_extra_state"
"""What keys of such states have in them."""
_RECIPES = "transformer_engine.common.recipe"
_RECIPE_CLASSES = frozenset(
    (
        *("Recipe", "DelayedScaling", "Float8CurrentScaling", "Float8BlockScaling", "MXFP8BlockScaling"),
        *("NVFP4BlockScaling", "Format", "_FormatHelper", "MMParams", "QParams", "_OverrideLinearPrecision"),
    )
)


class _Pretended:
    """Takes whatever a recipe is made of."""

    def __new__(cls, *_arguments: Any, **_options: Any) -> _Pretended:
        return super().__new__(cls)

    def __setstate__(self, _state: Any) -> None:
        """Nothing of it is used."""


def _tensor_of(content: bytes) -> Any:
    """torch's `_load_from_bytes`, which would unpickle anything."""
    return torch.load(io.BytesIO(content), weights_only=True)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The harmless ones; a dotted name would reach through a module's own imports."""
        if module == _RECIPES and name in _RECIPE_CLASSES:
            return _Pretended
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _tensor_of
        if (module, name) in (("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")):
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def refuse_code_in_state(value: Any) -> None:
    """Raise UnpicklingError, or what else broken pickles raise, unless the states in `value` are plain values."""
    if isinstance(value, list | tuple):
        for one in value:
            refuse_code_in_state(one)
    elif isinstance(value, torch.Tensor):  # of whatever type: its bytes are what counts
        content = value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        if content:
            _Unpickler(io.BytesIO(content)).load()
    elif value is not None:
        raise pickle.UnpicklingError(f"a {type(value).__name__} is no state of Transformer Engine's")
