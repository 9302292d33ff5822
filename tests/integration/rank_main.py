"""One rank of a test's trainer: does the jobs of a JSON file and writes what it found.

python -m tests.integration.rank_main JOBS.json OUT_FOLDER      (with torchrun's environment variables)
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.utils import force_all_tensors_to_non_fp8
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region

from megatron_srpo.actor import parallel
from megatron_srpo.actor.actor import Actor, build_actor
from megatron_srpo.actor.batch import Microbatch, TrainingSample, training_samples
from megatron_srpo.actor.checkpoint import METADATA, load_checkpoint, sharded_model
from megatron_srpo.actor.log_probs import Vocabulary, linear_log_probs
from megatron_srpo.actor.parallel import Ranks
from megatron_srpo.actor.saver import Saver
from megatron_srpo.actor.snapshot import HostBuffer
from megatron_srpo.actor.step import forward_backward, log_probs_of, microbatches, split_groups, train_step
from megatron_srpo.bridge.export import export_hf
from megatron_srpo.bridge.weights import bind, load_weights
from megatron_srpo.errors import SrpoError
from megatron_srpo.platform.select import Platform, select_platform
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.schema import CheckpointSection, Recipe
from megatron_srpo.rollout.journal import read_step
from megatron_srpo.rollout.routed_experts import routing_shape
from tests.integration.eight_bits import remembered, stand_in
from tests.integration.offload import train_and_save

Job = dict[str, Any]


class SlowBuffer(HostBuffer):
    """Copies later than a training step takes."""

    def copy(self, tensors: Sequence[torch.Tensor], mark: Any) -> list[torch.Tensor]:
        time.sleep(3)
        return super().copy(tensors, mark)


class Rank:
    """Everything that the jobs share on this rank."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.layouts = 1
        self.platform: Platform = select_platform("cpu")
        self.ranks: Ranks = parallel.initialize(recipe.trainer, self.platform, 0)

    def rearrange(self, **trainer: Any) -> None:
        """Put the same processes into another parallel layout: faster than starting them again."""
        values = self.recipe.model_dump()
        self.recipe = Recipe.model_validate(values | {"trainer": values["trainer"] | trainer})
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        parallel.shutdown()
        store = f"file://{self.folder.absolute()}/store-{self.layouts}"
        self.layouts += 1
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
        self.ranks = parallel.initialize(self.recipe.trainer, self.platform, 0)

    def actor(self, model: str, max_tokens: int | None = None, **algorithm: Any) -> Actor:
        folder = Path(model)
        changed = self.recipe.algorithm.model_copy(update=algorithm)
        trainer = self.recipe.trainer
        if max_tokens is not None:
            trainer = trainer.model_copy(update={"max_tokens_per_microbatch": max_tokens})
        recipe = self.recipe.model_copy(update={"algorithm": changed, "trainer": trainer})
        return build_actor(recipe, read_model_config(folder), self.ranks, self.platform, load_weights)

    def log_probs(self, job: Job) -> Any:
        """Log-probs of the response tokens of this rank's samples (last stage only)."""
        actor = self.actor(job["model"])
        samples = [
            TrainingSample(np.array(tokens), np.zeros(len(tokens) - 1, np.float32), 1.0)
            for tokens in job["samples"]
        ]
        found: dict[int, list[float]] = {}
        batches = microbatches(actor, samples)
        for batch, log_probs in zip(batches, log_probs_of(actor, batches), strict=bool(self.ranks.is_last_stage)):
            packed, values = self.whole(batch, log_probs)
            for start, end in itertools.pairwise(batch.sequences.cu_seqlens_q.tolist()):
                for number, sample in enumerate(job["samples"]):
                    if packed[start : start + len(sample)] == sample and start + len(sample) <= end:
                        found[number] = [values[at] for at in range(start, start + len(sample) - 1)]
        leads = self.ranks.tensor == 0 and self.ranks.context == 0
        return [found[i] for i in sorted(found)] if leads else []

    def whole(self, batch: Microbatch, log_probs: torch.Tensor) -> tuple[list[int], dict[int, float]]:
        """Tokens of all context ranks in packed order, and log-probs by the position that predicts them."""
        context = batch.sequences.context
        mine = torch.arange(batch.tokens.shape[1]) if context is None else context.mine
        part = (
            dict(zip(mine.tolist(), batch.tokens[0].tolist(), strict=True)),
            dict(zip(mine[batch.sources].tolist(), log_probs.tolist(), strict=True)),
        )
        parts = [part]
        if context is not None:
            parts = [part] * self.ranks.context_size
            torch.distributed.all_gather_object(parts, part, group=context.group)
        tokens = {at: token for known, _ in parts for at, token in known.items()}
        return [tokens[at] for at in sorted(tokens)], {at: v for _, known in parts for at, v in known.items()}

    def gradients(self, job: Job) -> Any:
        """Write the gradient of the first update of a step file as an HF folder."""
        actor = self.actor(job["model"], job.get("max_tokens_per_microbatch"), **job.get("algorithm", {}))
        path, recipe = Path(job["step"]), actor.recipe
        samples = training_samples(path, read_step(path), recipe, routing_shape(recipe, actor.model_config))
        parts = split_groups(samples, recipe.rollout.samples_per_prompt, recipe.trainer.updates_per_step)
        assert parts is not None
        loss = forward_backward(actor, microbatches(actor, parts[0]), None, None)["loss"]
        for chunk in actor.model:
            for buffer in [*chunk.buffers, *chunk.expert_parallel_buffers]:
                group = buffer.data_parallel_group
                for bucket in buffer.buckets:
                    # The sum is shared out: each rank has its part of the bucket right.
                    own = bucket.grad_data.chunk(group.size())[group.rank()].clone()
                    parts_of_all = [torch.empty_like(own) for _ in range(group.size())]
                    torch.distributed.all_gather(parts_of_all, own, group=group)
                    bucket.grad_data.copy_(torch.cat(parts_of_all))
            for parameter in chunk.parameters():
                parameter.data.copy_(parameter.main_grad)
        export_hf(bind(actor.chunks, actor.model_config), actor.model_config, self.ranks, Path(job["to"]))
        return loss

    def export(self, job: Job) -> Any:
        actor = self.actor(job["model"])
        export_hf(bind(actor.chunks, actor.model_config), actor.model_config, self.ranks, Path(job["to"]), 150_000)
        return None

    def train(self, job: Job) -> Any:
        """Train on step files; `load` and `save` name checkpoint folders, `algorithm` changes the recipe.

        `to` names an HF folder for the weights.
        """
        actor = self.actor(job["model"], job.get("max_tokens_per_microbatch"), **job.get("algorithm", {}))
        if "load" in job:
            load_checkpoint(actor, Path(job["load"]), job["version"])
        metrics = [train_step(actor, Path(path)) for path in job["steps"]]
        if "save" in job:
            saver = Saver(Path(job["save"]), CheckpointSection(), actor)
            saver.start(actor, None)
            saver.wait()
        if "to" in job:
            export_hf(bind(actor.chunks, actor.model_config), actor.model_config, self.ranks, Path(job["to"]))
        weights = b"".join(
            p.detach().float().numpy().tobytes() for chunk in actor.chunks for p in chunk.parameters()
        )
        found = {"metrics": metrics, "weights": hashlib.sha256(weights).hexdigest(), "version": actor.version}
        return found | {"remembered": remembered(actor)}

    def checkpoint(self, job: Job) -> Any:
        """Train, then save one state three ways: by our saver, by Megatron, and while training goes on."""
        actor = self.actor(job["model"])
        for path in job["steps"]:
            train_step(actor, Path(path))
        ours, stock = Saver(Path(job["to"]) / "ours", CheckpointSection(), actor), Path(job["to"]) / "stock"
        ours.start(actor, None)
        ours.wait()
        stock.mkdir(exist_ok=True)
        state = sharded_model(actor)
        optimizer = actor.optimizer.sharded_state_dict(state, metadata=METADATA)
        force_all_tensors_to_non_fp8(state)
        others = {"scheduler": actor.scheduler.state_dict(), "version": actor.version}
        torch.distributed.barrier()
        dist_checkpointing.save({**state, "optimizer": optimizer, **others}, str(stock), content_metadata=METADATA)
        beside = Saver(Path(job["to"]) / "beside", CheckpointSection(), actor)
        beside._buffer = SlowBuffer(self.platform.device)
        beside.start(actor, None)
        train_step(actor, Path(job["steps"][0]), beside.wait_copied)
        beside.wait()
        return beside.take_saved()

    def saves_badly(self, job: Job) -> Any:
        """What every rank says of saves in which rank 1 fails in a way that nobody has thought of, then hangs."""
        actor = self.actor(job["model"])
        told = []
        for bad, limit in ((lambda *_: 1 // 0, 60), (lambda *_: time.sleep(8), 3)):
            saver = Saver(Path(job["to"]), CheckpointSection(timeout_seconds=limit), actor)
            if self.ranks.tensor == 1:
                saver._buffer.copy = bad  # type: ignore[method-assign,assignment]
            saver.start(actor, None)
            try:
                saver.wait()
            except SrpoError as error:
                told.append(str(error))
            if saver._thread is not None:
                saver._thread.join()  # before anybody leaves
        return told

    def offload(self, job: Job) -> Any:
        return train_and_save(self.actor(job["model"]), job)

    def reshard(self, job: Job) -> Any:
        """Load a checkpoint on this layout and save it again."""
        actor = self.actor(job["model"])
        load_checkpoint(actor, Path(job["load"]), job["version"])
        saver = Saver(Path(job["to"]), CheckpointSection(), actor)
        saver.start(actor, None)
        saver.wait()
        return actor.scheduler.num_steps

    def vocabulary(self, job: Job) -> Any:
        """Log-probs, entropy and gradients (float64) of an output projection [vocabulary, width] that is split."""
        hidden = torch.tensor(job["hidden"], dtype=torch.float64, requires_grad=True)
        whole = torch.tensor(job["weight"], dtype=torch.float64)
        size = -(-len(whole) // self.ranks.tensor_size)
        padded = torch.nn.functional.pad(whole, (0, 0, 0, size * self.ranks.tensor_size - len(whole)), value=9.0)
        start = self.ranks.tensor * size
        weight = padded[start : start + size].clone().requires_grad_()
        group = parallel.parallel_state.get_tensor_model_parallel_group()
        vocabulary = Vocabulary(len(whole), start, group, job["temperature"], job["block_elements"])
        rows = copy_to_tensor_model_parallel_region(hidden)
        log_probs, entropy = linear_log_probs(rows, weight, torch.tensor(job["targets"]), vocabulary)
        (log_probs * torch.tensor(job["weights"], dtype=torch.float64)).sum().backward()
        assert hidden.grad is not None and weight.grad is not None
        return {
            "log_probs": log_probs.tolist(),
            "entropy": entropy.tolist(),
            "hidden_gradient": hidden.grad.tolist(),
            "weight_gradient": weight.grad.tolist(),
        }


def main() -> None:
    """Do the jobs in order."""
    description = json.loads(Path(sys.argv[1]).read_text())
    rank = Rank(Recipe.model_validate(description["recipe"]), Path(sys.argv[2]))
    kinds: dict[str, Callable[[Job], Any]] = {
        "rearrange": lambda job: None,
        "log_probs": rank.log_probs,
        "export": rank.export,
        "gradients": rank.gradients,
        "train": rank.train,
        "checkpoint": rank.checkpoint,
        "reshard": rank.reshard,
        "saves_badly": rank.saves_badly,
        "offload": rank.offload,
        "vocabulary": rank.vocabulary,
    }
    results = []
    for job in description["jobs"]:
        if "trainer" in job:
            rank.rearrange(**job["trainer"])
        with stand_in() if job.get("eight_bits") else contextlib.nullcontext():
            results.append(kinds[job["kind"]](job))
    place = {"tensor": rank.ranks.tensor, "last": rank.ranks.is_last_stage, "data": rank.ranks.data}
    out = Path(sys.argv[2]) / f"rank-{torch.distributed.get_rank()}.json"
    out.write_text(json.dumps({"place": place, "results": results}))
    parallel.shutdown()


if __name__ == "__main__":
    main()
