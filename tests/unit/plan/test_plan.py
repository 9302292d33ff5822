"""The plan's arithmetic: processes, batches, parameters; and lengths that cannot work."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from megatron_srpo.errors import SrpoError
from megatron_srpo.plan.parameters import count_parameters
from megatron_srpo.plan.plan import Plan, make_plan
from megatron_srpo.plan.report import print_plan
from megatron_srpo.recipe.load import load_recipe
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.preflight import check_lengths, preflight
from tests.unit.folders import CONFIG, shapes, write_model, write_recipe


def planned(recipe: Path, *overrides: str) -> Plan:
    loaded = load_recipe(recipe, overrides)
    return make_plan(loaded, preflight(loaded, prompts=False))


def printed(plan: Plan) -> str:
    console = Console(record=True, width=120, file=io.StringIO())
    print_plan(plan, console)
    return console.export_text()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["Qwen2ForCausalLM", "LlamaForCausalLM"])
def test_parameters_are_those_of_the_checkpoint(tmp_path: Path, architecture: str, tied: bool) -> None:
    changes = {"architectures": [architecture], "tie_word_embeddings": tied}
    model = read_model_config(write_model(tmp_path, **changes))
    assert count_parameters(model) == sum(map(math.prod, shapes(CONFIG | changes).values()))


def test_ranks_count_tensor_first_then_data_then_pipeline(tmp_path: Path) -> None:
    plan = planned(write_recipe(tmp_path), "trainer.ranks=8", "trainer.pipeline_parallel=2")
    places = [(rank.pipeline, rank.data, rank.tensor) for rank in plan.ranks]
    assert places == [(p, d, t) for p in (0, 1) for d in (0, 1) for t in (0, 1)]
    assert [rank.rank for rank in plan.ranks] == list(range(8))


def test_stages_hold_all_parameters_once_and_a_copy_of_tied_embeddings(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    one = planned(recipe, "trainer.tensor_parallel=1", "trainer.ranks=1")
    assert one.ranks[0].parameters == one.parameters
    two = planned(recipe, "trainer.tensor_parallel=1", "trainer.ranks=2", "trainer.pipeline_parallel=2")
    assert sum(rank.parameters for rank in two.ranks) == two.parameters + 260 * 16


def test_uneven_stages_and_experts_are_counted(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, num_hidden_layers=3)
    even = ("trainer.tensor_parallel=1", "trainer.ranks=2", "trainer.pipeline_parallel=2")
    with pytest.raises(SrpoError, match="name the layers of every stage"):
        planned(recipe, *even)
    first, last = planned(recipe, *even, "trainer.pipeline_layers=[1,2]").ranks
    layer = last.parameters - first.parameters - 16  # the last stage has the last norm, too
    assert first.parameters == 260 * 16 + layer


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.pipeline_layers=[2]", "pipeline_layers has 1 entries"),
        ("trainer.expert_parallel=3", "expert_parallel 3 does not divide the 2 ranks of a pipeline stage"),
        ("trainer.pipeline_layers=[0,2]", "pipeline_layers"),
    ],
)
def test_pipelines_that_cannot_be_are_refused(tmp_path: Path, override: str, said: str) -> None:
    file = write_recipe(tmp_path)
    with pytest.raises(SrpoError, match=said):
        load_recipe(file, ["trainer.pipeline_parallel=2", override])
    with pytest.raises(SrpoError, match="virtual_pipeline_parallel needs pipeline_parallel"):
        load_recipe(file, ["trainer.virtual_pipeline_parallel=2"])


def test_a_window_must_hold_the_longest_sample(tmp_path: Path) -> None:
    file = write_recipe(tmp_path, architectures=["MistralForCausalLM"], sliding_window=93)
    with pytest.raises(SrpoError, match=r"= 94 is more than sliding_window 93 of .*config\.json.*lower one"):
        planned(file)
    assert planned(file, "rollout.max_response_tokens=63").batch.longest_sequence == 93


def test_memory_follows_data_type_and_data_parallel_size(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    rank = planned(recipe, "trainer.tensor_parallel=1", "trainer.ranks=1").ranks[0]
    full = rank.memory
    assert (full.weights, full.gradients, full.optimizer) == tuple(rank.parameters * n for n in (4, 4, 8))
    assert full.activations == full.logits == full.overhead == 0  # CPU ranks keep others
    half = (
        planned(recipe, "trainer.tensor_parallel=1", "trainer.ranks=2", "trainer.dtype=bfloat16").ranks[0].memory
    )
    assert (half.weights, half.optimizer) == (2 * rank.parameters, 6 * rank.parameters)


def test_the_kl_terms_reference_is_one_more_model(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    without, with_one = (
        planned(recipe, *more).ranks[0].memory for more in ((), ("algorithm.kl_coefficient=0.1",))
    )
    assert with_one.reference == with_one.weights == without.weights
    assert with_one.total == without.total + with_one.reference


STAGES = (
    "curriculum.stages=[{name: one, end: {steps: 9, plateau: {window: 5}}, "
    "overrides: {prompts_per_step: 2, learning_rate: 1e-5}}, {name: two}]"
)


def test_the_plan_shows_every_stage(tmp_path: Path) -> None:
    plan = planned(write_recipe(tmp_path), STAGES)
    one, two = plan.stages
    assert (one.mixture, one.prompts_per_step, one.learning_rate) == ({"math": 1.0}, 2, 1e-5)
    assert one.end == "9 steps or plateau of reward over 5 steps"
    assert (two.prompts_per_step, two.learning_rate, two.end) == (4, 1e-6, "the run's")
    assert [stage["stage"] for stage in plan.as_json()["stages"]] == ["one", "two"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("curriculum.stages=[{name: a}, {name: b}]", "stage a has no end, so b would never begin"),
        ("curriculum.stages=[{name: a, mixture: {code: 1}}]", "stage a draws from code, which is none"),
        ("curriculum.stages=[{name: a, end: {steps: 1}}, {name: a}]", "two stages are named a"),
        ("curriculum.stages=[]", "at least one stage"),
        ("curriculum.stages=[{name: a, overrides: {prompts_per_step: 3}}]", "prompts_per_step 3 in stage a"),
        ("curriculum.strategy=magic", "curriculum.strategy"),
        ("data.train={}", "data.train"),
        ("data.train={'a b': x}", "source 'a b'"),
    ],
)
def test_stages_that_cannot_be_are_refused(tmp_path: Path, override: str, said: str) -> None:
    file = write_recipe(tmp_path)
    with pytest.raises(SrpoError, match=said):
        load_recipe(file, ["trainer.updates_per_step=2", override])


def test_every_stages_lengths_are_checked(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_recipe(tmp_path), ["curriculum.stages=[{name: a, overrides: {max_response_tokens: 500}}]"]
    )
    with pytest.raises(SrpoError, match="rollout.max_response_tokens 500"):
        preflight(recipe, prompts=False)


def test_a_step_is_divided_into_updates(tmp_path: Path) -> None:
    batch = planned(write_recipe(tmp_path), "trainer.updates_per_step=2").batch
    assert (batch.samples_per_step, batch.samples_per_update) == (8, 4)
    assert batch.samples_per_update_and_data_rank == 2
    assert (batch.longest_sequence, batch.max_tokens_per_step) == (94, 8 * 94)
    assert (batch.steps, batch.updates) == (3, 6)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rollout.max_response_tokens=481", "needs 513 positions"),
        ("trainer.max_tokens_per_microbatch=93", "trainer.max_tokens_per_microbatch 93"),
        ("engine.max_total_tokens=95", "engine.max_total_tokens is 95"),
        ("algorithm={overlong: soft_penalty, overlong_buffer: 65}", "algorithm.overlong_buffer 65 is longer"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(tmp_path: Path, override: str, said: str) -> None:
    file = write_recipe(tmp_path)
    recipe = load_recipe(file, ["trainer.max_tokens_per_microbatch=1000", override])
    with pytest.raises(SrpoError, match=said):
        check_lengths(read_model_config(recipe.model.path), recipe)


def test_lengths_that_just_fit_are_accepted(tmp_path: Path) -> None:
    exact = (
        "rollout.max_response_tokens=480",
        "trainer.max_tokens_per_microbatch=510",
        "engine.max_total_tokens=512",
    )
    assert planned(write_recipe(tmp_path), *exact).batch.longest_sequence == 510


def test_fewer_samples_than_data_parallel_ranks_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["trainer.ranks=32", "trainer.tensor_parallel=1"])
    with pytest.raises(SrpoError, match="8 samples for 32 data-parallel ranks"):
        check_lengths(read_model_config(recipe.model.path), recipe)


def test_both_forms_of_the_plan_count_every_process(tmp_path: Path) -> None:
    plan = planned(write_recipe(tmp_path), "engine.count=2")
    shown = json.loads(json.dumps(plan.as_json()))
    assert [rank["rank"] for rank in shown["trainer"]] == [0, 1, 2, 3]
    assert len(shown["engines"]) == 2
    assert shown["recipe"]["engine"]["count"] == 2
    assert (shown["gpu"], shown["fits"], shown["training"]) == (None, None, None)
    assert "small: on CPUs, 4 processes train, 2 serve 2 engines;" in printed(plan)


def test_context_parallel_ranks_come_between_tensor_and_data(tmp_path: Path) -> None:
    plan = planned(write_recipe(tmp_path), "trainer.ranks=8", "trainer.context_parallel=2")
    places = [(rank.data, rank.context, rank.tensor) for rank in plan.ranks]
    assert places == [(d, c, t) for d in (0, 1) for c in (0, 1) for t in (0, 1)]
