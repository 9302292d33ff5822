"""First minutes on a CUDA machine: does the actor run through Transformer Engine, and is it right?

    python tools/gpu_smoke.py [--steps 3] [--dtype bfloat16]

Prints versions, takes training steps of a small model through Transformer Engine's layer spec on NCCL, and
compares its log-probs with those of the local spec on the same GPU and weights.  One JSON line a part; a
part that fails prints its failure and the others still run.  Exit code 1 when a part failed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent / "bench"))

from common.models import record_step, write_model

PROMPTS, SAMPLES, VOCABULARY = 8, 8, 4096


def part(name: str, work: Callable[[], dict[str, Any]]) -> bool:
    """Run one part and print its line; returns whether it worked."""
    started = time.time()
    try:
        line = {"part": name, **work(), "seconds": round(time.time() - started, 2)}
    except Exception as error:  # each part must be able to tell something of its own
        traceback.print_exc()
        print(json.dumps({"part": name, "failed": repr(error)[:500]}), flush=True)
        return False
    print(json.dumps(line), flush=True)
    return True


def versions() -> dict[str, Any]:
    """GPU and the versions that matter."""
    names = ("megatron-core", "transformer-engine", "transformer-engine-torch", "apex", "flash-attn")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "python": sys.version.split()[0],
        **found,
    }


def make_recipe(folder: Path, dtype: str) -> Any:
    """A small recipe on one GPU."""
    from megatron_srpo.recipe.schema import Recipe

    return Recipe.model_validate(
        {
            "name": "gpu-smoke",
            "steps": 1,
            "model": {"path": folder / "model"},
            "data": {"train": {"math": "none"}},
            "rollout": {"prompts_per_step": 8, "samples_per_prompt": SAMPLES},
            "trainer": {
                "device": "cuda",
                "dtype": dtype,
                "max_tokens_per_microbatch": 2048,
                "optimizer": {"learning_rate": 1e-4},
            },
            "algorithm": {"mismatch_limit": 1e9},
        }
    )


def training_steps(recipe: Any, model: Any, platform: Any, ranks: Any, path: Path, steps: int) -> dict[str, Any]:
    """Training steps through Transformer Engine's spec; the gradient must be finite and move the weights."""
    from megatron_srpo.actor.actor import build_actor
    from megatron_srpo.actor.step import train_step
    from megatron_srpo.bridge.weights import load_weights

    actor = build_actor(recipe, model, ranks, platform, load_weights)
    weight = actor.chunks[0].decoder.layers[0].mlp.linear_fc1.weight
    before = weight.detach().float().clone()
    metrics = [train_step(actor, path) for _ in range(steps)]
    moved = (weight.detach().float() - before).abs().max().item()
    assert moved > 0, "the weights did not move"
    return {
        "steps": [
            {k: m[k] for k in ("loss", "grad_norm", "entropy", "log_prob", "seconds_train")} for m in metrics
        ],
        "largest_weight_change": moved,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
    }


def compare_specs(recipe: Any, model: Any, platform: Any, ranks: Any, path: Path) -> dict[str, Any]:
    """Log-probs of the same tokens by both layer specs."""
    from megatron_srpo.actor.actor import build_actor
    from megatron_srpo.actor.batch import training_samples
    from megatron_srpo.actor.step import log_probs_of, microbatches
    from megatron_srpo.bridge.weights import load_weights
    from megatron_srpo.rollout.journal import read_step

    found = []
    for chosen in (platform, replace(platform, layers="local")):
        actor = build_actor(recipe, model, ranks, chosen, load_weights)
        samples = training_samples(path, read_step(path), recipe)
        found.append(torch.cat(log_probs_of(actor, microbatches(actor, samples))).float())
    difference = (found[0] - found[1]).abs()
    return {
        "tokens": len(difference),
        "mean_difference": difference.mean().item(),
        "max_difference": difference.max().item(),
    }


def main(steps: int = 3, dtype: str = "bfloat16") -> None:
    """Run all parts."""
    if not torch.cuda.is_available():
        print("error: torch sees no CUDA device; this script is for a GPU machine", file=sys.stderr)
        sys.exit(2)
    from megatron_srpo.actor import parallel
    from megatron_srpo.platform.select import select_platform

    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29643")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model", hidden=512, layers=4, vocab=VOCABULARY)
        path = record_step(folder / "rollouts", PROMPTS, SAMPLES, VOCABULARY, mean_length=128)
        recipe = make_recipe(folder, dtype)
        ok = part("versions", versions)
        platform = select_platform("cuda")
        ranks = parallel.initialize(recipe.trainer, platform, 0)
        ok &= part("transformer_engine_steps", lambda: training_steps(recipe, model, platform, ranks, path, steps))
        ok &= part("transformer_engine_against_local", lambda: compare_specs(recipe, model, platform, ranks, path))
        parallel.shutdown()
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    typer.run(main)
