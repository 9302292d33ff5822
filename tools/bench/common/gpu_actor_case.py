"""One measurement of gpu_actor.py, in a process of its own: its memory and its failures are its own.

python -m common.gpu_actor_case CASE.json       in tools/bench; prints one JSON object
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.models.gpt.gpt_model import GPTModel

from common.models import write_config
from common.rows import bench_row
from megatron_srpo.actor import parallel
from megatron_srpo.actor.actor import Actor, build_actor
from megatron_srpo.actor.batch import TrainingSample
from megatron_srpo.actor.step import apply_gradients, forward_backward, microbatches, train_step
from megatron_srpo.launch.ports import unclaimed_port
from megatron_srpo.platform.select import select_platform
from megatron_srpo.recipe.flops import model_flops
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import Journal

SAMPLES = 4  # of the one group, each a microbatch of its own
BATCH = 4  # sequences of an update of the loss curve
SUCCESSORS = 4  # of every token in the text that the loss curve learns


KEPT = " with weights"


@dataclass(frozen=True)
class Case:
    """What is measured.

    kind: `speed`, training steps on sequences of `tokens` tokens, or `curve`, the loss over `steps` updates.
    fp8: a recipe of Transformer Engine, with KEPT behind it one that keeps weights in 8 bits too; none for
    bfloat16.  shape: what `write_config` takes.
    """

    kind: str
    device: str
    dtype: str
    fp8: str | None
    recompute: str
    shape: dict[str, int]
    tokens: int
    steps: int


def make_recipe(case: Case, folder: Path) -> Recipe:
    """One rank, one update a step."""
    fp8 = None
    if case.fp8 is not None:
        kind = case.fp8.removesuffix(KEPT)
        form = "e4m3" if kind == "blockwise" else "hybrid"
        fp8 = {"recipe": kind, "format": form, "parameters": case.fp8.endswith(KEPT)}
    return Recipe.model_validate(
        {
            "name": "bench",
            "steps": 1,
            "model": {"path": folder / "model"},
            "data": {"train": {"math": "none"}},
            "rollout": {"prompts_per_step": 1, "samples_per_prompt": SAMPLES, "max_response_tokens": case.tokens},
            "trainer": {
                "device": case.device,
                "dtype": case.dtype,
                "threads_per_rank": os.cpu_count() or 1,
                "max_tokens_per_microbatch": case.tokens,
                "fp8": fp8,
                "recompute": {"granularity": case.recompute},
                "optimizer": {"learning_rate": 1e-4 if case.kind == "curve" else 1e-6},
            },
            "algorithm": {"mismatch_limit": 1e9},
        }
    )


def random_weights(chunks: Sequence[GPTModel], _: ModelConfig) -> None:
    """Small random matrices, as a model's before pre-training; the same in every process."""
    torch.manual_seed(0)
    with torch.no_grad():
        for chunk in chunks:
            for name, parameter in chunk.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif parameter.dim() == 1:
                    parameter.fill_(1.0)
                else:
                    parameter.normal_(std=0.02)


def speed(case: Case, actor: Actor, folder: Path) -> dict[str, Any]:
    """Seconds of whole training steps, from a step file to new weights."""
    vocab, prompt = case.shape["vocab"], case.tokens // 16
    rng, journal = np.random.default_rng(0), Journal(folder / "rollouts")
    response = case.tokens - prompt
    rows = [
        bench_row(
            0,
            sample,
            float(sample % 2),
            prompt_tokens=rng.integers(0, vocab, size=prompt).tolist(),
            tokens=rng.integers(0, vocab, size=response).tolist(),
            log_probs=[-8.0] * response,
            response_length=response,
        )
        for sample in range(SAMPLES)
    ]
    journal.append(rows)
    path = journal.close(0, 1, range(1))
    measured = [train_step(actor, path) for _ in range(case.steps + 2)][2:]  # two to warm up
    seconds = statistics.median(metrics["seconds_train"] for metrics in measured)
    flops = SAMPLES * model_flops(actor.model_config).training(case.tokens, response)
    return {
        "seconds": [metrics["seconds_train"] for metrics in measured],
        "tokens_per_second": SAMPLES * case.tokens / seconds,
        "tflops": flops / seconds / 1e12,
        "phases": {
            name: statistics.median(metrics[name] for metrics in measured)
            for name in measured[0]
            if name.startswith("seconds_")
        },
    }


def text(tokens: int, count: int, vocab: int, seed: int) -> list[list[int]]:
    """Sequences of a language in which each of the first 1,000 tokens has four equally likely successors."""
    size = min(vocab, 1000)
    successors = np.random.default_rng(0).integers(0, size, size=(size, SUCCESSORS))
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(count):
        sequence = [int(rng.integers(0, size))]
        for choice in rng.integers(0, SUCCESSORS, size=tokens - 1):
            sequence.append(int(successors[sequence[-1], choice]))
        sequences.append(sequence)
    return sequences


def curve(case: Case, actor: Actor) -> dict[str, Any]:
    """Mean negative log-prob before each update; every token has advantage 1, which is maximum likelihood."""
    losses = []
    for step in range(case.steps):
        samples = [
            TrainingSample(np.array(sequence), np.full(case.tokens - 1, -8.0, np.float32), 1.0)
            for sequence in text(case.tokens, BATCH, case.shape["vocab"], seed=step + 1)
        ]
        metrics = forward_backward(actor, microbatches(actor, samples), None, None)
        apply_gradients(actor, actor.recipe)
        losses.append(-metrics["log_prob"])
    return {"losses": losses}


def main() -> None:
    """Measure the case and print the result."""
    case = Case(**json.loads(Path(sys.argv[1]).read_text()))
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(unclaimed_port("127.0.0.1"))
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = make_recipe(case, folder)
        platform = select_platform(recipe.trainer.device, threads=recipe.trainer.threads_per_rank)
        ranks = parallel.initialize(recipe.trainer, platform, 0)
        model = write_config(folder / "model", **case.shape)
        actor = build_actor(recipe, model, ranks, platform, random_weights)
        found = speed(case, actor, folder) if case.kind == "speed" else curve(case, actor)
        peak = torch.cuda.max_memory_allocated() / 2**30 if platform.is_cuda else None
        print(json.dumps({**found, "peak_gib": peak}))
        parallel.shutdown()


if __name__ == "__main__":
    main()
