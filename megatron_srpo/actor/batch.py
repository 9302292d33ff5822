"""What the trainer computes on: samples out of a step file, and microbatches of packed samples as tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from megatron_srpo.actor.advantages import GroupOutcomes, advantages_of
from megatron_srpo.actor.local_layers import Context, PackedSequences, rectangles
from megatron_srpo.actor.replay import Replay
from megatron_srpo.errors import SrpoError
from megatron_srpo.platform.select import Platform
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import Row
from megatron_srpo.rollout.routed_experts import RoutedExperts, RoutingShape, locate


@dataclass(frozen=True)
class TrainingSample:
    """One response: tokens [prompt + response] int64, engine_log_probs [response] float32, its advantage.

    `experts`: where the engine's choices of experts lie, if they are replayed.
    """

    tokens: NDArray[np.int64]
    engine_log_probs: NDArray[np.float32]
    advantage: float
    experts: RoutedExperts | None = None

    @property
    def response_length(self) -> int:
        """Number of response tokens."""
        return len(self.engine_log_probs)


def training_samples(
    path: Path, rows: Sequence[Row], recipe: Recipe, routing: RoutingShape | None = None
) -> list[TrainingSample]:
    """Samples of a step's groups to train on, in journal order (whole groups one after another), with advantages.

    `rows` are all of the step file `path`, `recipe` is the one of its stage; with `routing` the samples know where
    their choices of experts lie.  Raises SrpoError when the groups are not of the recipe's size, or when there are
    no such choices.
    """
    samples_per_prompt = recipe.rollout.samples_per_prompt
    located = [None] * len(rows) if routing is None else locate(path, rows, routing)
    experts = [place for place, row in zip(located, rows, strict=True) if row.trained]
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
            place,
        )
        for row, advantage, place in zip(rows, advantages, experts, strict=True)
    ]


@dataclass(frozen=True)
class Packing:
    """How samples become one row of tokens, and which of them are this rank's.

    multiple: what the number of this rank's tokens must divide by.  context, context_size: this rank's place among
    those that share every sequence; each takes the piece `context` from the front and the one as far from the back
    of 2 x context_size equal pieces, so that causal attention costs all of them the same.
    """

    multiple: int = 1
    context: int = 0
    context_size: int = 1

    def padded(self, length: int) -> int:
        """Tokens of a sequence with what makes its pieces equal."""
        pieces = 2 * self.context_size if self.context_size > 1 else 1
        return -(-length // pieces) * pieces

    def filler(self, length: int) -> int:
        """Tokens behind sequences of `length` tokens in all; more than none where there are no sequences."""
        whole = self.multiple * self.context_size
        # The filler is a sequence as well.
        whole = math.lcm(whole, 2 * self.context_size) if self.context_size > 1 else whole
        return -length % whole or (0 if length else whole)

    def mine(self, lengths: Sequence[int]) -> NDArray[np.int64]:
        """Indices of this rank's tokens among those of sequences of the given padded lengths."""
        if self.context_size == 1:
            return np.arange(sum(lengths))
        starts = np.cumsum([0, *lengths])[:-1]
        parts = []
        for start, length in zip(starts, lengths, strict=True):
            piece = length // (2 * self.context_size)
            for place in (self.context, 2 * self.context_size - 1 - self.context):
                parts.append(np.arange(start + place * piece, start + (place + 1) * piece))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Microbatch:
    """Packed samples on the device; of every sample what this context rank has of it.

    tokens, positions: [1, packed] int64; sequences: bounds of the whole samples.  One entry a response token, in
    packed order: `sources` [responses] index of the position that predicts it, `targets` [responses] int64,
    `advantages`, `engine_log_probs` and `lengths` (of the response that it belongs to) [responses] float32.
    `samples`: how many samples there are, those with an empty response too; the first context rank alone counts.
    `experts`: which experts this rank's routers must choose, if that is replayed (`Replay.choices`).
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
    experts: torch.Tensor | None = None


def build_microbatch(
    samples: Sequence[TrainingSample],
    platform: Platform,
    packing: Packing = Packing(),
    context_group: dist.ProcessGroup | None = None,
    replay: Replay | None = None,
) -> Microbatch:
    """Concatenate samples without padding between them, less what context parallelism asks for.

    What is left to the packing's multiple is filled by one sequence of token 0 behind the samples.  No samples at
    all give such a filler alone, so that a rank without work still takes part in every collective.
    `context_group` is there when the packing has context ranks, `replay` where routing is replayed.
    """
    lengths = [packing.padded(len(sample.tokens)) for sample in samples]
    starts = np.cumsum([0, *lengths])[:-1]
    filler = packing.filler(sum(lengths))
    lengths += [filler] if filler else []
    tokens = np.zeros(sum(lengths), np.int64)
    for start, sample in zip(starts, samples, strict=True):
        tokens[start : start + len(sample.tokens)] = sample.tokens
    positions = np.concatenate([np.arange(length) for length in lengths])
    responses = (
        np.arange(start + len(s.tokens) - s.response_length, start + len(s.tokens)) - 1
        for start, s in zip(starts, samples, strict=True)
    )
    sources = np.concatenate([*responses, np.zeros(0, np.int64)])
    mine = packing.mine(lengths)
    place = np.full(len(tokens), -1)
    place[mine] = np.arange(len(mine))
    here = place[sources] >= 0

    def to_device(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(platform.device)

    return Microbatch(
        tokens=to_device(tokens[mine])[None],
        positions=to_device(positions[mine])[None],
        sequences=_packed_sequences(lengths, mine, platform, context_group),
        sources=to_device(place[sources][here]),
        targets=to_device(tokens[sources[here] + 1]),
        advantages=to_device(_of_responses(samples, lambda s: s.advantage)[here]),
        engine_log_probs=to_device(_of_responses(samples, lambda s: s.engine_log_probs)[here]),
        lengths=to_device(_of_responses(samples, lambda s: s.response_length)[here]),
        samples=len(samples) if packing.context == 0 else 0,
        experts=None if replay is None else _experts(samples, starts, mine, len(tokens), replay, platform),
    )


def _experts(
    samples: Sequence[TrainingSample],
    starts: Sequence[int],
    mine: NDArray[np.int64],
    total: int,
    replay: Replay,
    platform: Platform,
) -> torch.Tensor:
    choices = [sample.experts.read() for sample in samples if sample.experts is not None]
    return replay.choices(choices, starts, mine, total).to(platform.device)


def _of_responses(
    samples: Sequence[TrainingSample], value: Callable[[TrainingSample], Any]
) -> NDArray[np.float32]:
    """A value of each sample for every token of its response, [responses]."""
    values = (np.broadcast_to(np.float32(value(s)), s.response_length) for s in samples)
    return np.concatenate([*values, np.zeros(0, np.float32)])


def _packed_sequences(
    lengths: list[int], mine: NDArray[np.int64], platform: Platform, context_group: dist.ProcessGroup | None
) -> PackedSequences:
    bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=platform.device)
    local = platform.layers == "local"
    return PackedSequences(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=max(lengths),
        max_seqlen_kv=max(lengths),
        rectangles=rectangles(lengths, platform.device) if local else (),
        context=Context(torch.from_numpy(mine), context_group) if local and context_group is not None else None,
    )
