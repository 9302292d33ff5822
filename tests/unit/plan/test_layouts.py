"""All layouts of a recipe's ranks: complete, ranked, and each with a reason where it is left out."""

from __future__ import annotations

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.plan.gpus import GIB, GPUS, GPUS_PER_NODE
from megatron_srpo.plan.layouts import Layouts, candidates, fullest, layout_of, rank_layouts, with_layout
from megatron_srpo.plan.workload import expected_workload
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.model_folder import check_parallel
from megatron_srpo.recipe.schema import Recipe
from tests.unit.plan.shapes import EXPERTS, TINY, published, recipe

H100 = GPUS["h100"]
FIRST_LAYERS = {"granularity": "full", "layers": 1}


def ranked(at: Recipe, model: ModelConfig) -> Layouts:
    return rank_layouts(at, model, H100, expected_workload(at, None))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (TINY, {"tensor_parallel": 2, "sequence_parallel": True, "pipeline_parallel": 2}),
        (
            TINY,
            {"pipeline_parallel": 2, "pipeline_layers": [3, 5], "recompute": {"granularity": "full", "layers": 1}},
        ),
        (EXPERTS, {"tensor_parallel": 2, "sequence_parallel": True, "expert_parallel": 4}),
    ],
)
def test_the_recipes_own_is_among_them_and_nothing_is_lost(model: ModelConfig, shape: dict[str, object]) -> None:
    at = recipe(**shape)
    found = ranked(at, model)
    fitting = [one.layout for one in found.fitting]
    excluded = [one.layout for one in found.excluded]
    assert found.own == layout_of(at.trainer)
    assert found.own in fitting
    everything = list(candidates(at, model))
    assert sorted(map(str, everything)) == sorted(map(str, fitting + excluded))
    assert len(set(everything)) == len(everything)


def test_fitting_ones_can_be_and_are_sorted_by_time() -> None:
    at = recipe()
    found = ranked(at, TINY)
    times = [one.time.total for one in found.fitting]
    assert times == sorted(times)
    assert len(times) > 50
    for one in found.fitting:
        assert one.layout.tensor <= GPUS_PER_NODE
        check_parallel(TINY, with_layout(at, TINY, one.layout).trainer)
        assert one.memory.total <= H100.memory_bytes


def test_every_other_has_one_reason() -> None:
    found = ranked(recipe(ranks=16, max_tokens_per_microbatch=65536), published("qwen2.5-32b"))
    reasons = {str(one.layout): one.reason for one in found.excluded}
    assert reasons["tp 6, pp 1, recompute none"] == "tensor_parallel 6 does not divide the 16 ranks"
    assert all(reasons.values())
    needs = [one.needs for one in found.excluded if one.needs is not None]
    assert needs == sorted(needs)
    for one in found.excluded:
        assert one.needs is None or one.reason.startswith(f"needs {one.needs / GIB:.1f} GiB of 79 GiB: ")


def test_the_largest_part_is_named() -> None:
    found = ranked(recipe(ranks=1), published("qwen2.5-32b"))
    assert found.fitting == ()
    own = next(one for one in found.excluded if one.layout == found.own)
    memory = fullest(recipe(ranks=1), published("qwen2.5-32b"))
    assert (
        own.reason == f"needs {memory.total / GIB:.1f} GiB of 79 GiB: optimizer {memory.optimizer / GIB:.1f} GiB"
    )


def test_the_models_shape_is_a_reason() -> None:
    found = ranked(recipe(ranks=24), TINY)
    reason = next(one.reason for one in found.excluded if str(one.layout) == "tp 3, pp 1, recompute none")
    assert reason.startswith("trainer.tensor_parallel 3 does not divide num_attention_heads 8")
    experts = ranked(recipe(tensor_parallel=2, sequence_parallel=True), EXPERTS)
    reason = next(one.reason for one in experts.excluded if str(one.layout) == "tp 2, pp 1, recompute none")
    assert "needs trainer.sequence_parallel" in reason


def test_a_section_that_cannot_be_is_one_sentence() -> None:
    at = recipe()
    layout = layout_of(at.trainer)
    with pytest.raises(SrpoError, match="^expert_parallel 3 does not divide the 8 ranks of a pipeline stage"):
        with_layout(at, TINY, type(layout)(**{**vars(layout), "expert": 3}))


def test_uneven_stages_stay_with_their_shape_alone() -> None:
    at = recipe(pipeline_parallel=2, pipeline_layers=[3, 5])
    found = {one.layout: one for one in ranked(at, TINY).fitting}
    full = next(
        layout for layout in found if (layout.pipeline, layout.virtual, layout.recompute) == (2, 1, "full")
    )
    four = next(layout for layout in found if layout.pipeline == 4)
    assert with_layout(at, TINY, full).trainer.pipeline_layers == (3, 5)
    assert with_layout(at, TINY, four).trainer.pipeline_layers is None
