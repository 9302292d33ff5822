"""The invariants of microbatch planning, for any lengths and costs, and how good plans of real sizes are."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import megatron_srpo
from megatron_srpo.actor.balance import Balance
from megatron_srpo.actor.packing import plan_microbatches
from megatron_srpo.recipe.flops import ModelFlops, model_flops
from tests.unit.plan.shapes import published

SAMPLES = st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 100)), min_size=1, max_size=60)
FEW_RANKS, MULTIPLES = st.integers(1, 5), st.integers(1, 4)

Plan = list[list[list[int]]]


def split(samples: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Lengths and costs."""
    return [length for length, _ in samples], [cost for _, cost in samples]


def sums(plan: Plan, values: list[int] | list[float]) -> NDArray[np.float64]:
    """Sums of the samples' values, [rank, microbatch]."""
    return np.array([[sum(values[i] for i in members) for members in rank] for rank in plan], dtype=np.float64)


def above_mean(plan: Plan, costs: list[float]) -> float:
    """How much more than the mean the heaviest rank costs, relative."""
    ranks = sums(plan, costs).sum(axis=1)
    return float(ranks.max() / ranks.mean() - 1)


def in_lockstep(plan: Plan, costs: list[float]) -> float:
    """How much more than the mean it costs when ranks wait for each other at every microbatch, relative."""
    cost = sums(plan, costs)
    return float(cost.max(axis=0).sum() / cost.sum(axis=1).mean() - 1)


def bins_of_best_fit(lengths: list[int], max_tokens: int) -> int:
    """How many bins the plainest best fit needs, longest first."""
    rooms: list[int] = []
    for length in sorted((min(length, max_tokens) for length in lengths), reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else max_tokens) - length)
    return len(rooms)


@given(SAMPLES, st.integers(20, 120), FEW_RANKS, MULTIPLES)
def test_every_sample_once_and_within_the_limit(
    samples: list[tuple[int, float]], max_tokens: int, data_parallel: int, multiple: int
) -> None:
    lengths, costs = split(samples)
    plan = plan_microbatches(lengths, max_tokens, data_parallel, multiple, costs)
    members = [i for rank in plan for microbatch in rank for i in microbatch]
    assert sorted(members) == list(range(len(lengths)))
    for rank in plan:
        for microbatch in rank:
            assert len(microbatch) <= 1 or sum(lengths[i] for i in microbatch) <= max_tokens


@given(SAMPLES, st.integers(20, 120), FEW_RANKS, MULTIPLES)
def test_as_many_microbatches_on_every_rank_and_few(
    samples: list[tuple[int, float]], max_tokens: int, data_parallel: int, multiple: int
) -> None:
    lengths, costs = split(samples)
    plan = plan_microbatches(lengths, max_tokens, data_parallel, multiple, costs)
    assert len(plan) == data_parallel
    (count,) = {len(rank) for rank in plan}
    unit = data_parallel * multiple
    assert count % multiple == 0
    assert 0 < count * data_parallel <= -(-bins_of_best_fit(lengths, max_tokens) // unit) * unit


@given(SAMPLES, FEW_RANKS, MULTIPLES)
def test_without_pressure_ranks_differ_by_less_than_a_sample(
    samples: list[tuple[int, float]], data_parallel: int, multiple: int
) -> None:
    lengths, costs = split(samples)
    plan = plan_microbatches(lengths, 10**6, data_parallel, multiple, costs)
    assert all(len(rank) == multiple for rank in plan)
    cost = sums(plan, costs).sum(axis=1)
    assert cost.max() - cost.min() <= max(costs) * (1 + 1e-6)


@given(SAMPLES, FEW_RANKS, MULTIPLES)
def test_spread_before_filled(samples: list[tuple[int, float]], data_parallel: int, multiple: int) -> None:
    lengths, costs = split(samples)
    half_full = max(*lengths, 2 * -(-sum(lengths) // data_parallel))
    plan = plan_microbatches(lengths, half_full, data_parallel, multiple, costs)
    assert sum(any(rank) for rank in plan) == min(data_parallel, len(lengths))


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=60), FEW_RANKS)
def test_dealt_ranks_differ_by_less_than_bins_of_a_round(costs: list[int], ranks: int) -> None:
    costs = sorted(costs[: len(costs) // ranks * ranks], reverse=True)
    assume(costs)
    one_each = np.arange(len(costs))
    balance = Balance(np.ones_like(one_each), np.array(costs), one_each, len(costs), 1, ranks)
    balance.deal()
    assert (np.bincount(balance.owner) == len(costs) // ranks).all()
    widest = max(costs[at] - costs[at + ranks - 1] for at in range(0, len(costs), ranks))
    assert balance.total.max() - balance.total.min() <= widest


@given(SAMPLES, st.integers(20, 120), FEW_RANKS, MULTIPLES)
def test_ranks_begin_with_the_most_expensive(
    samples: list[tuple[int, float]], max_tokens: int, data_parallel: int, multiple: int
) -> None:
    lengths, costs = split(samples)
    cost = sums(plan_microbatches(lengths, max_tokens, data_parallel, multiple, costs), costs)
    assert (np.diff(cost, axis=1) <= 1e-6 * max(costs)).all()


@given(SAMPLES, st.integers(20, 120), FEW_RANKS)
def test_unit_of_costs_does_not_matter(
    samples: list[tuple[int, float]], max_tokens: int, data_parallel: int
) -> None:
    lengths, costs = split(samples)
    plan = plan_microbatches(lengths, max_tokens, data_parallel, costs=costs)
    assert plan_microbatches(lengths, max_tokens, data_parallel, costs=[2.0**60 * cost for cost in costs]) == plan


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(20, 120), FEW_RANKS)
def test_costs_are_lengths_by_default(lengths: list[int], max_tokens: int, data_parallel: int) -> None:
    plan = plan_microbatches(lengths, max_tokens, data_parallel)
    assert plan_microbatches(lengths, max_tokens, data_parallel, costs=[float(n) for n in lengths]) == plan


def test_every_process_plans_the_same() -> None:
    code = """
import json, sys
from megatron_srpo.actor.balance import Balance
from megatron_srpo.actor.packing import plan_microbatches
lengths = json.loads(sys.argv[1])
json.dump(plan_microbatches(lengths, 300, 4, costs=[n * n / 3 for n in lengths]), sys.stdout)
"""
    rng = random.Random(0)
    lengths = [rng.randint(1, 100) for _ in range(200)]
    root = Path(megatron_srpo.__path__[0]).parent
    command = [sys.executable, "-c", code, json.dumps(lengths)]
    plans = [
        json.loads(
            subprocess.run(
                command, cwd=root, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
            ).stdout
        )
        for seed in ("1", "2")
    ]
    expected = plan_microbatches(lengths, 300, 4, costs=[n * n / 3 for n in lengths])
    assert plans == [expected, expected]


def test_sample_above_the_limit_is_alone() -> None:
    plan = plan_microbatches([300, 10, 10, 10], 100, 1)
    alone = [microbatch for microbatch in plan[0] if 0 in microbatch]
    assert alone == [[0]]


@pytest.mark.parametrize(
    ("lengths", "costs"),
    [
        ([], None),
        ([3, 0], [1.0, 1.0]),
        ([3, 1], [1.0]),
        ([3], [0.0]),
        ([3], [float("nan")]),
        ([3], [float("inf")]),
    ],
)
def test_what_cannot_be_planned(lengths: list[int], costs: list[float] | None) -> None:
    with pytest.raises(ValueError, match="samples to pack"):
        plan_microbatches(lengths, 100, 2, costs=costs)


def flops_of_32b() -> ModelFlops:
    """Of Qwen2.5-32B."""
    return model_flops(published("qwen2.5-32b"))


def log_normal(seed: int, count: int = 8192) -> tuple[list[int], list[float]]:
    """Lengths and costs of samples of median 2,000 tokens and at most 16,384."""
    drawn = np.random.default_rng(seed).lognormal(np.log(2000), 0.9, count)
    lengths = np.clip(drawn, 1, 16384).astype(int).tolist()
    flops = flops_of_32b()
    return lengths, [flops.training(length, length * 3 // 4) for length in lengths]


def uniform(seed: int, low: int, high: int, count: int) -> tuple[list[int], list[float]]:
    """Lengths and costs of samples of `low` to `high` tokens."""
    lengths = np.random.default_rng(seed).integers(low, high, count).tolist()
    flops = flops_of_32b()
    return lengths, [flops.training(length, length) for length in lengths]


@pytest.mark.parametrize("seed", [7, 10])
def test_8192_samples_on_64_ranks(seed: int) -> None:
    """Heaviest rank at most 0.3% above the mean, microbatches at least 99% full.

    The number of microbatches is a multiple of 64, which alone keeps most seeds below 99%; these two are the
    first whose tokens allow it (99.85% and 99.54%).  `test_fewest_microbatches` has a limit for any seed.
    """
    lengths, costs = log_normal(seed)
    plan = plan_microbatches(lengths, 20480, 64, costs=costs)
    assert sum(lengths) / (64 * len(plan[0]) * 20480) >= 0.99
    assert above_mean(plan, costs) <= 0.003
    assert in_lockstep(plan, costs) <= 0.005


@pytest.mark.parametrize("fullness", [0.97, 0.995, 0.9995])
@pytest.mark.parametrize("seed", range(3))
def test_fewest_microbatches(seed: int, fullness: float) -> None:
    """The limit is chosen so that 18 microbatches a rank are this full; they are found, and balanced."""
    lengths, costs = log_normal(seed)
    plan = plan_microbatches(lengths, int(sum(lengths) / (64 * 18 * fullness)), 64, costs=costs)
    assert len(plan[0]) == 18
    assert above_mean(plan, costs) <= 0.003
    assert in_lockstep(plan, costs) <= 0.01


def test_quadratic_costs() -> None:
    """What balances tokens does not balance attention."""
    lengths, costs = log_normal(0, 2048)
    by_cost = plan_microbatches(lengths, 20480, 16, costs=costs)
    by_tokens = plan_microbatches(lengths, 20480, 16)
    assert above_mean(by_cost, costs) <= 0.001 < 0.005 <= above_mean(by_tokens, costs)


def test_few_long_samples_in_few_microbatches() -> None:
    """Some ranks' first microbatches cost far more than those of others, which their other ones make up for."""
    lengths, costs = log_normal(0, 1024)
    plan = plan_microbatches(lengths, 20480, 64, costs=costs)
    first = sums(plan, costs)[:, 0]
    assert first.max() / first.mean() > 1.1
    assert above_mean(plan, costs) <= 0.001


def test_few_samples_on_many_ranks() -> None:
    """Seven on each, so that an exchange that fits must be looked for on many ranks."""
    lengths, costs = log_normal(3, 430)
    assert above_mean(plan_microbatches(lengths, 20480, 64, costs=costs), costs) <= 0.001


def test_sample_moves_without_exchange() -> None:
    """One rank begins with the long one, and each of the short ones is worth as little as another."""
    plan = plan_microbatches([10, 1, 1, 1], 100, 2, 2)
    assert sorted(sums(plan, [10, 1, 1, 1]).sum(axis=1)) == [3, 10]


def test_long_samples_must_be_paired() -> None:
    """Best fit needs 83 microbatches where spreading all samples by cost would need more."""
    lengths, costs = uniform(1, 1000, 12000, 2048)
    plan = plan_microbatches(lengths, 20480, 8, costs=costs)
    assert len(plan[0]) == -(-sum(lengths) // (20480 * 8))
    assert above_mean(plan, costs) <= 0.001


def test_only_best_fit_fits() -> None:
    assert len(plan_microbatches([5, 5, 4, 3, 3], 10, 1)[0]) == 2


def test_alike_samples_must_be_spread() -> None:
    """Eight samples in each microbatch, which best fit does not find."""
    lengths, costs = uniform(0, 2500, 3500, 128)
    limit = int(sum(lengths) / 16 / 0.99)
    assert bins_of_best_fit(lengths, limit) > 16
    assert len(plan_microbatches(lengths, limit, 8, costs=costs)[0]) == 2


@pytest.mark.parametrize("seed", range(3))
def test_some_are_spread_and_the_rest_packed(seed: int) -> None:
    """Neither all spread by cost nor best fit alone fits 36 microbatches that are 99.95% full."""
    lengths, costs = log_normal(seed, 2048)
    limit = int(sum(lengths) / (36 * 8 * 0.9995))
    assert bins_of_best_fit(lengths, limit) > 36 * 8
    plan = plan_microbatches(lengths, limit, 8, costs=costs)
    assert len(plan[0]) == 36
    assert above_mean(plan, costs) <= 0.001
