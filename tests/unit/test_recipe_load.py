"""Recipes from files, bases and overrides; what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe import yaml_form
from megatron_srpo.recipe.explain import nearest_key, schema_keys
from megatron_srpo.recipe.load import load_recipe, resolved_yaml

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted(p.stem for p in (REPOSITORY / "recipes").glob("*.yaml") if not p.stem.startswith("ablation"))
SMALL = "name: small\nsteps: 3\nmodel: {path: m}\ndata: {train: {math: t.parquet}}\n"


def written(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(SrpoError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_a_base_is_found_beside_its_file_and_later_layers_win(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    written(tmp_path / "shared", SMALL + "rollout: {prompts_per_step: 2, temperature: 0.5}\n", "root.yaml")
    written(tmp_path / "shared", "base: root.yaml\nrollout: {prompts_per_step: 4}\nseed: 7\n", "middle.yaml")
    recipe = load_recipe(
        written(tmp_path, "base: shared/middle.yaml\nsteps: 9\nengine: {extra_args: [--a, --b]}\n"),
        ["rollout.samples_per_prompt=16", "engine.extra_args=[--c]"],
    )
    assert (recipe.steps, recipe.seed) == (9, 7)
    assert (recipe.rollout.prompts_per_step, recipe.rollout.temperature) == (4, 0.5)
    assert recipe.rollout.samples_per_prompt == 16
    assert recipe.engine.extra_args == ("--c",)


def test_mappings_are_merged_and_an_empty_one_empties(tmp_path: Path) -> None:
    written(tmp_path, SMALL.replace("}}\n", "}, heldout: {math: h}}\n"), "root.yaml")
    more = load_recipe(written(tmp_path, "base: root.yaml\ndata: {heldout: {code: c}}\n", "more.yaml"))
    assert {name: source.path for name, source in more.data.heldout.items()} == {
        "math": Path("h"),
        "code": Path("c"),
    }
    assert load_recipe(written(tmp_path, "base: root.yaml\ndata: {heldout: {}}\n", "none.yaml")).data.heldout == {}


def test_a_cycle_of_bases_is_refused(tmp_path: Path) -> None:
    a = written(tmp_path, "base: b.yaml\n", "a.yaml")
    written(tmp_path, "base: a.yaml\n", "b.yaml")
    message = refused(a)
    assert "back to the same file" in message
    assert "b.yaml" in message


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("trainer.optimizer.learning_rate=1e-5", 1e-5),
        ("trainer.optimizer.learning_rate=3", 3.0),
        ("trainer.optimizer.betas=[0.8, .99]", (0.8, 0.99)),
        ("run_dir=null", None),
        ("engine.extra_args=[]", ()),
        ("seed=010", 10),
        ("name=1e5x", "1e5x"),
        ("name='123'", "123"),
        ("trainer.sequence_parallel=true", True),
    ],
)
def test_overrides_are_yaml_scalars(tmp_path: Path, override: str, value: Any) -> None:
    text = SMALL + "trainer: {ranks: 2, tensor_parallel: 2}\n"
    recipe: Any = load_recipe(written(tmp_path, text), [override])
    for part in override.partition("=")[0].split("."):
        recipe = getattr(recipe, part)
    assert recipe == value


def test_short_exponents_are_numbers_in_files_too(tmp_path: Path) -> None:
    text = SMALL + "trainer: {optimizer: {learning_rate: 1e-5}}\n"
    assert load_recipe(written(tmp_path, text)).trainer.optimizer.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.ranks=two", "trainer.ranks is 'two', expected a valid integer"),
        ("trainer.ranks='2'", "trainer.ranks is '2', expected a valid integer"),
        ("trainer.ranks=true", "trainer.ranks is True, expected a valid integer"),
        ("trainer.ranks=0", "trainer.ranks is 0, expected greater than 0"),
        ("trainer.optimizer.betas=[0.9, 2]", "trainer.optimizer.betas[1] is 2, expected less than"),
        ("trainer.sequence_parallel=yes", "trainer.sequence_parallel is 'yes', expected a valid boolean"),
        ("engine.dtype=int8", "engine.dtype is 'int8', expected 'float32', 'bfloat16' or 'float16'"),
        ("trainer.optimizer.learning_rate=.inf", "expected a finite number"),
        ("rollout=8", "rollout is 8, expected a section"),
        ("data.prompt_template=hello", "data: prompt_template must contain {question}"),
        ("rollout.promts_per_step=8", "unknown key rollout.promts_per_step; did you mean rollout.prompts"),
        ("optimizer.learning_rate=1", "did you mean trainer.optimizer?"),
        ("trainer.learning_rate=1", "did you mean trainer.optimizer.learning_rate?"),
        (
            "checkpoint.zzzz=1",
            "unknown key checkpoint.zzzz; the keys here are checkpoint.every, checkpoint.keep",
        ),
        ("trainer.fp8={recipe: mxfp8}", "trainer.fp8.recipe is 'mxfp8', expected 'delayed', 'tensorwise' or"),
        (
            "trainer.fp8={recipe: delayed, first_layers_bf16: 1}",
            "fp8 delayed cannot keep first or last layers in bfloat16",
        ),
        ("trainer.fp8={recipe: delayed, parameters: true}", "fp8 delayed cannot keep parameters in 8 bits"),
        ("trainer={fp8: {}, dtype: float32}", "fp8 computes beside bfloat16, but dtype is float32"),
        ("trainer={fp8: {}, device: cpu}", "fp8 needs GPUs, but device is cpu"),
        ("trainer.overlap_parameter_gather=true", "overlap_parameter_gather needs overlap_gradient_reduce"),
        ("trainer={ranks: 3, context_parallel: 2}", "ranks 3 is not a multiple of tensor_parallel 1 x"),
        ("trainer={ranks: 3, context_parallel: 2}", "= 2; set ranks to 2 or 4."),
        ("trainer={ranks: 3, context_parallel: 4}", "= 4; set ranks to 4."),
        ("trainer.sequence_parallel=true", "of 2 or more; set it to false or raise tensor_parallel."),
        (
            "trainer={fp8: {recipe: delayed}, recompute: {granularity: selective, modules: [mlp, layernorm]}}",
            "fp8 delayed cannot recompute layernorm; use tensorwise or blockwise",
        ),
        (
            "trainer={ranks: 4, context_parallel: 2, data_parallel: 1}",
            "x context_parallel 2 x data_parallel 1 = 2, but trainer.ranks is 4",
        ),
        ("trainer.recompute.layers=2", "recompute.layers is for granularity full, not none"),
        ("trainer.recompute={granularity: selective, modules: []}", "recompute selective needs modules"),
        ("steps", "expected key=value"),
        ("seed=", "no value after the = sign"),
        ("seed=[1", "the value is not YAML"),
        ("steps.x=1", "steps is the single value 3"),
    ],
)
def test_a_wrong_override_is_named_with_what_is_right(tmp_path: Path, override: str, said: str) -> None:
    message = refused(written(tmp_path, SMALL), override)
    assert said in message
    assert f"override {override}" in message or f"override {override!r}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.updates_per_step=2", "which trainer.updates_per_step above 1 has passes beside"),
        ("algorithm.kl_coefficient=0.1", "which algorithm.kl_coefficient has passes beside"),
    ],
)
def test_delayed_scaling_knows_the_training_passes_alone(tmp_path: Path, override: str, said: str) -> None:
    recipe = written(tmp_path, SMALL)
    assert said in refused(recipe, "trainer.fp8={recipe: delayed}", override)
    assert load_recipe(recipe, ["trainer.fp8={recipe: tensorwise}", override]).trainer.fp8 is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: 3\nsteps: 4\n", "line 2, column 1: the key steps stands twice, on lines 1 and 2"),
        ("rollout: {top_p: 1, top_p: 0.5}\n", "the key top_p stands twice"),
        ("1: 2\n", "a key must be plain text"),
        ("a: [\n", "line 2"),
        ("- a\n", "a recipe is a mapping"),
        ("", "found nothing"),
        ("base: [a]\n", "base is ['a']"),
        ("base: gone.yaml\n", "gone.yaml"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
        ("a: !!binary aGk=\n", "could not determine a constructor"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    message = refused(written(tmp_path, text))
    assert said in message
    assert "recipe.yaml" in message


def test_an_ablation_is_no_recipe(tmp_path: Path) -> None:
    file = written(tmp_path, "recipe: small.yaml\narms: {a: {}}\n")
    assert refused(file) == f"{file}: this is an ablation, not a recipe; run it with srpo ablate {file}."


def test_the_layer_that_holds_the_wrong_value_is_named(tmp_path: Path) -> None:
    written(tmp_path, SMALL + "rollout: {temperature: hot}\n", "root.yaml")
    message = refused(written(tmp_path, "base: root.yaml\nrollout: {top_k: 5}\n"), "seed=3")
    assert message.startswith(str(tmp_path / "root.yaml"))


def test_several_findings_each_have_a_line(tmp_path: Path) -> None:
    lines = refused(written(tmp_path, "name: x\nsteps: 0\nmodel: {path: m}\n")).splitlines()
    assert lines[0].endswith("2 things are wrong.")
    assert len(lines) == 3
    assert "steps is 0" in lines[1] + lines[2]
    assert "the key data is missing" in lines[1] + lines[2]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_and_resolve_to_themselves(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(REPOSITORY / "recipes" / f"{name}.yaml")
    assert load_recipe(written(tmp_path, resolved_yaml(recipe))) == recipe


def test_every_default_is_valid_by_the_schema(tmp_path: Path) -> None:
    # Defaults are not validated when they apply; a resolved recipe states and so checks all of them.
    recipe = load_recipe(written(tmp_path, SMALL))
    assert load_recipe(written(tmp_path, resolved_yaml(recipe), "again.yaml")) == recipe


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_yaml_is_read_back_as_written(value: Any) -> None:
    assert yaml_form.parse(yaml_form.dump(value)) == value


def test_a_known_key_is_nearest_to_itself() -> None:
    assert all(nearest_key(key) == key for key in schema_keys())
