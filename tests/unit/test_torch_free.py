"""The controller's side of the program never imports torch."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import megatron_srpo

PACKAGES = (
    *("ablation", "checkpoints", "plan", "recipe", "curriculum", "data"),
    *("doctor", "rewards", "launch", "observe", "workers"),
)
MODULES = (
    "actor.packing",
    "errors",
    "files",
    "cli",
    "controller",
    "rollout.client",
    "rollout.collect",
    "rollout.engine",
    "rollout.evaluate",
    "rollout.journal",
    "sync.announce",
)
CHECK = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{name} imports torch")
"""


def torch_free_modules() -> list[str]:
    """The modules that the design calls torch-free, and everything in the packages that it calls so."""
    found = [f"megatron_srpo.{name}" for name in MODULES]
    for name in PACKAGES:
        folder = Path(megatron_srpo.__path__[0]) / name
        found.append(f"megatron_srpo.{name}")
        found += [m.name for m in pkgutil.walk_packages([str(folder)], f"megatron_srpo.{name}.")]
    return found


def imported(*modules: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CHECK, *modules], capture_output=True, text=True, check=False)


def test_no_torch_free_module_imports_torch() -> None:
    modules = torch_free_modules()
    assert "megatron_srpo.recipe.load" in modules
    result = imported(*modules)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_check_notices_torch() -> None:
    assert "torch imports torch" in imported("torch").stderr


def test_reading_data_and_scoring_do_not_import_torch(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from megatron_srpo.data.problems import load_problems
from megatron_srpo.rewards.math.judge import answers_agree
from tests.unit.folders import write_problems
assert len(load_problems(write_problems(Path(sys.argv[1]), ["x"]))) == 1
assert answers_agree("0.5", "1/2")
assert "torch" not in sys.modules
"""
    root = Path(megatron_srpo.__path__[0]).parent
    command = [sys.executable, "-c", code, str(tmp_path / "p.parquet")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert (result.returncode, result.stderr) == (0, "")
