"""`srpo doctor RECIPE`: what a recipe asks of machines that are made-up facts."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_srpo.doctor import recipe
from megatron_srpo.doctor.ask import Trouble
from megatron_srpo.doctor.facts import (
    Facts,
    Gpu,
)
from megatron_srpo.recipe.schema import Recipe
from tests.unit.machines import (
    A100,
    CPU_MACHINE,
    CPU_TORCH,
    H100,
    L40,
    V100,
    a_recipe,
    gpu_machine,
    said,
)


def of_recipe(facts: Facts, **sections: dict[str, Any]) -> dict[str, str]:
    return {found.name: said(found) for found in recipe.check_recipe(a_recipe(**sections), facts)}


def test_a_recipe_on_a_machine_that_has_it_all() -> None:
    ranks = {"ranks": 6, "tensor_parallel": 2}
    assert of_recipe(gpu_machine(*[H100] * 8), trainer=ranks, engine={"count": 2}) == {
        "trainer.device": "ok: auto, which is cuda here",
        "engine.device": "ok: auto, which is cuda here",
        "trainer.dtype": "ok: bfloat16",
        "engine.dtype": "ok: bfloat16",
        "GPUs": "ok: trainer.ranks 6 + engine.count 2 x engine.tensor_parallel 1 = 8, this machine has 8",
    }
    assert of_recipe(CPU_MACHINE) == {
        "trainer.device": "ok: auto, which is cpu here",
        "engine.device": "ok: auto, which is cpu here",
    }
    assert of_recipe(gpu_machine(H100), trainer={"device": "cpu"}, engine={"backend": "deterministic"}) == {
        "trainer.device": "ok: cpu",
        "engine.device": "ok: auto, which is cpu here",
    }


@pytest.mark.parametrize(
    ("facts", "sections", "name", "expected"),
    [
        (CPU_MACHINE, {"trainer": {"device": "cuda"}}, "trainer.device", "error: cuda, but torch can use no GPU"),
        (CPU_MACHINE, {"engine": {"device": "cuda"}}, "engine.device", "error: cuda, but no GPU can be seen"),
        (
            gpu_machine(H100, transformer_engine=None),
            {},
            "trainer.device",
            "error: auto, which is cuda here, but transformer-engine is missing",
        ),
        (
            gpu_machine(H100, transformer_engine=Trouble("ended")),
            {"trainer": {"device": "cuda"}},
            "trainer.device",
            "error: cuda, but transformer-engine is broken",
        ),
        (
            gpu_machine(H100, engine=CPU_MACHINE.engine),
            {},
            "engine.device",
            "error: auto, which is cuda here, but the engine's torch is 2.13.0+cpu",
        ),
        (
            gpu_machine(A100, V100),
            {},
            "trainer.dtype",
            "error: bfloat16 on V100, whose compute capability 7.0 is below 8.0",
        ),
        (gpu_machine(A100, V100), {"trainer": {"dtype": "float32"}}, "trainer.dtype", "ok: float32"),
        (
            gpu_machine(A100, V100),
            {},
            "engine.dtype",
            "warning: bfloat16 on V100, whose compute capability 7.0 is below 8.0",
        ),
        (
            gpu_machine(*[H100] * 8),
            {"trainer": {"ranks": 8}, "engine": {"count": 2, "tensor_parallel": 4}},
            "GPUs",
            "error: trainer.ranks 8 + engine.count 2 x engine.tensor_parallel 4 = 16, this machine has 8",
        ),
        (
            gpu_machine(H100, torch=CPU_TORCH),
            {"trainer": {"ranks": 8}, "engine": {"count": 2}},
            "GPUs",
            "error: engine.count 2 x engine.tensor_parallel 1 = 2, this machine has 1",
        ),
    ],
)
def test_what_a_recipe_cannot_have(facts: Facts, sections: dict[str, Any], name: str, expected: str) -> None:
    assert of_recipe(facts, **sections)[name] == expected


def with_fp8(kind: str | None) -> Recipe:
    """A recipe whose trainer computes in FP8, or does not."""
    fp8 = None if kind is None else {"recipe": kind}
    return a_recipe(trainer={"fp8": fp8, "dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("gpu", "fp8", "expected"),
    [
        (H100, "blockwise", "ok: blockwise"),
        (L40, "blockwise", "error: blockwise on L40, whose compute capability is 8.9"),
        (L40, "delayed", "ok: delayed"),
        (L40, "tensorwise", "ok: tensorwise"),
        (A100, "delayed", "error: delayed on A100, whose compute capability is 8.0"),
        (A100, None, None),
    ],
)
def test_fp8(gpu: Gpu, fp8: str | None, expected: str | None) -> None:
    found = {one.name: said(one) for one in recipe.check_recipe(with_fp8(fp8), gpu_machine(gpu, H100))}
    assert found.get("trainer.fp8") == expected


def test_fp8_on_a_cpu() -> None:
    found = {one.name: said(one) for one in recipe.check_recipe(with_fp8("delayed"), CPU_MACHINE)}
    assert found["trainer.fp8"] == "error: delayed, but ranks train on the CPU here"
