"""Reading and writing recipe YAML: scalars as YAML 1.2 has them, no key twice, errors with their line.

PyYAML follows YAML 1.1, where `1e-5` is text, `010` is eight, `no` is false and `1:30` is ninety.  A recipe
wants none of that, so the scalar rules are stated here once, for reading and for writing alike.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
INT = re.compile(r"^[-+]?[0-9]+$")
FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.inf|\.nan)$"
)
NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
MERGE = re.compile(r"^<<$")

_RULES: tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...] = (
    ("tag:yaml.org,2002:bool", BOOL, tuple("tTfF")),
    ("tag:yaml.org,2002:int", INT, tuple("-+0123456789")),
    ("tag:yaml.org,2002:float", FLOAT, tuple("-+0123456789.")),
    ("tag:yaml.org,2002:null", NULL, ("~", "n", "N", "")),
    ("tag:yaml.org,2002:merge", MERGE, ("<",)),
)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The scalar rules in PyYAML's form: by first character, in order."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, firsts in _RULES:
        for first in firsts:
            table.setdefault(first, []).append((tag, pattern))
    return table


class RecipeLoader(yaml.SafeLoader):
    """A safe loader with YAML 1.2 scalars that refuses a key written twice."""

    yaml_implicit_resolvers = _resolvers()
    # No dates, sets, bytes or other tags: a recipe holds what JSON holds.
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: build
        for tag, build in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "str", "seq", "map")
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicated and non-text keys, then build the mapping."""
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be plain text", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key_node.value} stands twice, on lines {seen[key_node.value]} and {line}",
                    key_node.start_mark,
                )
            seen[key_node.value] = line
        return super().construct_mapping(node, deep=deep)


def _construct_int(loader: RecipeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


def _construct_float(loader: RecipeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).replace(".inf", "inf").replace(".nan", "nan"))


RecipeLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
RecipeLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class RecipeDumper(yaml.SafeDumper):
    """A dumper that quotes exactly the text that `RecipeLoader` would take for something else."""

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out in full: anchors do not help a reader."""
        return True


def parse(text: str) -> Any:
    """The value of one YAML document.

    Raises:
        yaml.YAMLError: when the text is not YAML, uses a tag, or repeats a key.
    """
    # A subclass of SafeLoader: it builds plain values and nothing else.
    return yaml.load(text, Loader=RecipeLoader)


def dump(value: Any) -> str:
    """`value` as YAML that `parse` reads back to the same value."""
    return yaml.dump(value, Dumper=RecipeDumper, sort_keys=False, width=110)


def describe(error: yaml.YAMLError) -> str:
    """What is wrong and where, on one line."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return f"{where}{error.problem or error.context or 'not valid YAML'}"
    return " ".join(str(error).split())
