"""Accuracy and response length by step, one line a run.

python tools/plot_runs.py runs/a runs/b ... --out docs/tiny_cpu.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import matplotlib
import typer

from megatron_srpo.observe.metrics import read_lines

PANELS = (("accuracy", "accuracy of training samples"), ("response_length", "response length, tokens"))


def main(runs: list[Path], out: Annotated[Path, typer.Option(help="SVG or PNG file")]) -> None:
    """Draw the runs' metrics."""
    matplotlib.use("Agg")
    # Without these the file would differ at every run.
    matplotlib.rcParams["svg.hashsalt"] = "srpo"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(9, 3), layout="constrained")
    for run in runs:
        records = read_lines(run / "metrics.jsonl")
        for axis, (key, _) in zip(axes, PANELS, strict=True):
            axis.plot([r["step"] for r in records], [r[key] for r in records], label=run.name, linewidth=1.2)
    for axis, (key, title) in zip(axes, PANELS, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if key == "accuracy":
            axis.set_ylim(0, 1)
    axes[0].legend(fontsize=8, loc="lower right")
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)


if __name__ == "__main__":
    typer.run(main)
