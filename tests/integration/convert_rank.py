"""One rank of the tests of conversions: stock loads and saves of Megatron on a parallel layout.

python -m tests.integration.convert_rank JOBS.json      (with torchrun's environment variables)

A job: {"trainer": {...}, "model": HF folder, "checkpoint": what to load, "save": where to save it again}.  Every
parameter that Megatron loads must have the bytes that the bridge reads from the HF folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.validation import StrictHandling

from megatron_srpo.actor import parallel
from megatron_srpo.actor.model import build_model
from megatron_srpo.bridge.weights import load_weights
from megatron_srpo.platform.select import select_platform
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.trainer import TrainerSection


def run(job: dict[str, Any], trainer: TrainerSection) -> None:
    platform = select_platform("cpu")
    model = read_model_config(Path(job["model"]))
    ours, stock = build_model(model, trainer, platform), build_model(model, trainer, platform)
    load_weights(ours, model)
    for chunk in stock:
        for parameter in chunk.parameters():
            torch.nn.init.constant_(parameter, float("nan"))
    state = {f"model{i}": chunk.sharded_state_dict() for i, chunk in enumerate(stock)}
    loaded = dist_checkpointing.load(state, job["checkpoint"], strict=StrictHandling.RAISE_ALL)
    for i, chunk in enumerate(stock):
        chunk.load_state_dict(loaded[f"model{i}"])
    for chunk, other in zip(stock, ours, strict=True):
        for (name, parameter), expected in zip(chunk.named_parameters(), other.parameters(), strict=True):
            vocabulary = name.endswith(("word_embeddings.weight", "output_layer.weight"))
            rows = int((~parameter.isnan().any(-1)).sum()) if vocabulary else len(parameter)
            # Megatron leaves rows beyond the vocabulary as they were.
            assert rows >= len(parameter) - trainer.tensor_parallel, (job["model"], name, rows)
            assert torch.equal(parameter[:rows], expected[:rows]), (job["model"], name)
    if dist.get_rank() == 0:
        Path(job["save"]).mkdir()
    dist.barrier()
    state = {f"model{i}": chunk.sharded_state_dict() for i, chunk in enumerate(stock)}
    dist_checkpointing.save(state, job["save"])
    dist.barrier()


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    trainer = TrainerSection(**jobs[0]["trainer"])
    parallel.initialize(trainer, select_platform("cpu"), 0)
    for job in jobs:
        run(job, trainer)
    parallel.shutdown()


if __name__ == "__main__":
    main()
