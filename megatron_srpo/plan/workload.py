"""What a step computes: lengths of its samples, and their floating-point operations.  No torch.

How long responses will be is not known before a run.  The assumption: a response ends at every token with the same
probability, and is cut at the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_srpo.errors import SrpoError
from megatron_srpo.plan.gpus import PROMPT_SHARE, RESPONSE_SHARE
from megatron_srpo.recipe.flops import ModelFlops
from megatron_srpo.recipe.schema import Recipe

QUANTILES = 16


@dataclass(frozen=True)
class Workload:
    """The samples of one step.

    responses: lengths, ascending, each standing for as many samples.  prompt: tokens of each prompt.
    """

    samples: int
    prompt: float
    responses: tuple[float, ...]

    @property
    def response_tokens(self) -> float:
        """Of all samples together."""
        return self.samples * sum(self.responses) / len(self.responses)

    @property
    def tokens(self) -> float:
        """Prompts and responses together."""
        return self.response_tokens + self.samples * self.prompt

    @property
    def pairs(self) -> float:
        """Of a query and a key that it sees, in all samples."""
        lengths = [self.prompt + response for response in self.responses]
        return self.samples * sum(length * (length + 1) / 2 for length in lengths) / len(lengths)

    def forward_flops(self, flops: ModelFlops) -> float:
        """Of one forward pass over the step."""
        parts = (flops.per_token * self.tokens, flops.per_pair * self.pairs)
        return sum(parts) + flops.per_target * self.response_tokens


def expected_workload(recipe: Recipe, response_tokens: float | None) -> Workload:
    """A step of the recipe with responses of the given mean; none: the assumed share of the limit.

    Raises:
        SrpoError: when the mean is not between 1 and rollout.max_response_tokens.
    """
    rollout = recipe.rollout
    limit = rollout.max_response_tokens
    mean = max(1.0, RESPONSE_SHARE * limit) if response_tokens is None else response_tokens
    if not 1 <= mean <= limit:
        raise SrpoError(
            f"--response-tokens {mean:g} must be between 1 and rollout.max_response_tokens {limit}; "
            "it is the mean length of a response."
        )
    prompt = max(1.0, PROMPT_SHARE * rollout.max_prompt_tokens)
    return Workload(recipe.samples_per_step, prompt, response_lengths(mean, limit))


def response_lengths(mean: float, limit: float) -> tuple[float, ...]:
    """Quantiles, with this mean, of lengths that end with constant probability and are cut at the limit."""
    points = [-math.log1p(-(index + 0.5) / QUANTILES) for index in range(QUANTILES)]
    low, high = 0.0, limit / points[0]  # at this scale all are cut
    for _ in range(60):
        scale = (low + high) / 2
        if sum(min(limit, scale * point) for point in points) / QUANTILES < mean:
            low = scale
        else:
            high = scale
    return tuple(min(limit, high * point) for point in points)
