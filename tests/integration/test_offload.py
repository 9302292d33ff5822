"""Optimizer state in the host's memory: the same bits and checkpoints, nothing on the device between updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.checkpoints.manifest import Manifest
from megatron_srpo.checkpoints.verify import check_files
from tests.architectures import write_tiny
from tests.integration.ranks import Layout, recipe_values, record_steps, run_ranks

OVERLAP = {"overlap_gradient_reduce": True, "overlap_parameter_gather": True}
# Model, layout, and what the trainer's section has besides.
CASES: dict[str, tuple[str, Layout, dict[str, Any]]] = {
    "float32": ("qwen3", Layout(), {}),
    "bfloat16": ("qwen3", Layout(), {"dtype": "bfloat16"}),
    "experts, data parallel": ("qwen2_moe", Layout(data=2), {"expert_parallel": 2, **OVERLAP}),
}
RUNS = ("plain", "offload", "resumed")
Found = dict[str, Any]


def jobs_of(case: str, folder: Path, steps: list[str]) -> list[dict[str, Any]]:
    """Four steps without and with offload, and with it from the second one's checkpoint."""
    architecture, layout, trainer = CASES[case]
    model = write_tiny(architecture, folder / "model")
    section = recipe_values(model, layout, **trainer)["trainer"]
    offload = section | {"optimizer": section["optimizer"] | {"offload": True}}
    job = {"kind": "offload", "model": str(model)}
    return [
        job | {"trainer": section, "steps": steps, "to": str(folder / "plain")},
        job | {"trainer": offload, "steps": steps, "to": str(folder / "offload")},
        job
        | {"trainer": offload, "steps": steps[2:], "load": str(folder / "offload"), "to": str(folder / "resumed")},
    ]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: Any) -> dict[str, Found]:
    """What each rank found in each run of each case; one start for each layout."""
    root = tmp_path_factory.mktemp("offload")
    steps = [str(path) for path in record_steps(root / "rollouts", 4)]
    found: dict[str, Found] = {}
    for layout in {layout for _, layout, _ in CASES.values()}:
        cases = [case for case in CASES if CASES[case][1] == layout]
        jobs = [job for case in cases for job in jobs_of(case, root / case, steps)]
        ranks = run_ranks(root / str(layout), recipe_values(root, layout), jobs)
        for number, case in enumerate(cases):
            found[case] = {"folder": root / case}
            for place, run in enumerate(RUNS, len(RUNS) * number):
                found[case][run] = [rank["results"][place] for rank in ranks]
    return found


@pytest.fixture(params=CASES)
def found(request: pytest.FixtureRequest, everything: dict[str, Found]) -> Found:
    return everything[request.param]


def test_training_has_the_same_bits(found: Found) -> None:
    for plain, offload in zip(found["plain"], found["offload"], strict=True):
        for what in ("metrics", "weights", "state", "bytes"):
            assert offload[what] == plain[what], what
    assert len({rank["state"] for rank in found["plain"]}) == len(found["plain"]), "ranks have shares of their own"


def test_state_has_no_storage_while_gradients_are_computed(found: Found) -> None:
    for rank in found["offload"]:
        for when in ("forward", "backward"):
            assert len(rank["held"][when]) > 8 and not any(rank["held"][when]), when
    for rank in found["plain"]:
        assert rank["held"]["forward"][-1] == rank["held"]["backward"][-1] == rank["bytes"] > 0


def test_a_save_beside_training_is_the_same(found: Found) -> None:
    plain, offload = (Manifest.read(found["folder"] / name / "step-000002") for name in ("plain", "offload"))
    assert offload.optimizer.bytes > 0
    for name in set(plain.files) - {"recipe.yaml"}:
        assert offload.files[name] == plain.files[name], name
    assert check_files(found["folder"] / "offload" / "step-000002", offload.files) == []


def test_going_on_is_exact(found: Found) -> None:
    for straight, resumed in zip(found["plain"], found["resumed"], strict=True):
        assert resumed["metrics"] == straight["metrics"][2:]
        for what in ("weights", "state"):
            assert resumed[what] == straight[what], what
        assert not any(resumed["held"]["forward"] + resumed["held"]["backward"])


def test_master_weights_go_too(everything: dict[str, Found]) -> None:
    (float32,), (bfloat16,) = everything["float32"]["offload"], everything["bfloat16"]["offload"]
    assert bfloat16["bytes"] == 12 / 8 * float32["bytes"]
    # The first forward pass is before there are moments.
    (plain,) = everything["bfloat16"]["plain"]
    assert plain["held"]["forward"][0] == 4 / 12 * plain["bytes"]
