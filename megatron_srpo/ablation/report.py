"""Table and plots of an ablation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from megatron_srpo.ablation.config import Ablation, PlannedRun
from megatron_srpo.ablation.curves import RunCurve, read_curve
from megatron_srpo.ablation.plot import plot_curves
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import replace_file
from megatron_srpo.launch.run_directory import check_recorded, is_finished


def write_report(ablation: Ablation, runs: Sequence[PlannedRun], console: Console) -> None:
    """Write report.json, report.md and report.png to the ablation's folder, of the runs that are finished.

    Raises SrpoError when none of the baseline's is.
    """
    finished = [run for run in runs if is_finished(run.recipe)]
    for run in finished:
        check_recorded(run.recipe)
    curves = [read_curve(run.arm, run.seed, run.directory) for run in finished]
    if not any(curve.arm == ablation.baseline for curve in curves):
        raise SrpoError(f"{ablation.out}: no run of {ablation.baseline} is finished; run srpo ablate first")
    summary = {name: summarize([c for c in curves if c.arm == name], ablation) for name in ablation.arms}
    record: dict[str, Any] = {
        "arms": {name: values for name, values in summary.items() if values},
        "runs": [_run_record(curve, ablation) for curve in curves],
        "threshold": ablation.threshold,
    }
    replace_file(ablation.out / "report.json", json.dumps(record, indent=2).encode() + b"\n")
    table = markdown(ablation, record["arms"])
    replace_file(ablation.out / "report.md", table.encode())
    plot_curves(ablation, curves, ablation.out / "report.png")
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(curves)} of {len(runs)} runs; {ablation.out}/report.md, .json and .png", highlight=False)


def _run_record(curve: RunCurve, ablation: Ablation) -> dict[str, Any]:
    reached = {key: curve.reaches(key, value) for key, value in ablation.threshold.items()}
    return {
        "arm": curve.arm,
        "seed": curve.seed,
        "steps": curve.steps,
        "tokens": int(curve.tokens[-1]),
        "first": curve.evaluations[min(curve.evaluations)],
        "last": curve.last,
        "effective_share": curve.effective_share(),
        "wasted_share": curve.wasted_share(),
        "switches": list(curve.switches),
        "reached": {key: found and {"tokens": found[0], "steps": found[1]} for key, found in reached.items()},
    }


def summarize(curves: Sequence[RunCurve], ablation: Ablation) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of everything in the table; empty without runs."""
    if not curves:
        return {}
    keys = list(curves[0].last)
    of: dict[str, Callable[[RunCurve], float]] = {
        "steps": lambda curve: curve.steps,
        "tokens": lambda curve: float(curve.tokens[-1]),
        "effective_share": RunCurve.effective_share,
        "wasted_share": RunCurve.wasted_share,
    }
    summary: dict[str, Any] = {name: _spread([value(curve) for curve in curves]) for name, value in of.items()}
    summary |= {key: _spread([curve.last[key] for curve in curves]) for key in keys}
    for key, threshold in ablation.threshold.items():
        found = [reached for curve in curves if (reached := curve.reaches(key, threshold)) is not None]
        summary[f"to_{key}"] = {
            "reached": len(found),
            "of": len(curves),
            "tokens": _spread([tokens for tokens, _ in found]),
            "steps": _spread([steps for _, steps in found]),
        }
    return summary


def _spread(values: Sequence[float]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation, which one value does not have; none without values."""
    if not values:
        return None
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def markdown(ablation: Ablation, summary: dict[str, dict[str, Any]]) -> str:
    """The table: one line an arm, mean ± standard deviation over the seeds."""
    sources = [key for key in summary[ablation.baseline] if key.startswith("accuracy")]
    head = [
        "arm",
        *(f"{key.replace('accuracy/', '')} at budget" for key in sources),
        "steps",
        "effective",
        "wasted",
    ]
    for key, value in ablation.threshold.items():
        head += [f"tokens to {key} {value:.0%}", "of baseline", f"steps to {key} {value:.0%}"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, values in summary.items():
        cells = [ablation.arms[name].label, *(_percent(values[key]) for key in sources)]
        cells += [
            f"{values['steps']['mean']:.0f}",
            _percent(values["effective_share"]),
            _percent(values["wasted_share"]),
        ]
        for key in ablation.threshold:
            cells += _reached(values[f"to_{key}"], summary[ablation.baseline][f"to_{key}"])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _with_spread(spread: dict[str, Any], scale: float, form: str) -> str:
    deviation = "" if spread["sd"] is None else f" ± {spread['sd'] * scale:{form}}"
    return f"{spread['mean'] * scale:{form}}{deviation}"


def _percent(spread: dict[str, Any]) -> str:
    return _with_spread(spread, 100, ".1f") + " %"


def _reached(found: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    if found["tokens"] is None:
        return [f"not ({found['of']} runs)", "", ""]
    tokens = _with_spread(found["tokens"], 1e-3, ".0f") + " k"
    steps = _with_spread(found["steps"], 1, ".0f")
    if found["reached"] < found["of"]:
        # The mean of those that got there says nothing beside a mean of all.
        return [f"{tokens} ({found['reached']} of {found['of']})", "", steps]
    if baseline["reached"] < baseline["of"] or baseline["tokens"]["mean"] == 0:
        return [tokens, "", steps]
    return [tokens, f"{found['tokens']['mean'] / baseline['tokens']['mean']:.2f}", steps]
