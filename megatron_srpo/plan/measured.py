"""What a run has measured, beside what its plan expects.  No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from megatron_srpo.errors import SrpoError
from megatron_srpo.observe.metrics import read_lines
from megatron_srpo.plan.gpus import Gpu
from megatron_srpo.plan.layouts import layout_of
from megatron_srpo.plan.parameters import count_parameters
from megatron_srpo.plan.workload import Workload
from megatron_srpo.recipe.flops import BACKWARD, model_flops
from megatron_srpo.recipe.load import load_recipe
from megatron_srpo.recipe.model_config import ModelConfig, read_model_config
from megatron_srpo.recipe.schema import Recipe

NEEDED = ("seconds_train", "tokens")
TERA = 1e12


@dataclass(frozen=True)
class Measured:
    """Medians over a run's steps, but for its first, which warms up; none: not to be told.

    response_tokens: mean length of a response.  mfu: the run's own, or with the pairs of attention that the plan's
    lengths have.  peak_memory_gib: tensors of the largest rank.  missing: what the metrics lack, in words.
    differs: what the run has other than the plan, in words.
    """

    steps: int
    seconds_train: float | None
    seconds_rollout: float | None
    response_tokens: float | None
    tokens_per_second_and_gpu: float | None
    mfu: float | None
    peak_memory_gib: float | None
    missing: tuple[str, ...]
    differs: tuple[str, ...]


def measure(run: Path, recipe: Recipe, model: ModelConfig, gpu: Gpu | None, workload: Workload) -> Measured:
    """Read the metrics of a run directory.

    Args:
        run: the directory; its own recipe.yaml says on how many ranks it ran, and whether these were GPUs.
        recipe: the plan's.
        model: the plan's model.
        gpu: what MFU is of; none: no MFU.
        workload: the plan's, whose attention is taken for the run's.

    Raises:
        SrpoError: when the directory has no recipe.yaml or a damaged line.
    """
    if not (run / "recipe.yaml").is_file():
        raise SrpoError(f"--measured {run}: there is no {run / 'recipe.yaml'}; give the directory of a run.")
    own = load_recipe(run / "recipe.yaml")
    trainer, own_model = own.trainer, _model_of(own)
    differs = _differences(own, own_model, recipe, model)
    rows = read_lines(run / "metrics.jsonl")
    steps = [row for row in rows if all(_is_number(row, key) for key in NEEDED)]
    steps = steps[1:] or steps
    missing = [key for key in NEEDED if rows and not any(_is_number(row, key) for row in rows)]
    if not steps:
        why = f"no step with {' and '.join(missing or NEEDED)}"
        missing = [f"{run / 'metrics.jsonl'} has {why}"]
        return Measured(0, None, None, None, None, None, None, tuple(missing), differs)
    speed = median(row["tokens"] / row["seconds_train"] for row in steps) / trainer.ranks
    lacks, mfu, peak = [], _median(steps, "mfu"), _median(steps, "peak_memory_gib")
    share = _target_share(steps)
    if share is None:
        lacks.append("response_tokens is not in the metrics, so the plan's share of responses counts for MFU")
        share = workload.response_tokens / workload.tokens
    if mfu is None and trainer.device == "cpu":
        lacks.append("the run was on CPUs, so there is no MFU")
    elif mfu is None and trainer.device == "auto" and peak is None:
        lacks.append("the run does not tell whether it was on GPUs, so there is no MFU")
    elif mfu is None and gpu is not None:
        flops = model_flops(own_model or model)
        per_token = flops.per_token + flops.per_pair * workload.pairs / workload.tokens + flops.per_target * share
        mfu = speed * (1 + BACKWARD) * per_token / (gpu.bf16_tflops * TERA)
    return Measured(
        steps=len(steps),
        seconds_train=median(row["seconds_train"] for row in steps),
        seconds_rollout=_median(steps, "seconds_rollout"),
        response_tokens=_median(steps, "response_length"),
        tokens_per_second_and_gpu=speed,
        mfu=mfu,
        peak_memory_gib=peak,
        missing=tuple(lacks),
        differs=differs,
    )


def _model_of(own: Recipe) -> ModelConfig | None:
    """The run's model; none where it is no longer there."""
    try:
        return read_model_config(own.model.path)
    except SrpoError:
        return None


def _differences(
    own: Recipe, own_model: ModelConfig | None, recipe: Recipe, model: ModelConfig
) -> tuple[str, ...]:
    """What the run has other than the plan, as far as memory and time depend on it."""
    found = []
    if own_model is not None and _shape(own_model) != _shape(model):
        found.append(f"a model of {count_parameters(own_model):,} parameters in {own_model.num_layers} layers")
    layout = layout_of(own.trainer)
    if (own.trainer.ranks, layout) != (recipe.trainer.ranks, layout_of(recipe.trainer)):
        found.append(f"{own.trainer.ranks} ranks with {layout}")
    if own.samples_per_step != recipe.samples_per_step:
        found.append(f"{own.samples_per_step:,} samples a step")
    return tuple(found)


def _shape(model: ModelConfig) -> ModelConfig:
    """The model without what no memory and time depend on."""
    return replace(model, folder=Path(), raw={}, dtype="", eos_token_ids=())


def _is_number(row: dict[str, Any], key: str) -> bool:
    """Whether a row has a positive number there."""
    value = row.get(key)
    return isinstance(value, int | float) and value > 0


def _median(steps: list[dict[str, Any]], key: str) -> float | None:
    """Of the steps that have the key; none of them: none."""
    values = [float(row[key]) for row in steps if _is_number(row, key)]
    return median(values) if values else None


def _target_share(steps: list[dict[str, Any]]) -> float | None:
    """Response tokens over all tokens; none where the metrics do not tell."""
    shares = [row["response_tokens"] / row["tokens"] for row in steps if _is_number(row, "response_tokens")]
    return median(shares) if shares else None
