"""Our training step against a bare Megatron-Core loop on the same packed tokens.

    python tools/bench/actor.py [--quick]

Ours reads a step file, computes advantages, packs, runs the policy-gradient update with entropy and mismatch
statistics, clips and steps.  The baseline is given the packed tensors beforehand and does forward,
output projection of all tokens, cross-entropy, backward, clipping and step, all with Megatron's own parts: what no
trainer on Megatron-Core can do without.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import typer
from common.models import record_step, write_model
from common.report import compare, progress, report
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from megatron.core.utils import get_attr_wrapped_model

from megatron_srpo.actor import parallel
from megatron_srpo.actor.actor import Actor, build_actor
from megatron_srpo.actor.batch import Microbatch, training_samples
from megatron_srpo.actor.model import output_weight
from megatron_srpo.actor.step import microbatches, train_step
from megatron_srpo.bridge.weights import load_weights
from megatron_srpo.platform.select import select_platform
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import read_step

PROMPTS, SAMPLES, VOCABULARY = 8, 8, 4096


def bare_step(actor: Actor, batches: list[Microbatch]) -> None:
    """The baseline: Megatron's schedule and optimizer with a cross-entropy loss over all tokens."""

    def forward_step(
        iterator: Iterator[Microbatch], model: torch.nn.Module
    ) -> tuple[torch.Tensor, Callable[..., Any]]:
        batch = next(iterator)
        output = model(batch.tokens, batch.positions, None, packed_seq_params=batch.sequences)

        def loss(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
            weight = output_weight(model)
            project = get_attr_wrapped_model(model, "output_layer")
            logits, _ = project(hidden.to(weight.dtype), weight=weight)
            per_token = vocab_parallel_cross_entropy(logits[:, 0].float(), batch.tokens[0])
            return per_token.sum(), torch.tensor(len(per_token), dtype=torch.int), None

        return output, loss

    for chunk in actor.model:
        chunk.zero_grad_buffer()
    actor.optimizer.zero_grad()
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter(batches),
        model=actor.model,
        num_microbatches=len(batches),
        seq_length=1,
        micro_batch_size=1,
        forward_only=False,
    )
    actor.scheduler.step(increment=1)
    actor.optimizer.step()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main(quick: bool = False, device: str = "auto") -> None:
    """Measure and report."""
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29641")
    hidden, layers, length, runs = (256, 4, 96, 5) if quick else (512, 6, 160, 9)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model", hidden, layers, VOCABULARY)
        step = record_step(folder / "rollouts", PROMPTS, SAMPLES, VOCABULARY, length)
        recipe = Recipe.model_validate(
            {
                "name": "bench",
                "steps": 1,
                "model": {"path": folder / "model"},
                "data": {"train": {"math": "none"}},
                "rollout": {"prompts_per_step": PROMPTS, "samples_per_prompt": SAMPLES},
                "trainer": {"dtype": "float32", "device": device, "max_tokens_per_microbatch": 4096},
                "algorithm": {"mismatch_limit": 1e9},
            }
        )
        platform = select_platform(recipe.trainer.device, threads=os.cpu_count() or 1)
        ranks = parallel.initialize(recipe.trainer, platform, 0)
        ours = build_actor(recipe, model, ranks, platform, load_weights)
        bare = build_actor(recipe, model, ranks, platform, load_weights)
        samples = training_samples(step, read_step(step), recipe)
        batches = microbatches(bare, samples)
        tokens = sum(len(sample.tokens) for sample in samples)
        progress(f"{tokens} tokens in {len(batches)} microbatches, {layers} layers of width {hidden}")
        values, baseline = [], []
        for run in range(runs + 1):
            pair = seconds(lambda: train_step(ours, step)), seconds(lambda: bare_step(bare, batches))
            progress(f"run {run}: ours {pair[0]:.3f} s, bare {pair[1]:.3f} s")
            if run:  # the first is the warm-up
                values.append(pair[0])
                baseline.append(pair[1])
        result = compare("training_step", values, "seconds", "bare Megatron-Core loop", baseline, "<= 1.03")
        report("actor", [result], tokens=tokens, microbatches=len(batches), hidden=hidden, layers=layers)
        parallel.shutdown()


if __name__ == "__main__":
    typer.run(main)
