"""Turn pydantic's findings into sentences: which file, which key, what was found, what is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from megatron_srpo.recipe.schema import Recipe

Location = Sequence[str | int]
ALIKE = 1.25  # of at most 2: likeness of the whole dotted key plus likeness of its last part


def dotted(location: Location) -> str:
    """`("trainer", "betas", 0)` as `trainer.betas[0]`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def schema_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the schema, sections included; `*` stands where a recipe has names of its own."""
    for name, field in model.model_fields.items():
        yield prefix + name
        names = ".*" if get_origin(field.annotation) is dict else ""
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from schema_keys(kind, f"{prefix}{name}{names}.")


def _keys_beside(key: str, model: type[BaseModel]) -> list[str]:
    """The schema's keys with the names that `key` has in the places of theirs."""
    parts = key.split(".")

    def named(candidate: str) -> str:
        theirs = candidate.split(".")
        own = [part if part != "*" or at >= len(parts) else parts[at] for at, part in enumerate(theirs)]
        return ".".join(own)

    return [named(candidate) for candidate in schema_keys(model)]


def nearest_key(key: str, model: type[BaseModel] = Recipe) -> str | None:
    """The schema's key most like `key`, wherever it stands, or None when nothing is alike."""

    def likeness(candidate: str) -> float:
        whole = SequenceMatcher(None, key, candidate).ratio()
        last = SequenceMatcher(None, key.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return whole + last

    best = max(_keys_beside(key, model), key=likeness)
    return best if likeness(best) >= ALIKE else None


def explain(
    error: ValidationError,
    file: str,
    source_of: Callable[[Location], str | None],
    model: type[BaseModel] = Recipe,
) -> str:
    """One sentence, or a headline and a line for each of several findings.

    Args:
        error: what pydantic found in the merged recipe.
        file: the recipe file that the user named.
        source_of: the file or override that a location's value came from.
        model: the schema that was not met.
    """
    findings = [_finding(item, file, source_of, model) for item in error.errors(include_url=False)]
    if len(findings) == 1:
        return findings[0]
    return "\n".join([f"{file}: {len(findings)} things are wrong.", *(f"  {line}" for line in findings)])


def _finding(item: Any, file: str, source_of: Callable[[Location], str | None], model: type[BaseModel]) -> str:
    """One pydantic error as a sentence."""
    location: Location = item["loc"]
    key, kind = dotted(location), item["type"]
    source = source_of([part for part in location if isinstance(part, str)]) or file
    if kind == "extra_forbidden":
        near = nearest_key(key, model)
        advice = f"did you mean {near}?" if near else f"the keys here are {_siblings(location, model)}."
        return f"{source}: unknown key {key}; {advice}"
    if kind == "missing":
        return f"{file}: the key {key} is missing; it has no default, so the recipe must set it."
    if kind == "value_error":
        return f"{source}: {key + ': ' if key else ''}{item['ctx']['error']}."
    expected = item["msg"].removeprefix("Input should be ")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        expected = "a section with keys of its own"
    if expected == item["msg"]:
        return f"{source}: {key} is {_found(item['input'])}: {expected}."
    return f"{source}: {key} is {_found(item['input'])}, expected {expected}."


def _found(value: Any) -> str:
    """What the recipe says, short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _siblings(location: Location, model: type[BaseModel]) -> str:
    """The keys that the section of an unknown key has."""
    prefix = dotted(location[:-1])
    return ", ".join(
        key for key in _keys_beside(prefix, model) if key.rpartition(".")[0] == prefix and key != prefix
    )
