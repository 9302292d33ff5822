"""Training checkpoints: bit-identical continuation, other layouts, broken files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ranks import Layout, recipe_values, record_steps, run_ranks


@pytest.fixture(scope="module")
def run(tiny_hf: Callable[..., Path], tmp_path_factory: Any) -> dict[str, Any]:
    """Four steps in one go, and two steps with a checkpoint behind them, on two tensor-parallel ranks."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny_hf(layers=4, tied=True)
    steps = [str(path) for path in record_steps(folder / "rollouts", 4)]
    jobs = [
        {"kind": "train", "model": str(model), "steps": steps},
        {"kind": "train", "model": str(model), "steps": steps[:2], "save": str(folder / "checkpoints")},
    ]
    ranks = run_ranks(folder / "ranks", recipe_values(model, Layout(tensor=2)), jobs)
    return {"folder": folder, "model": model, "steps": steps, "straight": [r["results"][0] for r in ranks]}


def resume(run: dict[str, Any], layout: Layout) -> list[dict[str, Any]]:
    job = {
        "kind": "train",
        "model": str(run["model"]),
        "steps": run["steps"][2:],
        "load": str(run["folder"] / "checkpoints"),
        "version": 2,
    }
    ranks = run_ranks(run["folder"] / f"resume-{layout}", recipe_values(run["model"], layout), [job])
    return [rank["results"][0] for rank in ranks]


def test_resume_is_bit_identical(run: dict[str, Any]) -> None:
    for resumed, straight in zip(resume(run, Layout(tensor=2)), run["straight"], strict=True):
        assert resumed["version"] == straight["version"] == 4
        assert resumed["weights"] == straight["weights"]


def test_resume_on_another_layout(run: dict[str, Any]) -> None:
    for resumed in resume(run, Layout(pipeline=2)):
        for ours, theirs in zip(resumed["metrics"], run["straight"][0]["metrics"][2:], strict=True):
            for name in ("loss", "grad_norm", "learning_rate"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
