"""Samples into microbatches and onto ranks: time, balance and fullness of `plan_microbatches`.

    python tools/bench/batching.py [--quick]

8,192 samples (log-normal lengths, median 2,000, sigma 0.9, at most 16,384) for 64 ranks, at most 20,480 tokens a
microbatch.  The cost of a sample is its training FLOPs in a model of the shape of Qwen2.5-32B, attention included;
a quarter of the sample, but at most 512 tokens, is its prompt.  Every seed of a range is an instance, and all
algorithms plan it in turn, in one process.  Baselines:

* longest first: the longest sample into the bin with the fewest tokens, with one more microbatch a rank until they
  fit; neighbours in load go to different ranks.  This is what the trainer did before.
* differencing: the largest differencing method (Karmarkar and Karp) partitions the samples by cost into ranks;
  first fit, longest first, packs each rank's, and the rank with the most microbatches sets the number of all.

Metrics, over all seeds unless said otherwise:

* plan: median milliseconds of processor time.
* heaviest_rank: by how much the heaviest rank is above the mean cost, the worst seed.
* lockstep: the same of ranks that wait for each other at every microbatch.
* microbatches: of a rank, the mean.
* fullness: tokens over the room of all microbatches, the worst fair seed.  The number of microbatches is a
  multiple of 64, so the tokens of a seed bound how full they can be; a seed is fair if its bound is at least 99%.
* fullness_of_bound: fullness over that bound, the worst seed whose bound is at most 99.5%; 100% is the fewest
  microbatches possible.

`instances` has the numbers of each seed.  With --quick there are fewer seeds.
"""

from __future__ import annotations

import heapq
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import typer
from common.report import Result, progress, report

from megatron_srpo.actor.packing import plan_microbatches
from megatron_srpo.recipe.flops import ModelFlops, model_flops
from megatron_srpo.recipe.model_config import read_model_config

SAMPLES, RANKS, MAX_TOKENS = 8192, 64, 20480
MEDIAN, SIGMA, LONGEST = 2000, 0.9, 16384
FAIR, FEWEST = 99.0, 99.5  # bounds of fullness in %, see above
MODEL = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 152064,
    "eos_token_id": 151645,
}

Plan = list[list[list[int]]]
Planner = Callable[[list[int], list[float]], Plan]


def ours(lengths: list[int], costs: list[float]) -> Plan:
    """What is measured."""
    return plan_microbatches(lengths, MAX_TOKENS, RANKS, costs=costs)


def longest_first(lengths: list[int], costs: list[float]) -> Plan:
    """The former algorithm, which knows nothing of costs."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rows = -(-sum(lengths) // (MAX_TOKENS * RANKS))
    while True:
        heap: list[tuple[int, int]] = [(0, index) for index in range(rows * RANKS)]
        bins: list[list[int]] = [[] for _ in heap]
        for i in order:
            load, index = heap[0]
            bins[index].append(i)
            heapq.heapreplace(heap, (load + lengths[i], index))
        if max(heap)[0] <= MAX_TOKENS:
            break
        rows += 1
    bins.sort(key=lambda members: -sum(lengths[i] for i in members))
    return [bins[rank::RANKS] for rank in range(RANKS)]


def differencing(lengths: list[int], costs: list[float]) -> Plan:
    """Differencing into ranks, first fit in each."""
    packed = [first_fit(lengths, members) for members in differences(costs)]
    rows = max(len(bins) for bins in packed)
    return [bins + [[] for _ in range(rows - len(bins))] for bins in packed]


def differences(costs: list[float]) -> list[list[int]]:
    """The largest differencing method: of partial partitions the two with the widest range are merged.

    The heaviest set of one goes with the lightest of the other, so that their ranges cancel.
    """
    heap: list[tuple[float, int, list[tuple[float, list[int]]]]] = []
    for i, cost in enumerate(costs):
        heap.append((-cost, i, [*((0.0, []) for _ in range(RANKS - 1)), (cost, [i])]))
    heapq.heapify(heap)
    while len(heap) > 1:
        _, order, one = heapq.heappop(heap)
        _, _, other = heap[0]
        merged = [(a + b, x + y) for (a, x), (b, y) in zip(one, reversed(other), strict=True)]
        merged.sort(key=lambda part: part[0])
        heapq.heapreplace(heap, (merged[0][0] - merged[-1][0], order, merged))
    return [members for _, members in heap[0][2]]


def first_fit(lengths: list[int], members: list[int]) -> list[list[int]]:
    """Each sample, longest first, into the first bin with room."""
    bins: list[list[int]] = []
    rooms: list[int] = []
    for i in sorted(members, key=lambda i: -lengths[i]):
        at = next((at for at, room in enumerate(rooms) if room >= lengths[i]), len(bins))
        if at == len(bins):
            bins.append([])
            rooms.append(MAX_TOKENS)
        bins[at].append(i)
        rooms[at] -= lengths[i]
    return bins


@dataclass(frozen=True)
class Quality:
    """Of one plan: cost of the heaviest rank and of lockstep above the mean rank, and fullness, all in %."""

    heaviest: float
    lockstep: float
    fullness: float
    microbatches: int


def quality(plan: Plan, lengths: list[int], costs: list[float]) -> Quality:
    """Measures of a plan, which is checked first."""
    if sorted(i for rank in plan for members in rank for i in members) != list(range(len(lengths))):
        raise RuntimeError("a sample is not there once")
    if any(sum(lengths[i] for i in members) > MAX_TOKENS for rank in plan for members in rank):
        raise RuntimeError("a microbatch is too long")
    cost = np.array([[sum(costs[i] for i in members) for members in rank] for rank in plan])
    mean = cost.sum() / RANKS
    above = 100 * (cost.sum(axis=1).max() / mean - 1), 100 * (cost.max(axis=0).sum() / mean - 1)
    return Quality(float(above[0]), float(above[1]), 100 * sum(lengths) / (cost.size * MAX_TOKENS), cost.shape[1])


def samples_of(seed: int, flops: ModelFlops) -> tuple[list[int], list[float]]:
    """Lengths and costs of the seed's samples."""
    drawn = np.random.default_rng(seed).lognormal(np.log(MEDIAN), SIGMA, SAMPLES)
    lengths = np.clip(drawn, 1, LONGEST).astype(int).tolist()
    return lengths, [flops.training(length, length - min(length // 4, 512)) for length in lengths]


def read_flops() -> ModelFlops:
    """Of the 32B shape."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "config.json").write_text(json.dumps(MODEL))
        return model_flops(read_model_config(Path(name)))


PLANNERS: dict[str, Planner] = {"ours": ours, "longest first": longest_first, "differencing": differencing}


@dataclass(frozen=True)
class Instance:
    """What was measured of a seed: milliseconds and quality by algorithm, fullness over its bound in %.

    fewest: microbatches that a rank has at least; bound: how full they are then, in %.
    """

    seed: int
    fewest: int
    bound: float
    milliseconds: dict[str, float]
    found: dict[str, Quality]
    of_bound: dict[str, float]


def measure(seed: int, flops: ModelFlops) -> Instance:
    """Plan the seed's samples with each algorithm."""
    lengths, costs = samples_of(seed, flops)
    room = RANKS * MAX_TOKENS
    milliseconds, found = {}, {}
    for name, plan in PLANNERS.items():
        started = time.process_time()
        planned = plan(lengths, costs)
        milliseconds[name] = 1e3 * (time.process_time() - started)
        found[name] = quality(planned, lengths, costs)
    fewest = -(-sum(lengths) // room)
    of_bound = {name: 100 * fewest / one.microbatches for name, one in found.items()}
    return Instance(seed, fewest, 100 * sum(lengths) / (fewest * room), milliseconds, found, of_bound)


def values_of(name: str, instances: list[Instance]) -> dict[str, float]:
    """The metrics of an algorithm."""
    found = [one.found[name] for one in instances]
    return {
        "plan": statistics.median(one.milliseconds[name] for one in instances),
        "heaviest_rank": max(quality.heaviest for quality in found),
        "lockstep": max(quality.lockstep for quality in found),
        "microbatches": statistics.mean(quality.microbatches for quality in found),
        "fullness": min(one.found[name].fullness for one in instances if one.bound >= FAIR),
        "fullness_of_bound": min(one.of_bound[name] for one in instances if one.bound <= FEWEST),
    }


def results_of(instances: list[Instance]) -> list[Result]:
    """A row for each baseline and metric."""
    fewest = statistics.mean(one.fewest for one in instances)
    targets = {
        "plan": ("ms", "<=", 60.0),
        "heaviest_rank": ("%", "<=", 0.3),
        "lockstep": ("%", "<=", 1.0),
        "microbatches": ("", "<=", 1.01 * fewest),
        "fullness": ("%", ">=", 99.0),
        "fullness_of_bound": ("%", ">=", 100.0),
    }
    found = values_of("ours", instances)
    results = []
    for baseline in list(PLANNERS)[1:]:
        others = values_of(baseline, instances)
        for metric, (unit, sign, limit) in targets.items():
            value, other = found[metric], others[metric]
            ok = value <= limit if sign == "<=" else value >= limit
            ratio = round(value / other, 4)
            results.append(Result(metric, value, unit, baseline, other, ratio, f"{sign} {limit:g} {unit}", ok))
    return results


def main(quick: bool = False) -> None:
    """Measure and report."""
    flops = read_flops()
    instances = []
    for seed in range(12 if quick else 60):
        instances.append(measure(seed, flops))
        progress(f"seed {seed}, bound {instances[-1].bound:.2f}%: {instances[-1].found['ours']}")
    report("batching", results_of(instances), instances=[asdict(one) for one in instances])


if __name__ == "__main__":
    typer.run(main)
