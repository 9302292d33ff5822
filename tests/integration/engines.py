"""What the tests of both engines share: weights over gloo, and log-probs recomputed with transformers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from megatron_srpo.launch.ports import unclaimed_port
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.rollout.client import EngineClient, Sampling
from megatron_srpo.rollout.routed_experts import RoutingShape
from megatron_srpo.sync.bucket import flatten
from megatron_srpo.sync.process_group import join_group, leave_group

PROMPT = [10, 20, 30, 40, 50]
GREEDY = Sampling(max_new_tokens=16, temperature=0.0)


def reference(folder: Path, tokens: Sequence[int]) -> tuple[list[int], list[float]]:
    """Greedy choices and log-probs of `tokens` after PROMPT, in one pass of transformers."""
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([[*PROMPT, *tokens]])).logits[0, len(PROMPT) - 1 : -1]
    scores = logits.log_softmax(-1)
    picked = scores.gather(1, torch.tensor(list(tokens))[:, None])[:, 0]
    return scores.argmax(-1).tolist(), picked.tolist()


def reference_experts(folder: Path, tokens: Sequence[int]) -> torch.Tensor:
    """What transformers' routers choose for PROMPT and `tokens` but the last, [tokens, layers, chosen].

    0 in layers without experts.
    """
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(folder, dtype=torch.float32)
    chosen: list[torch.Tensor] = []
    for module in model.modules():
        if type(module).__name__.lower().endswith("topkrouter"):
            module.register_forward_hook(lambda _module, _input, output: chosen.append(output[2]))
    with torch.inference_mode():
        model(torch.tensor([[*PROMPT, *tokens]]))
    # Layers without experts are the first ones.
    dense = [torch.zeros_like(chosen[0])] * (model.config.num_hidden_layers - len(chosen))
    return torch.stack(dense + chosen, dim=1)[:-1]


async def assert_tells_experts(client: EngineClient, folder: Path) -> None:
    """Prompts that are read anew and those that are cached: the engine tells what it chose for every token."""
    moe = read_model_config(folder).moe
    assert moe is not None
    routing = RoutingShape(layers=4, chosen=3, experts=8, dense=moe.dense_layers)
    for seed in range(3):
        sampling = Sampling(max_new_tokens=40, temperature=1.0, seed=seed)
        generation = await client.generate(
            rid=f"experts-{seed}", input_ids=PROMPT, sampling=sampling, routing=routing
        )
        found, expected = generation.routed_experts, reference_experts(folder, generation.tokens)
        assert found is not None and found.shape == tuple(expected.shape)
        # In an order of their own: what counts is which they are.
        assert (np.sort(found, axis=-1) == expected.sort(-1).values.numpy()).mean() > 0.999


async def assert_serves(client: EngineClient, folder: Path, version: int) -> None:
    """The engine's greedy tokens and log-probs are those of the folder's model."""
    generation = await client.generate(rid=f"check-{version}", input_ids=PROMPT, sampling=GREEDY)
    choices, log_probs = reference(folder, generation.tokens)
    assert generation.tokens == choices
    torch.testing.assert_close(generation.log_probs, log_probs, atol=2e-5, rtol=0)
    assert generation.weight_version == version
    assert generation.prompt_tokens == len(PROMPT)


async def send_weights(client: EngineClient, folder: Path, version: int, group: Any, name: str) -> None:
    """What a trainer does: announce each bucket to the engine and broadcast it."""
    tensors = load_file(folder / "model.safetensors")
    await client.begin_update()
    names = list(tensors)
    for part in (names[: len(names) // 2], names[len(names) // 2 :]):
        bucket = {name: tensors[name] for name in part}
        announced = client.update_from_distributed(
            names=list(bucket),
            dtypes=[str(tensor.dtype).removeprefix("torch.") for tensor in bucket.values()],
            shapes=[tensor.shape for tensor in bucket.values()],
            group=name,
            weight_version=version,
        )
        flat = flatten(list(bucket.values()))
        await asyncio.gather(announced, asyncio.to_thread(dist.broadcast, flat, 0, group))
    await client.end_update()


async def update_over_gloo(client: EngineClient, folder: Path, version: int, world_size: int = 2) -> None:
    """Join a group with the engine, send the folder's weights, leave."""
    name, port = f"weights-{version}", unclaimed_port("127.0.0.1")
    place: dict[str, Any] = {"address": "127.0.0.1", "port": port, "name": name, "backend": "gloo"}
    place["world_size"] = world_size
    ours = asyncio.to_thread(lambda: join_group(rank=0, timeout=60.0, **place))
    theirs = client.init_group(rank_offset=1, **place)
    group, _ = await asyncio.gather(ours, theirs)
    await send_weights(client, folder, version, group, name)
    await client.destroy_group(name)
    leave_group(group)


def processes_with(marker: str) -> list[int]:
    """Ids of the processes, other than ours, whose command line or environment holds `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            running = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is not of this user
        if running and marker.encode() in text:
            found.append(int(entry.name))
    return found


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants; SGLang renames its own, so they cannot be found by command line."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a process may end between any two looks at it."""
    return [process for process in processes if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
