"""One rank of a test's trainer: does the jobs of a JSON file and writes what it found.

python -m tests.integration.rank_main JOBS.json OUT_FOLDER      (with torchrun's environment variables)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_srpo.actor import parallel
from megatron_srpo.actor.batch import TrainingSample
from megatron_srpo.actor.checkpoint import load_checkpoint, save_checkpoint
from megatron_srpo.actor.log_probs import scale_logits, token_entropy, token_log_probs
from megatron_srpo.actor.parallel import Ranks
from megatron_srpo.actor.step import Actor, build_actor, log_probs_of, microbatches, train_step
from megatron_srpo.bridge.export import export_hf
from megatron_srpo.bridge.weights import bind, load_weights
from megatron_srpo.platform.select import Platform, select_platform
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.schema import Recipe

Job = dict[str, Any]


class Rank:
    """Everything that the jobs share on this rank."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.platform: Platform = select_platform("cpu")
        self.ranks: Ranks = parallel.initialize(recipe.trainer, self.platform, 0)

    def actor(self, model: str, **algorithm: Any) -> Actor:
        folder = Path(model)
        changed = self.recipe.algorithm.model_copy(update=algorithm)
        recipe = self.recipe.model_copy(update={"algorithm": changed})
        return build_actor(recipe, read_model_config(folder), self.ranks, self.platform, load_weights)

    def log_probs(self, job: Job) -> Any:
        """Log-probs of the response tokens of each sample, in order (last stage only)."""
        actor = self.actor(job["model"])
        samples = [
            TrainingSample(np.array(tokens), np.zeros(len(tokens) - 1, np.float32), 1.0)
            for tokens in job["samples"]
        ]
        found: dict[int, list[float]] = {}
        batches = microbatches(actor, samples)
        for batch, log_probs in zip(batches, log_probs_of(actor, batches), strict=bool(self.ranks.is_last_stage)):
            packed = batch.tokens[0].tolist()
            bounds = batch.sequences.cu_seqlens_q.tolist()
            values, at = log_probs.tolist(), 0
            for start, end in itertools.pairwise(bounds):
                if packed[start:end] in job["samples"]:
                    size = end - start - 1
                    found[job["samples"].index(packed[start:end])] = values[at : at + size]
                    at += size
        return [found[i] for i in sorted(found)]

    def export(self, job: Job) -> Any:
        actor = self.actor(job["model"])
        export_hf(bind(actor.chunks, actor.model_config), actor.model_config, self.ranks, Path(job["to"]), 150_000)
        return None

    def train(self, job: Job) -> Any:
        """Train on step files; `load` and `save` name checkpoint folders, `algorithm` changes the recipe."""
        actor = self.actor(job["model"], **job.get("algorithm", {}))
        if "load" in job:
            load_checkpoint(actor, Path(job["load"]), job["version"])
        metrics = [train_step(actor, Path(path)) for path in job["steps"]]
        if "save" in job:
            save_checkpoint(actor, Path(job["save"]), keep=2)
        weights = b"".join(
            p.detach().float().numpy().tobytes() for chunk in actor.chunks for p in chunk.parameters()
        )
        return {"metrics": metrics, "weights": hashlib.sha256(weights).hexdigest(), "version": actor.version}

    def vocabulary(self, job: Job) -> Any:
        """Log-probs, their gradient and entropy of logits [tokens, vocabulary] split over the ranks."""
        whole = torch.tensor(job["logits"], dtype=torch.float32)
        size = -(-whole.shape[1] // self.ranks.tensor_size)
        padded = torch.nn.functional.pad(whole, (0, size * self.ranks.tensor_size - whole.shape[1]), value=9.0)
        start = self.ranks.tensor * size
        local = padded[:, start : start + size].clone().requires_grad_()
        scaled = scale_logits(local, job["temperature"], whole.shape[1], start)
        entropy = token_entropy(scaled.detach(), parallel.parallel_state.get_tensor_model_parallel_group())
        log_probs = token_log_probs(scaled, torch.tensor(job["targets"]))
        (log_probs * torch.tensor(job["weights"])).sum().backward()
        assert local.grad is not None
        return {"log_probs": log_probs.tolist(), "entropy": entropy.tolist(), "gradient": local.grad.tolist()}


def main() -> None:
    """Do the jobs in order."""
    description = json.loads(Path(sys.argv[1]).read_text())
    rank = Rank(Recipe.model_validate(description["recipe"]))
    kinds: dict[str, Callable[[Job], Any]] = {
        "log_probs": rank.log_probs,
        "export": rank.export,
        "train": rank.train,
        "vocabulary": rank.vocabulary,
    }
    results = [kinds[job["kind"]](job) for job in description["jobs"]]
    place = {"tensor": rank.ranks.tensor, "last": rank.ranks.is_last_stage, "data": rank.ranks.data}
    out = Path(sys.argv[2]) / f"rank-{torch.distributed.get_rank()}.json"
    out.write_text(json.dumps({"place": place, "results": results}))
    parallel.shutdown()


if __name__ == "__main__":
    main()
