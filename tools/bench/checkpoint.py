"""How long training waits for a checkpoint that is written in the background, against one that it waits for.

    python tools/bench/checkpoint.py [--quick]

The same actor on the same ranks (one, and two data-parallel ones) saves in turns: waiting until the checkpoint is
whole, which is a synchronous save, and starting to save and going on.  The stall is what `Saver.start` takes, with
the disk idle again before each.  The first save of each kind is left out: it makes the host buffer.  Also told:
the stock save of Megatron (`dist_checkpointing.save`) of the same state, and the first save's stall.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch.distributed as dist
import typer
from common.models import record_step, write_model
from common.report import compare, progress, report
from megatron.core import dist_checkpointing

from megatron_srpo.actor import parallel
from megatron_srpo.actor.checkpoint import METADATA, sharded_model
from megatron_srpo.actor.saver import Saver
from megatron_srpo.actor.step import Actor, build_actor, train_step
from megatron_srpo.bridge.weights import load_weights
from megatron_srpo.launch.ports import unclaimed_port
from megatron_srpo.platform.select import select_platform
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.schema import CheckpointSection, Recipe

VOCABULARY = 8192


def recipe(model: Path, ranks: int) -> Recipe:
    """Two samples a step, so that there is optimizer state."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "steps": 1,
            "model": {"path": str(model)},
            "data": {"train": {"math": "unused"}},
            "rollout": {"prompts_per_step": 1, "samples_per_prompt": 2},
            "trainer": {"ranks": ranks, "device": "cpu", "dtype": "bfloat16", "max_tokens_per_microbatch": 64},
            "algorithm": {"mismatch_limit": 100.0},
        }
    )


def rank_main(folder: Path, rounds: int) -> None:
    """One rank: saves in turns and writes its seconds."""
    made = recipe(folder / "model", int(os.environ["WORLD_SIZE"]))
    platform = select_platform("cpu")
    ranks = parallel.initialize(made.trainer, platform, 0)
    actor = build_actor(made, read_model_config(made.model.path), ranks, platform, load_weights)
    train_step(actor, folder / "rollouts" / "step-000000.parquet")
    saver = Saver(folder / "checkpoints", CheckpointSection(keep=1), actor)
    seconds: dict[str, list[float]] = {"stall": [], "whole": [], "stock": []}
    for i in range(rounds + 1):
        for kind in ("stall", "whole", "stock"):
            seconds[kind].append(_save(kind, actor, saver, folder))
            progress(f"{kind} {i}: {seconds[kind][-1]:.3f} s")
    if dist.get_rank() == 0:
        size = sum(file.stat().st_size for file in (folder / "checkpoints" / "step-000001").iterdir())
        (folder / "found.json").write_text(json.dumps({"seconds": seconds, "bytes": size}))
    dist.barrier()
    parallel.shutdown()


def _save(kind: str, actor: Actor, saver: Saver, folder: Path) -> float:
    """Seconds of one save, beginning with an idle disk on all ranks."""
    stock = folder / "stock"
    if dist.get_rank() == 0:
        shutil.rmtree(stock, ignore_errors=True)
        stock.mkdir()
        os.sync()
    dist.barrier()
    started = time.monotonic()
    if kind == "stock":
        state = sharded_model(actor)
        optimizer = actor.optimizer.sharded_state_dict(state, metadata=METADATA)
        dist_checkpointing.save({**state, "optimizer": optimizer}, str(stock))
    else:
        saver.start(actor, None)
    if kind == "stall":
        dist.barrier()  # training would go on when all ranks do
        found = time.monotonic() - started
        saver.wait()
        return found
    saver.wait()
    dist.barrier()
    return time.monotonic() - started


def measure(folder: Path, ranks: int, rounds: int) -> dict[str, Any]:
    """What the ranks found."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(unclaimed_port("127.0.0.1"))}
    shared = {**address, "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--rank-folder", str(folder), "--rounds", str(rounds)]
    processes = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank)}) for rank in range(ranks)
    ]
    try:
        for process in processes:
            if process.wait() != 0:
                raise SystemExit(f"a rank ended with exit code {process.returncode}")
    finally:
        for process in processes:
            process.kill()
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A small model, few rounds.")] = False,
    rank_folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
    rounds: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Run the benchmark."""
    if rank_folder is not None:
        rank_main(rank_folder, rounds)
        return
    hidden, layers, count = (256, 4, 2) if quick else (768, 12, 4)
    results, first = [], {}
    with tempfile.TemporaryDirectory(prefix="srpo-bench-") as name:
        folder = Path(name)
        write_model(folder / "model", hidden, layers, VOCABULARY)
        record_step(folder / "rollouts", 1, 2, VOCABULARY, 16)
        for ranks in (1, 2):
            found = measure(folder, ranks, count)
            stall, whole, stock = (found["seconds"][kind][1:] for kind in ("stall", "whole", "stock"))
            where = f"{ranks} ranks" if ranks > 1 else "1 rank"
            metric = f"stall of a background save, {where}, {found['bytes'] / 1e6:.0f} MB"
            results.append(compare(metric, stall, "s", "waiting for it", whole, "<= 0.15"))
            first[where] = found["seconds"]["stall"][0]
            results.append(compare(f"whole save, {where}", whole, "s", "Megatron's own", stock, "<= 1"))
    report("checkpoint", results, first_stall_seconds=first)


if __name__ == "__main__":
    typer.run(main)
