"""What a worker of the reward pool does."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from megatron_srpo.data.problem import Problem
from megatron_srpo.errors import cause_of
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.rewards.judge import Judge
from megatron_srpo.rewards.messages import problem_of, reward_message
from megatron_srpo.rewards.score import Reward, failure
from megatron_srpo.workers import messages
from megatron_srpo.workers.nursery import Work


def make_work(settings: Any) -> Work:
    """The work of a recipe's reward section; raises SrpoError when it names functions that are not there."""
    judge = Judge(RewardSection.model_validate(settings))
    judge.warm_up()
    return partial(work, judge)


def work(judge: Judge, connection: socket.socket) -> None:
    """Judge what comes until the socket closes: a problem with responses, or more responses to the same one."""
    problem: Problem | None = None
    while (request := messages.receive(connection)) is not None:
        if request["problem"] is not None:
            problem = problem_of(request["problem"])
        assert problem is not None
        for response in request["responses"]:
            connection.sendall(messages.encode(reward_message(judged(judge, response, problem))))


def judged(judge: Judge, response: str, problem: Problem) -> Reward:
    """The reward, or an error with its cause: whatever a judge raises must not end the run."""
    try:
        return judge.reward(response, problem)
    except Exception as error:  # reported on the sample and counted, see Reward.error
        return failure(cause_of(error), judge.least)
