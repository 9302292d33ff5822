"""From YAML files and `key=value` overrides to a checked `Recipe`.

A file may start from another one with `base: other.yaml`, looked up beside the file that names it.  Later
layers win: base, file, overrides.  Mappings are merged key by key; everything else, lists too, is replaced, and an
empty mapping empties the one below it (`heldout: {}`).

Paths inside a recipe (`model.path`, `data.train`, ...) are left as they are written: a relative one is meant
from the directory in which the command runs, and `preflight` says where it looked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe import yaml_form
from megatron_srpo.recipe.explain import explain
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.recipe.section import Section

BASE = "base"
OF_SOURCES = ("data.train.", "data.heldout.")  # whose values may be written as their path alone
OF_ABLATIONS = {"recipe", "arms"}  # keys that no recipe has
Model = TypeVar("Model", bound=Section)


@dataclass(frozen=True)
class Layer:
    """One source of values: a file or an override, in the order in which they apply."""

    source: str
    values: dict[str, Any]


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read `path` with everything it builds on, apply `key=value` overrides, and check the whole.

    Raises:
        SrpoError: naming the file and the dotted key, with one line for each thing that is wrong.
    """
    return load_checked(Recipe, Path(path), overrides)


def load_checked(model: type[Model], path: Path, overrides: Sequence[str] = ()) -> Model:
    """The same for a file of another schema.

    Raises:
        SrpoError: as `load_recipe`.
    """
    layers = [*_file_layers(path, ()), *(_override_layer(text) for text in overrides)]
    if model is Recipe and layers[0].values.keys() >= OF_ABLATIONS:
        raise SrpoError(f"{path}: this is an ablation, not a recipe; run it with srpo ablate {path}.")
    return _checked(model, layers, str(path))


def load_reward_section(overrides: Sequence[str]) -> RewardSection:
    """The reward section without a recipe: the defaults with `reward.key=value` overrides on them.

    Raises:
        SrpoError: as `load_recipe`.
    """
    return _checked(OnlyReward, [_override_layer(text) for text in overrides], "the command line").reward


class OnlyReward(Section):
    """A recipe of which nothing but the reward is asked."""

    reward: RewardSection = RewardSection()


def _checked(model: type[Model], layers: Sequence[Layer], name: str) -> Model:
    """The layers, one on top of the other, as an object of the schema; `name` is the file for messages."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer.values, layer.source, "")
    try:
        # JSON in strict mode: a list is a tuple and text is a path, but "8" is no number and true is no 1.
        return model.model_validate_json(json.dumps(merged), strict=True)
    except ValidationError as error:
        raise SrpoError(explain(error, name, lambda location: source_of(layers, location), model)) from None


def resolved_yaml(recipe: Recipe) -> str:
    """Every value of the recipe as YAML that `load_recipe` reads back to an equal recipe."""
    return yaml_form.dump(recipe.model_dump(mode="json"))


def source_of(layers: Sequence[Layer], location: Sequence[str | int]) -> str | None:
    """The last layer that says something at `location`, or None."""
    for layer in reversed(layers):
        value: Any = layer.values
        for part in location:
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
            if not isinstance(value, Mapping):
                return layer.source
        else:
            if location:
                return layer.source
    return None


def _file_layers(path: Path, above: tuple[Path, ...]) -> list[Layer]:
    """The layers of a file: those of its base first."""
    here = path.resolve()
    if here in above:
        chain = " -> ".join(str(item) for item in (*above[above.index(here) :], here))
        raise SrpoError(f"{path}: base leads back to the same file ({chain}); remove one of these base keys.")
    values = _read(path, above)
    base = values.pop(BASE, None)
    if base is None:
        return [Layer(str(path), values)]
    return [*_file_layers(path.parent / base, (*above, here)), Layer(str(path), values)]


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The mapping in a file, its `base` checked to be text."""
    named = f" (base of {above[-1]})" if above else ""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SrpoError(f"{path}{named}: cannot be read ({reason}); looked for {path.absolute()}.") from None
    except UnicodeDecodeError as error:
        raise SrpoError(f"{path}: not UTF-8 text at byte {error.start}; save the recipe as UTF-8.") from None
    try:
        values = yaml_form.parse(text)
    except yaml.YAMLError as error:
        raise SrpoError(f"{path}: {yaml_form.describe(error)}.") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise SrpoError(f"{path}: a recipe is a mapping of keys to values, found {found}.")
    if BASE in values and not isinstance(values[BASE], str):
        raise SrpoError(f"{path}: base is {values[BASE]!r}, but must be the path of one recipe file.")
    return values


def _override_layer(text: str) -> Layer:
    """`a.b=value` as a layer; the value is read as YAML, so that numbers, lists and null are such."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise SrpoError(f"override {text!r}: expected key=value, for example rollout.prompts_per_step=8.")
    if not value.strip():
        raise SrpoError(f"override {text!r}: there is no value after the = sign; write {key}=null for none.")
    try:
        parsed = yaml_form.parse(value)
    except yaml.YAMLError as error:
        raise SrpoError(
            f"override {text!r}: the value is not YAML ({yaml_form.describe(error)}); quote it if it is text."
        ) from None
    for part in reversed(parts):
        parsed = {part: parsed}
    return Layer(f"override {text}", parsed)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any], source: str, prefix: str) -> dict[str, Any]:
    """`under` with the values of `over` laid on top, mapping by mapping."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if not isinstance(value, Mapping) or not value:
            merged[key] = value
        elif below is None or isinstance(below, Mapping):
            merged[key] = _merge(below or {}, value, source, f"{prefix}{key}.")
        elif isinstance(below, str) and prefix in OF_SOURCES:
            merged[key] = _merge({"path": below}, value, source, f"{prefix}{key}.")
        else:
            raise SrpoError(
                f"{source}: {prefix}{key} is the single value {below!r} in an earlier layer, "
                f"so it has no keys {', '.join(map(str, value))} to set."
            )
    return merged
