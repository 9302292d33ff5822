"""The pickles that Transformer Engine keeps in checkpoints: its own pass, code does not, wherever it hides."""

from __future__ import annotations

import enum
import io
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_srpo.bridge.extra_state import refuse_code_in_state
from megatron_srpo.bridge.torch_dist import PieceWriter, refuse_code, write_index
from megatron_srpo.errors import SrpoError

RECIPES = "transformer_engine.common.recipe"
KEY = "decoder.layers.0.mlp.linear_fc1._extra_state/shard_0_1"


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


class HiddenBomb:
    """In what looks like a tensor's storage."""

    def __reduce__(self) -> Any:
        file = io.BytesIO()
        torch.save(Bomb(), file)
        return torch.storage._load_from_bytes, (file.getvalue(),)


# find_class follows dots through what the module itself has imported.
DOTTED = b"\x80\x04\x8c" + bytes([len(RECIPES)]) + RECIPES.encode() + b"\x8c\x08os.mkdir\x93\x8c\x03ran\x85R."


def state(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with Transformer Engine's name, an enum and a class of its."""
    module = types.ModuleType(RECIPES)
    for name in ("transformer_engine", "transformer_engine.common"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, RECIPES, module)
    made: dict[str, Any] = {
        "Format": enum.Enum("Format", {"E4M3": 448.0, "HYBRID": (448.0, 57344.0)}, module=RECIPES),
        "DelayedScaling": type("DelayedScaling", (), {"__module__": RECIPES}),
    }
    for name, value in made.items():
        setattr(module, name, value)
    return module


def genuine(recipes: Any) -> bytes:
    recipe = recipes.DelayedScaling()
    recipe.fp8_format, recipe.amax_history_len = recipes.Format.HYBRID, 4
    content = {
        "recipe": recipe,
        "scale_fwd": torch.ones(3),
        "amax_history_fwd": torch.arange(12.0).view(4, 3),
        "extra_fp8_variables": OrderedDict(fp8_checkpoint=True, num_gemms=1, dtype=torch.bfloat16),
    }
    return pickle.dumps(content)


def test_a_genuine_state_passes(recipes: Any) -> None:
    refuse_code_in_state([state(genuine(recipes)), torch.empty(0, dtype=torch.uint8), None])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({"recipe": Bomb()}), "it names posix.mkdir"),
        (pickle.dumps({"scale_fwd": HiddenBomb()}), "weights_only|Weights only"),
        (DOTTED, f"it names {RECIPES}.os.mkdir"),
    ],
)
def test_code_is_refused(
    recipes: Any, content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipes.os = os
    padded = content + bytes(-len(content) % 4)  # what is behind a pickle's end is not read
    kinds = (state(content), state(content).view(torch.int8), state(padded).view(torch.float32).view(1, -1))
    for kind in kinds:
        with pytest.raises(pickle.UnpicklingError, match=said):
            refuse_code_in_state([kind])
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)
    assert (tmp_path / "ran").exists(), "it would not have run anyway"


def test_another_kind_of_state_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="a dict is no state"):
        refuse_code_in_state([{"state": torch.ones(1)}])


def test_a_broken_state_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError):
        refuse_code_in_state(state(b"\x80\x04 no pickle"))


def test_a_checkpoint_with_code_in_it_is_named(recipes: Any, tmp_path: Path) -> None:
    for name, content in (("good", genuine(recipes)), ("bad", pickle.dumps({"recipe": Bomb()}))):
        folder = tmp_path / name
        folder.mkdir()
        with PieceWriter(folder, "__0_0.distcp") as writer:
            writer.add_object(KEY, [state(content)])
        write_index(folder, writer.pieces, {"version": 3})
    refuse_code(tmp_path / "good")
    with pytest.raises(SrpoError, match=r"__0_0.distcp: .*linear_fc1._extra_state/shard_0_1 is more than plain"):
        refuse_code(tmp_path / "bad")
