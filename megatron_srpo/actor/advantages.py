"""Advantages of the samples of a step's groups.  No torch.

Everything is computed from what the journal holds, so that a recorded step can be trained on again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.schema import AlgorithmSection

Kind = Literal["group_normalized", "mean_centered", "leave_one_out"]


@dataclass(frozen=True)
class GroupOutcomes:
    """What became of the samples of a step, all [groups, samples].

    rewards: float64, the journal's totals; correct: bool, by the accuracy column; lengths: int64, response
    tokens; cut_off: bool, true where the response hit the length limit.
    """

    rewards: NDArray[np.float64]
    correct: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    cut_off: NDArray[np.bool_]


def advantages_of(
    outcomes: GroupOutcomes, algorithm: AlgorithmSection, max_response_tokens: int
) -> NDArray[np.float64]:
    """The advantage of every sample as the recipe's `algorithm` wants it, [groups, samples] float64.

    With `overlong: zero_advantage` (SRPO, arXiv 2504.14286) cut-off responses count in their group's mean
    and deviation, and get advantage 0 themselves.  With `soft_penalty` the length penalty is part of the
    reward.  Raises SrpoError when `overlong_buffer` does not fit in `max_response_tokens`.
    """
    rewards = outcomes.rewards
    if algorithm.overlong == "soft_penalty":
        if algorithm.overlong_buffer is None:
            raise ValueError("the schema refuses a soft_penalty without overlong_buffer")
        rewards = rewards + soft_overlong_penalty(outcomes.lengths, max_response_tokens, algorithm.overlong_buffer)
    advantages = group_advantages(rewards, algorithm.advantage, algorithm.advantage_epsilon)
    if algorithm.pass_rate_exponent:
        advantages = advantages * pass_rate_weights(outcomes.correct, algorithm.pass_rate_exponent)
    if algorithm.overlong == "zero_advantage":
        advantages = np.where(outcomes.cut_off, 0.0, advantages)
    return advantages


def group_advantages(rewards: NDArray[np.float64], kind: Kind, epsilon: float) -> NDArray[np.float64]:
    """Each reward against those of its own group; rewards and result are [groups, samples] float64.

    group_normalized: (r - mean) / (population standard deviation + epsilon), GRPO (arXiv 2402.03300).
    mean_centered: r - mean, Dr. GRPO (arXiv 2503.20783).
    leave_one_out: r - mean of the group's other rewards, RLOO (arXiv 2402.14740); needs two samples.
    A group of equal rewards gets exactly 0, whatever the rounding of its mean.
    """
    mean = rewards.mean(axis=1, keepdims=True)
    if kind == "group_normalized":
        advantages = (rewards - mean) / (rewards.std(axis=1, keepdims=True) + epsilon)
    elif kind == "mean_centered":
        advantages = rewards - mean
    else:
        others = rewards.shape[1] - 1
        advantages = rewards - (rewards.sum(axis=1, keepdims=True) - rewards) / others
    return np.where(np.ptp(rewards, axis=1, keepdims=True) == 0, 0.0, advantages)


def pass_rate_weights(correct: NDArray[np.bool_], exponent: float) -> NDArray[np.float64]:
    """(1 - pass rate) ** exponent of each group: groups that are rarely solved weigh more.

    correct: [groups, samples]; the pass rate is the share of correct samples.  Returns [groups, 1] float64.
    KAT-Dev-72B reports that it rescales advantages by pass rate, and gives no formula: this one is ours.  A
    group in which everything is correct weighs 0, though its format rewards may differ.
    """
    return np.asarray((1.0 - correct.mean(axis=1, keepdims=True)) ** exponent, dtype=np.float64)


def soft_overlong_penalty(
    lengths: NDArray[np.int64], max_response_tokens: int, buffer: int
) -> NDArray[np.float64]:
    """DAPO's length penalty (arXiv 2503.14476, eq. 13): from 0 down to -1 over the last `buffer` tokens.

    lengths: response tokens, of any shape, which the result (float64) shares.  A response of at most
    `max_response_tokens - buffer` tokens is not punished, one of `max_response_tokens` or more gets -1.
    Raises SrpoError when the buffer is longer than the limit, as every response would be punished.
    """
    if buffer > max_response_tokens:
        raise SrpoError(
            f"algorithm.overlong_buffer {buffer} is longer than max_response_tokens {max_response_tokens}; "
            "lower it, as every response would be punished"
        )
    return np.clip((max_response_tokens - buffer - lengths) / buffer, -1.0, 0.0)
