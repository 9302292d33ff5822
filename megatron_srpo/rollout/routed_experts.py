"""The experts that an engine chose for every token, as training can be told to choose them again.  No torch.

They take experts_per_token x layers bytes a token, far more than all else of a response.  So they lie beside the
parquet files of the journal, raw and in the order of its rows, and a trainer's rank reads its own samples alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pybase64
import xxhash
from numpy.typing import NDArray

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import Recipe

if TYPE_CHECKING:
    from megatron_srpo.rollout.journal import Row

SUFFIX = ".experts"


@dataclass(frozen=True)
class RoutingShape:
    """What a model's routers choose for one token: `chosen` of `experts` in each of `layers` layers.

    The first `dense` layers have no experts, and zeros in their place.
    """

    layers: int
    chosen: int
    experts: int
    dense: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest number that names an expert."""
        return np.dtype(np.uint8 if self.experts <= 256 else np.uint16)

    def bytes_of(self, tokens: int) -> int:
        """Size of a sample's choices: its last token has been drawn, but no router has seen it."""
        return (tokens - 1) * self.layers * self.chosen * self.dtype.itemsize

    def decode(self, text: str, tokens: int) -> NDArray[Any]:
        """An engine's answer for a sample of `tokens` tokens, prompt and response: [tokens - 1, layers, chosen].

        Raises ValueError or TypeError when it is something else.
        """
        flat = np.frombuffer(pybase64.b64decode(text, validate=True), np.dtype("<i4"))
        shape = (tokens - 1, self.layers, self.chosen)
        if flat.size != np.prod(shape):
            raise ValueError(f"{flat.size} choices of experts, expected {' x '.join(map(str, shape))}")
        if flat.size and not 0 <= flat.min() <= flat.max() < self.experts:
            raise ValueError(f"experts {flat.min()} to {flat.max()}, of {self.experts}")
        choices = flat.astype(self.dtype).reshape(shape)
        if self.chosen > 1 and (choices[:, self.dense :, 0] == choices[:, self.dense :, 1]).any():
            raise ValueError(
                "the same expert twice for a token, so not all choices were recorded: the engine's MoE backend "
                "(engine.extra_args) must be one with SGLang's standard top-k"
            )
        return choices


def routing_shape(recipe: Recipe, model: ModelConfig) -> RoutingShape | None:
    """What engines must record; none where the trainer does not replay it."""
    if model.moe is None or not recipe.trainer.experts.replay_routing:
        return None
    return RoutingShape(model.num_layers, model.moe.experts_per_token, model.moe.experts, model.moe.dense_layers)


def checksum_of(choices: NDArray[Any] | None) -> int | None:
    """XXH3-64 of a sample's choices, none without."""
    return None if choices is None else xxhash.xxh3_64_intdigest(np.ascontiguousarray(choices).data)


@dataclass(frozen=True)
class RoutedExperts:
    """Where a sample's choices lie: in `file` from the byte `start` on."""

    file: Path
    start: int
    tokens: int
    checksum: int
    shape: RoutingShape

    def read(self) -> NDArray[Any]:
        """The choices, [tokens - 1, layers, chosen]; raises SrpoError when the file is damaged."""
        size = self.shape.bytes_of(self.tokens)
        try:
            with self.file.open("rb") as file:
                file.seek(self.start)
                content = file.read(size)
        except OSError as error:
            raise SrpoError(f"{self.file}: cannot be read ({error.strerror}); restore it") from error
        if len(content) != size or xxhash.xxh3_64_intdigest(content) != self.checksum:
            raise SrpoError(
                f"{self.file}: bytes {self.start} to {self.start + size} are not the choices of experts that were "
                "recorded; restore the file, or delete the run"
            )
        choices = np.frombuffer(content, self.shape.dtype)
        return choices.reshape(self.tokens - 1, self.shape.layers, self.shape.chosen)


def locate(step: Path, rows: Sequence[Row], shape: RoutingShape) -> list[RoutedExperts]:
    """The choices of every row of the step file `step`, all of whose rows are given.

    Raises SrpoError when a row that is trained on has none, or the file beside has another size than theirs.
    """
    file = step.with_suffix(SUFFIX)
    tokens = [len(row.prompt_tokens) + len(row.tokens) for row in rows]
    sizes = [0 if row.experts_checksum is None else shape.bytes_of(n) for row, n in zip(rows, tokens, strict=True)]
    if any(row.trained and row.experts_checksum is None for row in rows):
        raise SrpoError(
            f"{step}: was recorded without the engines' choices of experts; start a new run, or one with "
            "trainer.experts.replay_routing=false"
        )
    found = file.stat().st_size if file.exists() else 0
    if found != sum(sizes):
        raise SrpoError(
            f"{file}: has {found} bytes, but the rows of {step.name} {sum(sizes)} (without "
            "trainer.experts.keep_routing it is removed when a checkpoint makes it superfluous); restore it, or "
            "start a new run with trainer.experts.replay_routing=false"
        )
    starts = itertools.accumulate(sizes, initial=0)
    return [
        RoutedExperts(file, start, n, row.experts_checksum or 0, shape)
        for start, n, row in zip(starts, tokens, rows, strict=False)
    ]
