"""The actor on one GPU: tokens/s, model FLOPs utilisation and memory in bfloat16 and each FP8 recipe; loss curves.

    python tools/bench/gpu_actor.py [--quick] [--layers N] [--out FILE]        on a Hopper GPU, about 20 minutes
    python tools/bench/gpu_actor.py --device cpu                               a tiny model, to see that it runs

The model has the shape of Qwen2.5-7B with as many layers as fit.  A training step reads a step file and ends with
new weights; its sequences are 8,192 or 32,768 tokens long, one a microbatch.  Every measurement has a process of
its own; one that fails is reported, and the others still run.  bfloat16 is measured before and after FP8.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer
from common.gpu_actor_case import KEPT, Case, make_recipe
from common.models import write_config
from common.report import Result, compare, progress, report

from megatron_srpo.plan.gpus import COMFORTABLE_SHARE, gpu_of
from megatron_srpo.plan.memory import rank_memory

QWEN_7B = {"hidden": 3584, "vocab": 152064, "heads": 28, "groups": 4, "intermediate": 18944}
TINY = {"hidden": 64, "vocab": 512, "heads": 4, "groups": 2, "intermediate": 128}
FP8_RECIPES = ("delayed", "tensorwise", "blockwise", f"blockwise{KEPT}")
MOST_LAYERS = 28  # what the model has
PLAIN = "without fp8"
LAST = 20  # updates whose mean loss is compared
TARGETS = {"mfu": ">= 0.5", "fp8": ">= 1.35", "loss": "<= 0.01"}


def layers_that_fit(shape: dict[str, int], tokens: int, free: float) -> int:
    """The most layers with which the plan's memory, copies in 8 bits counted too, fits into so many bytes."""
    with tempfile.TemporaryDirectory() as name:
        model = write_config(Path(name) / "model", **shape, layers=MOST_LAYERS)
        recipe = make_recipe(Case("speed", "cuda", "bfloat16", "blockwise", "none", shape, tokens, 1), Path(name))
    fitting = (
        layers
        for layers in range(MOST_LAYERS, 0, -1)
        if rank_memory(recipe, replace(model, num_layers=layers), 0, on_gpu=True).total <= COMFORTABLE_SHARE * free
    )
    return next(fitting, 1)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Run a case in a process of its own; {"failed": ...} when it fails."""
    name = f"{case.kind}, {case.tokens} tokens, {case.fp8 or case.dtype}"
    file = folder / "case.json"
    file.write_text(json.dumps(asdict(case)))
    command = [sys.executable, "-m", "common.gpu_actor_case", str(file)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode != 0:
        progress(f"{name}: failed\n{done.stderr[-3000:]}")
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    shown = {key: value for key, value in found.items() if key not in ("losses", "seconds", "phases")}
    progress(f"{name}: {shown}")
    return found


def speed_results(rows: dict[str, dict[str, Any]], tokens: int, peak: float | None) -> list[Result]:
    """Utilisation in bfloat16 against the card's peak, and every FP8 recipe against bfloat16."""
    plain, results = rows[PLAIN], []
    if "failed" in plain:
        return []
    if peak is not None:
        value = [plain["tflops"]]
        results.append(compare(f"mfu_{tokens}", value, "TFLOPS", "peak of the card", [peak], TARGETS["mfu"]))
    for recipe in FP8_RECIPES:
        if "tokens_per_second" in rows.get(recipe, {}):
            name, value = f"fp8_{recipe}_{tokens}", [rows[recipe]["tokens_per_second"]]
            base = [plain["tokens_per_second"]]
            results.append(compare(name, value, "tokens/s", "bfloat16", base, TARGETS["fp8"]))
    return results


def curve_results(rows: dict[str, dict[str, Any]]) -> list[Result]:
    """How far the mean loss of the last updates is from bfloat16's, relative to it."""
    if "losses" not in rows[PLAIN]:
        return []
    results, plain = [], rows[PLAIN]["losses"][-LAST:]
    base = sum(plain) / len(plain)
    for recipe in FP8_RECIPES:
        if "losses" in rows.get(recipe, {}):
            last = rows[recipe]["losses"][-LAST:]
            difference = abs(sum(last) / len(last) - base)
            results.append(
                compare(f"loss_{recipe}", [difference], "nats from bfloat16", "bfloat16", [base], TARGETS["loss"])
            )
    return results


@dataclass(frozen=True)
class Plan:
    """What is measured on a device."""

    device: str
    dtype: str
    recipes: tuple[str, ...]
    shape: dict[str, int]
    lengths: tuple[int, ...]
    curve_layers: int
    curve_tokens: int
    curve_steps: int
    runs: int

    def case(self, kind: str, fp8: str | None, layers: int, tokens: int, steps: int) -> Case:
        """One measurement of the plan's model."""
        return Case(kind, self.device, self.dtype, fp8, "none", self.shape | {"layers": layers}, tokens, steps)


GPU = Plan("cuda", "bfloat16", FP8_RECIPES, QWEN_7B, (8192, 32768), 4, 2048, 200, 6)
CPU = Plan("cpu", "float32", (), TINY, (128, 256), 2, 64, 5, 3)


def speeds(plan: Plan, tokens: int, layers: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Rows of one length: bfloat16, every FP8 recipe, bfloat16 again."""
    rows = {}
    for label, fp8 in ((PLAIN, None), *((recipe, recipe) for recipe in plan.recipes), (f"{PLAIN} again", None)):
        rows[label] = measure(plan.case("speed", fp8, layers, tokens, plan.runs), folder)
    return rows


def curves(plan: Plan, folder: Path) -> dict[str, dict[str, Any]]:
    """Loss curves on the same text."""
    kinds = ((PLAIN, None), *((recipe, recipe) for recipe in plan.recipes))
    return {
        label: measure(plan.case("curve", fp8, plan.curve_layers, plan.curve_tokens, plan.curve_steps), folder)
        for label, fp8 in kinds
    }


def main(quick: bool = False, device: str = "cuda", layers: int = 0, out: Path | None = None) -> None:
    """Measure everything and report; `out` also gets the whole, with losses and phases."""
    plan = GPU if device == "cuda" else CPU
    if plan is GPU and not torch.cuda.is_available():
        print("error: torch sees no GPU; --device cpu runs a tiny model to see that all works", file=sys.stderr)
        sys.exit(2)
    if quick:
        plan = replace(plan, lengths=plan.lengths[:1], curve_steps=min(20, plan.curve_steps), runs=3)
    gpu = torch.cuda.get_device_name() if plan.device == "cuda" else None
    known = gpu_of(gpu) if gpu is not None else None
    peak = known.bf16_tflops if known is not None else None
    every: dict[str, dict[str, dict[str, Any]]] = {}
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        for tokens in plan.lengths:
            fit = layers or (
                layers_that_fit(plan.shape, tokens, torch.cuda.mem_get_info()[0]) if gpu is not None else 2
            )
            rows = speeds(plan, tokens, fit, Path(name))
            every[f"speed at {tokens} tokens, {fit} layers"] = rows
            results += speed_results(rows, tokens, peak)
        every["curves"] = curves(plan, Path(name))
        results += curve_results(every["curves"])
    if out is not None:
        out.write_text(json.dumps(every, indent=1))
    failed = {
        f"{part}: {label}": row["failed"]
        for part, rows in every.items()
        for label, row in rows.items()
        if "failed" in row
    }
    report("gpu_actor", results, gpu=gpu, peak_tflops=peak, failed=failed, rows=summary(every))
    sys.exit(1 if failed else 0)


def summary(every: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The numbers of a table: without losses, phases and single measurements."""
    kept = ("tokens_per_second", "tflops", "peak_gib", "failed")
    return {
        part: {label: {key: row[key] for key in kept if key in row} for label, row in rows.items()}
        for part, rows in every.items()
    }


if __name__ == "__main__":
    typer.run(main)
