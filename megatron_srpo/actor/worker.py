"""One trainer rank: obeys the controller's commands until it is told to stop.

    python -m megatron_srpo.actor.worker --recipe RUN/recipe.yaml --run-dir RUN --control HOST:PORT

with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT set as torchrun sets them, and on rank 0 the
control token as the first line of standard input.  Rank 0 speaks with the controller; every command is shared with
all ranks, which carry it out together.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer

from megatron_srpo.actor import parallel
from megatron_srpo.actor.actor import Actor, build_actor
from megatron_srpo.actor.checkpoint import resume
from megatron_srpo.actor.profiling import StepProfiler
from megatron_srpo.actor.saver import Saver
from megatron_srpo.actor.step import train_step
from megatron_srpo.bridge.export import export_hf
from megatron_srpo.bridge.weights import bind, load_weights
from megatron_srpo.checkpoints.manifest import RunFacts
from megatron_srpo.errors import EXIT_BAD_INPUT, SrpoError
from megatron_srpo.launch.control import ControllerLink, Message
from megatron_srpo.platform.select import select_platform
from megatron_srpo.recipe.load import load_recipe
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.sync.exchange import WeightGroup, WeightSender, group_as_message

ENGINE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Worker:
    """The commands of a rank.  Each method is a command; its keyword arguments come from the controller."""

    def __init__(self, recipe: Recipe, run_dir: Path, address: str) -> None:
        self.recipe = recipe
        checkpoints = run_dir / "checkpoints"
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        platform = select_platform(recipe.trainer.device, local_rank, recipe.trainer.threads_per_rank)
        ranks = parallel.initialize(recipe.trainer, platform, recipe.seed)
        model_config = read_model_config(recipe.model.path)
        self.actor: Actor = build_actor(recipe, model_config, ranks, platform, load_weights)
        self.resumed = resume(self.actor, checkpoints, recipe.checkpoint.fall_back)
        self.saver = Saver(checkpoints, recipe.checkpoint, self.actor, self.resumed.broken)
        self.profiler = StepProfiler(recipe.profile, run_dir / "traces", dist.get_rank(), platform)
        self.bindings = bind(self.actor.chunks, model_config)
        self.sender = WeightSender(
            self.bindings,
            ranks,
            platform,
            ENGINE_DTYPES[recipe.engine.dtype],
            round(recipe.sync.bucket_megabytes * 2**20),
            recipe.sync.timeout_seconds,
        )
        self.weight_group: WeightGroup | None = self.sender.weight_group(address)

    def hello(self) -> Message:
        """State after start: the weight version, the collective back end, and every stage's weight group."""
        groups: list[WeightGroup | None] = [None] * dist.get_world_size()
        dist.all_gather_object(groups, self.weight_group)
        present = sorted((group for group in groups if group is not None), key=lambda group: group.name)
        return {
            "version": self.resumed.version,
            "broken_checkpoints": list(self.resumed.broken.values()),
            "backend": self.actor.platform.collectives,
            "groups": [group_as_message(group) for group in present],
        }

    def train(self, path: str) -> Message:
        """One training step on a closed step file."""
        with self.profiler.step(self.actor.version):
            metrics = train_step(self.actor, Path(path), self.saver.wait_copied)
        return {"metrics": metrics, "version": self.actor.version}

    def join(self, world_size: int) -> Message:
        """Meet the engines in the weight groups."""
        self.sender.join(self.weight_group, world_size)
        return {}

    def send(self) -> Message:
        """Broadcast the weights; the engines are being told bucket by bucket by the controller."""
        started = time.monotonic()
        sent = torch.tensor(self.sender.send(), dtype=torch.int64, device=self.actor.platform.device)
        dist.all_reduce(sent)
        return {"bytes": int(sent), "seconds": time.monotonic() - started}

    def export(self, path: str) -> Message:
        """Write the weights as a Hugging Face folder."""
        export_hf(self.bindings, self.actor.model_config, self.actor.ranks, Path(path))
        return {}

    def save(self, run: dict[str, Any]) -> Message:
        """Begin to write a training checkpoint; `run` are the controller's facts for its manifest."""
        self.saver.start(self.actor, RunFacts.model_validate(run))
        return {}

    def settle(self) -> Message:
        """Wait until the checkpoint that is being written is whole."""
        self.saver.wait()
        return {}


COMMANDS = ("train", "join", "send", "export", "save", "settle")


def serve(worker: Worker, link: ControllerLink | None) -> None:
    """Carry out commands until `stop`, or until the controller is gone.  Only rank 0 has a link."""
    # Waiting for the next rollouts may take hours: who waits for rank 0 has a group without the usual time limit;
    # rank 0 itself waits there for nothing but that the others, which are waiting, take a message.
    limit = (
        timedelta(seconds=worker.recipe.trainer.timeout_seconds) if dist.get_rank() == 0 else timedelta(days=30)
    )
    waiting = dist.new_group(backend="gloo", timeout=limit)
    hello = worker.hello()
    if link is not None:
        link.send(hello)
    while True:
        message: list[Any] = [link.receive() if link is not None else None]
        dist.broadcast_object_list(message, src=0, group=waiting)
        command = message[0] or {"command": "stop"}
        name = command.pop("command")
        if name == "stop":
            return
        if name not in COMMANDS:
            raise SrpoError(f"trainer: the controller asked for {name!r}, which is none of {', '.join(COMMANDS)}")
        worker.saver.check()
        answer = getattr(worker, name)(**command)
        if link is not None:
            link.send({**answer, "saved": worker.saver.take_saved()})


def run(
    recipe: Annotated[Path, typer.Option(help="resolved recipe")],
    run_dir: Annotated[Path, typer.Option(help="run directory")],
    control: Annotated[str, typer.Option(help="HOST:PORT of the controller")],
) -> None:
    """Start this rank."""
    host, _, port = control.rpartition(":")
    # Ranks that a launcher starts together may share one standard input: the token is rank 0's.
    is_speaker = os.environ["RANK"] == "0"
    link = ControllerLink(host, int(port), sys.stdin.readline().strip(), 60.0) if is_speaker else None
    try:
        serve(Worker(load_recipe(recipe), run_dir, os.environ["MASTER_ADDR"]), link)
        parallel.shutdown()
    except SrpoError as error:
        if link is not None:
            link.send_last_words(str(error))
        with contextlib.suppress(OSError):  # the log may be on a disk that is full
            print(f"error: {error}", file=sys.stderr, flush=True)
        # Other ranks may hang in a collective with us, so no orderly shutdown: the launcher ends them.
        os._exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    typer.run(run)
