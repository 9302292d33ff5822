"""Rollouts: from prompts to scored groups, each handed on as soon as it is finished."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from megatron_srpo.data.problem import Problem
from megatron_srpo.data.problems import PromptEncoder
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import Recipe, RolloutSection
from megatron_srpo.rewards.pool import RewardPool
from megatron_srpo.rewards.score import Reward
from megatron_srpo.rollout.client import Generation, Sampling
from megatron_srpo.rollout.fleet import EngineFleet
from megatron_srpo.rollout.routed_experts import RoutingShape, routing_shape
from megatron_srpo.tasks import cancel_all, gather_or_cancel


@dataclass(frozen=True)
class Prompt:
    """A problem in its place; `place` names it in request ids and seeds, `number` is its place in the step."""

    number: int
    source: str
    epoch: int
    problem: Problem
    tokens: list[int]
    place: str


@dataclass(frozen=True)
class Response:
    """A generation, its text, and what it earned."""

    generation: Generation
    text: str
    reward: Reward


@dataclass(frozen=True)
class Group:
    """A prompt and all its responses, in sample order."""

    prompt: Prompt
    responses: list[Response]


def sampling_seed(seed: int, place: str, sample: int) -> int:
    """A seed for one response, different for every (run seed, place, sample), 31 bits."""
    digest = hashlib.blake2b(f"{seed}/{place}/{sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


class RolloutCollector:
    """Samples responses from the engines and has them scored."""

    def __init__(
        self, recipe: Recipe, model: ModelConfig, fleet: EngineFleet, encoder: PromptEncoder, rewards: RewardPool
    ) -> None:
        self._recipe, self._model, self._fleet = recipe, model, fleet
        self._encoder, self._rewards = encoder, rewards
        self._slots = asyncio.Semaphore(recipe.rollout.max_concurrent_requests)

    async def groups(self, draw: Callable[[], Sequence[Prompt]], recipe: Recipe) -> AsyncGenerator[Group, None]:
        """Yield each prompt's group when it is complete, in order of completion.

        `draw` gives prompts to begin with and is asked again after every group; the end is reached when nothing
        is on its way and it gives none.  Lengths, samples and temperature are `recipe.rollout`'s; experts are
        recorded if its trainer replays them.
        """
        tasks: set[asyncio.Task[Group]] = set()
        try:
            while True:
                tasks |= {asyncio.create_task(self._group(prompt, recipe)) for prompt in draw()}
                if not tasks:
                    return
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    # Others that failed too are looked at in the end: asyncio prints them else.
                    group = task.result()
                    tasks.remove(task)
                    yield group
        finally:
            await cancel_all(tasks)

    async def _group(self, prompt: Prompt, recipe: Recipe) -> Group:
        rollout = recipe.rollout
        samples, routing = range(rollout.samples_per_prompt), routing_shape(recipe, self._model)
        generations = await gather_or_cancel(
            *(self._generate(prompt, sample, rollout, routing) for sample in samples)
        )
        texts = [self._encoder.decode(generation.tokens) for generation in generations]
        rewards = await self._rewards.score_group(texts, prompt.problem)
        return Group(prompt, [Response(*parts) for parts in zip(generations, texts, rewards, strict=True)])

    async def _generate(
        self, prompt: Prompt, sample: int, rollout: RolloutSection, routing: RoutingShape | None
    ) -> Generation:
        sampling = Sampling(
            max_new_tokens=rollout.max_response_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            seed=sampling_seed(self._recipe.seed, prompt.place, sample),
            stop_token_ids=self._model.eos_token_ids,
        )
        async with self._slots:
            return await self._fleet.for_group(prompt.number).generate(
                rid=f"{self._recipe.name}/{prompt.place}/{sample}",
                input_ids=prompt.tokens,
                sampling=sampling,
                routing=routing,
            )
