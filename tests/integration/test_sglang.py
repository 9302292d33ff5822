"""Real SGLang on the CPU, started by our own launcher."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_srpo.recipe.schema import EngineSection
from megatron_srpo.rollout.client import EngineClient, Sampling
from megatron_srpo.rollout.engine import start_engines
from tests.architectures import write_tiny
from tests.integration.engines import (
    PROMPT,
    alive,
    assert_serves,
    assert_tells_experts,
    family,
    reference,
    update_over_gloo,
)

pytestmark = pytest.mark.sglang

TinyHf = Callable[..., Path]


def section(python: Path, tensor_parallel: int = 1) -> EngineSection:
    return EngineSection(
        python=python,
        device="cpu",
        dtype="float32",
        tensor_parallel=tensor_parallel,
        max_total_tokens=8192,
        start_timeout_seconds=300.0,
    )


@pytest.mark.parametrize(("architecture", "tied"), [("qwen2", False), ("llama", True)])
async def test_serves_what_transformers_computes_through_every_update(
    engine_python: Path, tiny_hf: TinyHf, tmp_path: Path, architecture: str, tied: bool
) -> None:
    first, second = (tiny_hf(architecture=architecture, tied=tied, seed=seed) for seed in (0, 1))
    async with (
        await start_engines(section(engine_python), first, tmp_path) as engines,
        EngineClient(engines.urls[0], retries=0, control_timeout=60.0) as client,
    ):
        await assert_serves(client, first, 0)
        checksums = await client.weight_checksums()
        await update_over_gloo(client, second, 1)
        await assert_serves(client, second, 1)
        assert await client.weight_checksums() != checksums
        await client.update_from_disk(str(first), 2)
        await assert_serves(client, first, 2)
        assert await client.weight_checksums() == checksums
        await check_batched_decode(client, first)
        await check_abort(client)
        processes = family(engines.processes[0].pid)
        assert len(processes) >= 4  # guard, server, scheduler, detokenizer
    assert not alive(processes)


async def test_a_biased_router_and_its_bias_after_an_update(engine_python: Path, tmp_path: Path) -> None:
    first, second = (write_tiny("glm4_moe", tmp_path / str(seed), seed=seed) for seed in (0, 1))
    async with (
        await start_engines(section(engine_python), first, tmp_path, record_experts=True) as engines,
        EngineClient(engines.urls[0], retries=0, control_timeout=60.0) as client,
    ):
        await assert_serves(client, first, 0)
        await update_over_gloo(client, second, 1)
        await assert_serves(client, second, 1)
        await assert_tells_experts(client, second)


async def check_batched_decode(client: EngineClient, folder: Path) -> None:
    """Requests of many lengths that are decoded together: each has its own log-probs.

    The launcher replaces SGLang's loop over requests by one padded attention, so lengths must not mix.
    """

    async def draw(index: int) -> None:
        sampling = Sampling(max_new_tokens=8 + index % 40, temperature=1.0, stop_token_ids=(index,))
        generation = await client.generate(rid=f"batch-{index}", input_ids=PROMPT, sampling=sampling)
        expected = reference(folder, generation.tokens)[1]
        torch.testing.assert_close(generation.log_probs, expected, atol=2e-5, rtol=0)

    await asyncio.gather(*(draw(index) for index in range(70)))


async def check_abort(client: EngineClient) -> None:
    """An aborted request returns what it has."""
    sampling = Sampling(max_new_tokens=900, temperature=1.0)
    long = asyncio.create_task(client.generate(rid="long", input_ids=PROMPT, sampling=sampling))
    await asyncio.sleep(0.3)
    await client.pause("abort")
    await client.resume()
    assert (await long).finish_reason in ("abort", "stop")


async def test_tells_which_experts_it_used(engine_python: Path, tmp_path: Path) -> None:
    folder = write_tiny("qwen3_moe", tmp_path / "model")
    async with (
        await start_engines(section(engine_python), folder, tmp_path, record_experts=True) as engines,
        EngineClient(engines.urls[0], retries=0) as client,
    ):
        await assert_tells_experts(client, folder)


async def test_two_ranks_and_a_killed_server(engine_python: Path, tiny_hf: TinyHf, tmp_path: Path) -> None:
    first, second = tiny_hf(seed=0), tiny_hf(seed=1)
    async with (
        await start_engines(section(engine_python, tensor_parallel=2), first, tmp_path) as engines,
        EngineClient(engines.urls[0], retries=0, control_timeout=60.0) as client,
    ):
        await assert_serves(client, first, 0)
        await update_over_gloo(client, second, 1, world_size=3)
        await assert_serves(client, second, 1)
        assert len(await client.weight_checksums()) == 2
        [process] = engines.processes
        processes = family(process.pid)
        assert len(processes) >= 5  # guard, server, two schedulers, detokenizer
        os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while alive(processes):
                await asyncio.sleep(0.1)
