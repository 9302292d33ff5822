"""`srpo convert check`: the same log-probs out of transformers and out of Megatron?

Both compute in float32, so that what differs is the weights, or how the two understand the model.  When the
log-probs differ, the tensors are compared one by one, which tells the one from the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console

from megatron_srpo.bridge.hf_files import HfWeights
from megatron_srpo.bridge.torch_dist import refuse_code
from megatron_srpo.convert.check_text import PASSAGES
from megatron_srpo.convert.megatron_files import MegatronWeights
from megatron_srpo.convert.parameters import parameters
from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.model_folder import check_model_folder, load_tokenizer

LONGEST = 512  # tokens of a passage that are compared
# Both sides compute in float32 in another order of summation: over a deep model that has been seen to move a
# log-prob by 1e-5 to 1e-4.  Weights that one side has rounded move it by far more.
SAME_VALUES = 1e-3
ROUNDED = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
_SHOWN = 8


@dataclass(frozen=True)
class TensorDifference:
    """An HF tensor whose values differ on the two sides: by how much, and relative to its largest value."""

    name: str
    largest: float
    relative: float


def check(hf: Path, megatron: Path, text: Path | None, tolerance: float | None, console: Console) -> bool:
    """Print how far the log-probs differ; whether that is within the tolerance.

    Raises:
        SrpoError: when one side cannot be read or loaded, or the text has too few tokens.
    """
    model = check_model_folder(hf)
    weights = MegatronWeights(megatron)
    limit = tolerance if tolerance is not None else default_tolerance(HfWeights(hf), weights, model)
    samples = _samples(model, text)
    expected = transformers_log_probs(hf, samples)
    found = megatron_log_probs(model, megatron, samples)
    differences = [(a - b).abs() for a, b in zip(expected, found, strict=True)]
    every = torch.cat(differences)
    largest, mean = float(every.max()), float(every.mean())
    _say(
        console,
        f"{len(every)} tokens compared: largest difference of log-probs {largest:.3g}, mean {mean:.3g}, tolerance "
        f"{limit:g}",
    )
    if largest <= limit:  # not so for nan
        return True
    _explain(console, model, samples, expected, found, limit)
    _explain_tensors(console, compare_tensors(HfWeights(hf), weights, model))
    return False


def default_tolerance(hf: HfWeights, megatron: MegatronWeights, model: ModelConfig) -> float:
    """What the stored types allow: little where both sides hold the same numbers."""
    limit = SAME_VALUES
    for parameter in parameters(model):
        stored = megatron.dtype(parameter)
        for part in parameter.parts:
            own = hf.tensors[part.name].dtype if part.name in hf.tensors else stored
            if torch.promote_types(own, stored) != stored:  # the checkpoint's has been rounded
                limit = max(limit, ROUNDED.get(stored, SAME_VALUES))
            elif torch.promote_types(own, stored) != own:
                # Held in a wider type: the same numbers, unless the folder's have been rounded from them.
                limit = max(limit, ROUNDED.get(own, SAME_VALUES))
    return limit


def _samples(model: ModelConfig, text: Path | None) -> list[list[int]]:
    """The passages as tokens."""
    passages: Sequence[str] = PASSAGES
    if text is not None:
        try:
            passages = [text.read_text(encoding="utf-8")]
        except (OSError, ValueError) as error:
            raise SrpoError(f"{text}: cannot be read as text ({one_line(error)})") from None
    tokenizer = load_tokenizer(model.folder / "tokenizer.json")
    longest = min(LONGEST, model.max_position_embeddings)
    encoded = (tokenizer.encode(passage, add_special_tokens=False).ids for passage in passages)
    samples = [ids[start : start + longest] for ids in encoded for start in range(0, len(ids), longest)]
    samples = [sample for sample in samples if len(sample) > 1]
    if not samples:
        raise SrpoError(f"{text}: has fewer than two tokens; give a longer text")
    return samples


def transformers_log_probs(folder: Path, samples: list[list[int]]) -> list[torch.Tensor]:
    """Log-probs of each sample's tokens behind the first, in float32."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # Both are typed in some installations and not in others.
    quiet: Any = logging
    quiet.disable_progress_bar()
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for sample in samples:
        with torch.inference_mode():
            log_probs = model(torch.tensor([sample])).logits[0, :-1].log_softmax(-1)
        found.append(log_probs.gather(1, torch.tensor(sample[1:])[:, None])[:, 0].clone())
    return found


def megatron_log_probs(model: ModelConfig, folder: Path, samples: list[list[int]]) -> list[torch.Tensor]:
    """The same out of Megatron's model, loaded by Megatron's own `dist_checkpointing.load`."""
    from megatron_srpo.actor import parallel
    from megatron_srpo.actor.batch import TrainingSample, build_microbatch
    from megatron_srpo.actor.log_probs import Vocabulary, linear_log_probs
    from megatron_srpo.actor.model import build_model
    from megatron_srpo.platform.select import select_platform
    from megatron_srpo.recipe.trainer import TrainerSection

    trainer = TrainerSection(device="cpu", dtype="float32")
    platform = select_platform("cpu", threads=torch.get_num_threads())
    store: Any = torch.distributed.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel.initialize(trainer, platform, 0)
        [gpt] = build_model(model, trainer, platform)
        load_stock([gpt], folder)
        gpt.eval()
        vocabulary = Vocabulary(model.vocab_size, start=0, group=None, temperature=1.0, block_elements=2**26)
        found = []
        for sample in samples:
            row = TrainingSample(np.array(sample), np.zeros(len(sample) - 1, np.float32), 1.0)
            batch = build_microbatch([row], platform)
            with torch.no_grad():
                hidden = gpt(batch.tokens, batch.positions, None, packed_seq_params=batch.sequences)[:, 0]
                rows = hidden[batch.sources]
                found.append(linear_log_probs(rows, gpt.output_weight, batch.targets, vocabulary)[0])
        return found
    finally:
        parallel.shutdown()


def load_stock(chunks: Sequence[Any], folder: Path) -> None:
    """Fill Megatron models with `dist_checkpointing.load`, refusing what is missing; every rank calls it.

    Raises:
        SrpoError: when an object of the checkpoint could run code; with Megatron's words when it does not load.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.core import CheckpointingException

    refuse_code(folder)
    state: dict[str, Any] = {f"model{i}": chunk.sharded_state_dict() for i, chunk in enumerate(chunks)}
    try:
        loaded = dist_checkpointing.load(state, str(folder))
        for i, chunk in enumerate(chunks):
            chunk.load_state_dict(loaded[f"model{i}"])
    except (CheckpointingException, AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise SrpoError(f"{folder}: Megatron cannot load it ({one_line(error)[:300]})") from error


def compare_tensors(hf: HfWeights, megatron: MegatronWeights, model: ModelConfig) -> list[TensorDifference]:
    """The tensors whose values differ, in the order of the model's layers."""
    found = []
    for parameter in parameters(model):
        for part in parameter.parts:
            ours = torch.empty(part.shape, dtype=hf.tensors[part.name].dtype)
            hf.read_rows(part.name, 0, ours)
            theirs = torch.empty(part.shape, dtype=megatron.dtype(parameter))
            first = 0
            for run in part.runs:
                megatron.read_rows(parameter, run.start, theirs[first : first + run.count])
                first += run.count
            difference = (ours.double() - theirs.double()).abs().max().item()
            if difference != 0:  # also where it is not a number
                largest = ours.abs().max().item()
                found.append(
                    TensorDifference(part.name, difference, difference / largest if largest else math.inf)
                )
    return found


def _explain(
    console: Console,
    model: ModelConfig,
    samples: list[list[int]],
    expected: list[torch.Tensor],
    found: list[torch.Tensor],
    limit: float,
) -> None:
    """Name the first token whose log-probs differ by too much."""
    tokenizer = load_tokenizer(model.folder / "tokenizer.json")
    for number, (a, b) in enumerate(zip(expected, found, strict=True)):
        wrong = (~((a - b).abs() <= limit)).nonzero()
        if len(wrong):
            at = int(wrong[0])
            token = samples[number][at + 1]
            _say(
                console,
                f"first difference: passage {number}, position {at + 1}, token {token} "
                f"{tokenizer.decode([token])!r}: transformers {float(a[at]):.6f}, Megatron {float(b[at]):.6f}",
            )
            return


def _explain_tensors(console: Console, differences: list[TensorDifference]) -> None:
    """Name the tensors that differ most."""
    if not differences:
        _say(
            console,
            "all tensors are equal, value by value: the two differ in how they compute, so look at config.json",
        )
        return
    _say(console, f"{len(differences)} tensors differ, most of all, in the order of the differences:")
    worst = sorted(differences, key=lambda d: -d.relative if d.relative == d.relative else -math.inf)[:_SHOWN]
    for difference in worst:
        share = f"{difference.relative:.3g} of the tensor's largest value"
        _say(console, f"  {difference.name}: by up to {difference.largest:.3g}, {share}")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
