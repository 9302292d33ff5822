"""The deterministic engine through the same client that speaks with SGLang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.schema import EngineSection
from megatron_srpo.rollout.client import EngineClient, Sampling
from megatron_srpo.rollout.engine import start_engines
from tests.integration.engines import PROMPT, assert_serves, reference, update_over_gloo
from tests.support import EOS_TOKEN_ID

TinyHf = Callable[..., Path]
SAMPLED = Sampling(max_new_tokens=12, temperature=0.8, seed=1)
SECTION = EngineSection(backend="deterministic", start_timeout_seconds=120.0)


@pytest.fixture(params=[("qwen2", False), ("llama", True)], ids=["qwen2-untied", "llama-tied"])
async def served(
    request: pytest.FixtureRequest, tiny_hf: TinyHf, tmp_path: Path
) -> AsyncIterator[tuple[EngineClient, Path, Path]]:
    """A client, the folder that is served and another of the same shape."""
    architecture, tied = request.param
    first, second = (tiny_hf(architecture=architecture, tied=tied, seed=seed) for seed in (0, 1))
    async with (
        await start_engines(SECTION, first, tmp_path) as engines,
        EngineClient(engines.urls[0], retries=0, control_timeout=60.0) as client,
    ):
        yield client, first, second


async def test_serves_what_transformers_computes_through_every_update(
    served: tuple[EngineClient, Path, Path],
) -> None:
    client, first, second = served
    await assert_serves(client, first, 0)
    checksums = await client.weight_checksums()
    await update_over_gloo(client, second, 1)
    await assert_serves(client, second, 1)
    assert await client.weight_checksums() != checksums
    await client.update_from_disk(str(first), 2)
    await assert_serves(client, first, 2)
    assert await client.weight_checksums() == checksums


async def test_sampling(served: tuple[EngineClient, Path, Path]) -> None:
    client, first, _ = served

    async def draw(sampling: Sampling) -> tuple[list[int], list[float]]:
        generation = await client.generate(rid=f"r-{sampling}", input_ids=PROMPT, sampling=sampling)
        return generation.tokens, generation.log_probs

    # At once or one after the other, with the same seed the same tokens to the last bit.
    once = await draw(SAMPLED)
    others = await asyncio.gather(*(draw(replace(SAMPLED, seed=seed)) for seed in (3, 1, 2)))
    assert others[1] == once
    assert len({tuple(tokens) for tokens, _ in others}) == 3
    # The key holds the weight version: the same weights under another version draw other tokens.
    await client.update_from_disk(str(first), 1)
    assert await draw(SAMPLED) != once
    # A filter that leaves one token is greedy, and log-probs are those before the filter.
    tokens, log_probs = await draw(replace(SAMPLED, temperature=1.0, top_k=1))
    assert (tokens, await draw(replace(SAMPLED, temperature=1.0, top_p=1e-6))) == (
        reference(first, tokens)[0],
        (tokens, log_probs),
    )
    torch.testing.assert_close(log_probs, reference(first, tokens)[1], atol=2e-5, rtol=0)
    assert max(log_probs) < 0


async def test_ends_at_stop_token_length_and_abort(served: tuple[EngineClient, Path, Path]) -> None:
    client, _, _ = served
    whole = await client.generate(rid="r", input_ids=PROMPT, sampling=SAMPLED)
    assert whole.finish_reason == "length" or whole.tokens[-1] == EOS_TOKEN_ID
    stop = replace(SAMPLED, stop_token_ids=(whole.tokens[2],))
    stopped = await client.generate(rid="r", input_ids=PROMPT, sampling=stop)
    assert stopped.finish_reason == "stop"
    assert stopped.tokens == whole.tokens[: whole.tokens.index(whole.tokens[2]) + 1]
    await client.pause("retract")
    waiting = asyncio.create_task(client.generate(rid="r", input_ids=PROMPT, sampling=SAMPLED))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await client.abort("r")
    await client.resume()
    assert (await waiting).finish_reason == "abort"


async def test_refuses_what_it_cannot_do(served: tuple[EngineClient, Path, Path]) -> None:
    client, _, _ = served
    for sampling, prompt, words in (
        (replace(SAMPLED, seed=None), PROMPT, "needs sampling_seed"),
        (replace(SAMPLED, max_new_tokens=5000), PROMPT, "context length"),
        (SAMPLED, [100_000], "vocabulary"),
        (SAMPLED, [], "at least one"),
    ):
        with pytest.raises(SrpoError, match=words):
            await client.generate(rid="r", input_ids=prompt, sampling=sampling)
    with pytest.raises(SrpoError, match="begin_weight_update first"):
        await client.update_from_distributed(names=[], dtypes=[], shapes=[], group="g", weight_version=1)
    with pytest.raises(SrpoError, match="does not exist"):
        await client.destroy_group("missing")
    with pytest.raises(SrpoError, match="lacks"):
        await client.update_from_disk("/nowhere", 1)
