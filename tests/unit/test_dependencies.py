"""What the package imports is what pyproject.toml asks for; else it works only where somebody installed more."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "megatron_srpo"
NOT_OURS_TO_INSTALL = {"sglang"}  # in an environment of its own


def imported() -> set[str]:
    """The top-level modules of others that any file imports, at its beginning or later."""
    found = set[str]()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names) - {PACKAGE.name} - NOT_OURS_TO_INSTALL


def declared() -> set[str]:
    """Names of the distributions that the package asks for, extras included."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for of in project["optional-dependencies"].values() for one in of)]
    return {_plain(re.split(r"[\[<>=!~; ]", one)[0]) for one in wanted}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_declared() -> None:
    distributions, wanted = packages_distributions(), declared()
    missing = {
        module
        for module in imported()
        if not {_plain(name) for name in distributions.get(module, [module])} & wanted
    }
    assert missing == set()
