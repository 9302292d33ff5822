"""What the trainer computes on: samples out of a step file, and microbatches of packed samples as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_srpo.actor.advantages import GroupOutcomes, advantages_of
from megatron_srpo.actor.local_layers import PackedSequences, rectangles
from megatron_srpo.errors import SrpoError
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import Row


@dataclass(frozen=True)
class TrainingSample:
    """One response: tokens [prompt + response] int64, engine_log_probs [response] float32, its advantage."""

    tokens: NDArray[np.int64]
    engine_log_probs: NDArray[np.float32]
    advantage: float

    @property
    def response_length(self) -> int:
        """Number of response tokens."""
        return len(self.engine_log_probs)


def training_samples(path: Path, rows: Sequence[Row], recipe: Recipe) -> list[TrainingSample]:
    """Samples of a step's groups to train on, in journal order (whole groups one after another), with advantages.

    `rows` are those of the step file `path`, `recipe` is the one of its stage.  Raises SrpoError when the groups
    are not of the recipe's size.
    """
    samples_per_prompt = recipe.rollout.samples_per_prompt
    rows = [row for row in rows if row.trained]
    expected = list(range(samples_per_prompt)) * (len(rows) // samples_per_prompt)
    if not rows or [row.sample for row in rows] != expected:
        raise SrpoError(
            f"{path}: its groups do not have {samples_per_prompt} samples each; set rollout.samples_per_prompt to "
            "what the step was recorded with"
        )
    shape = (-1, samples_per_prompt)
    outcomes = GroupOutcomes(
        rewards=np.array([row.reward for row in rows], dtype=np.float64).reshape(shape),
        correct=np.array([row.accuracy >= 1 for row in rows]).reshape(shape),
        lengths=np.array([len(row.tokens) for row in rows], dtype=np.int64).reshape(shape),
        cut_off=np.array([row.finish_reason != "stop" for row in rows]).reshape(shape),
    )
    advantages = advantages_of(outcomes, recipe.algorithm, recipe.rollout.max_response_tokens).ravel()
    return [
        TrainingSample(
            np.array([*row.prompt_tokens, *row.tokens], dtype=np.int64),
            np.array(row.log_probs, dtype=np.float32),
            float(advantage),
        )
        for row, advantage in zip(rows, advantages, strict=True)
    ]


@dataclass(frozen=True)
class Microbatch:
    """Packed samples on the device.

    tokens, positions: [1, packed] int64; sequences: bounds of the samples.  One entry a response token, in
    packed order: `sources` [responses] index of the position that predicts it, `targets` [responses] int64,
    `advantages`, `engine_log_probs` and `lengths` (of the response that it belongs to) [responses] float32.
    `samples`: how many samples there are, those with an empty response too.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    sequences: PackedSequences
    sources: torch.Tensor
    targets: torch.Tensor
    advantages: torch.Tensor
    engine_log_probs: torch.Tensor
    lengths: torch.Tensor
    samples: int


def build_microbatch(samples: Sequence[TrainingSample], platform: Platform, multiple: int = 1) -> Microbatch:
    """Concatenate samples without padding between them.

    `multiple` is what the packed length must divide by (the tensor-parallel size under sequence
    parallelism): the rest is filled by one sequence of token 0 behind the samples.  No samples at all give
    such a filler alone, so that a rank without work still takes part in every collective.
    """
    lengths = [len(sample.tokens) for sample in samples]
    filler = -sum(lengths) % multiple or (0 if lengths else multiple)
    starts = np.cumsum([0, *lengths])[:-1]
    tokens = np.concatenate([*(sample.tokens for sample in samples), np.zeros(filler, np.int64)])
    all_lengths = lengths + ([filler] if filler else [])
    sources = [
        np.arange(start + len(s.tokens) - s.response_length, start + len(s.tokens)) - 1
        for start, s in zip(starts, samples, strict=True)
    ]
    source = np.concatenate([*sources, np.zeros(0, np.int64)]).astype(np.int64)
    advantages = [np.full(s.response_length, s.advantage, np.float32) for s in samples]
    response_lengths = [np.full(s.response_length, s.response_length, np.float32) for s in samples]
    device = platform.device

    def to_device(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return Microbatch(
        tokens=to_device(tokens)[None],
        positions=to_device(np.concatenate([np.arange(length) for length in all_lengths]))[None],
        sequences=_packed_sequences(all_lengths, platform),
        sources=to_device(source),
        targets=to_device(tokens[source + 1]) if len(source) else to_device(source),
        advantages=to_device(np.concatenate([*advantages, np.zeros(0, np.float32)])),
        engine_log_probs=to_device(
            np.concatenate([*(s.engine_log_probs for s in samples), np.zeros(0, np.float32)])
        ),
        lengths=to_device(np.concatenate([*response_lengths, np.zeros(0, np.float32)])),
        samples=len(samples),
    )


def _packed_sequences(lengths: list[int], platform: Platform) -> PackedSequences:
    bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=platform.device)
    return PackedSequences(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=max(lengths),
        max_seqlen_kv=max(lengths),
        rectangles=rectangles(lengths, platform.device) if platform.layers == "local" else (),
    )
