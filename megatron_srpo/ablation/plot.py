"""The picture of an ablation: held-out accuracy and effective groups against tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_srpo.ablation.config import Ablation
from megatron_srpo.ablation.curves import RunCurve

SMOOTH_STEPS = 5
GRID_POINTS = 200


def plot_curves(ablation: Ablation, curves: Sequence[RunCurve], path: Path) -> None:
    """One panel for each held-out accuracy and one for the effective share; the mean bold, every seed faint."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = list(curves[0].last)
    columns = min(2, len(keys) + 1)
    rows = -(-(len(keys) + 1) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(6 * columns, 3.6 * rows), layout="constrained")
    panels = list(np.ravel(grid))
    for index, (name, arm) in enumerate(ablation.arms.items()):
        mine = [curve for curve in curves if curve.arm == name]
        for panel, key in zip(panels, keys, strict=False):
            _draw(panel, [curve.points(key) for curve in mine], f"C{index}", arm.label)
        _draw(panels[len(keys)], [_effective(curve) for curve in mine], f"C{index}", arm.label)
        for curve in mine:
            for step in curve.switches:
                panels[0].axvline(curve.tokens[step], color=f"C{index}", alpha=0.3, linestyle=":")
    for panel, title in zip(
        panels, [*(_title(key) for key in keys), "sampled groups that move the policy"], strict=False
    ):
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("response tokens sampled")
        panel.grid(alpha=0.3)
    for key, value in ablation.threshold.items():
        panels[keys.index(key)].axhline(value, color="grey", linewidth=0.8, linestyle="--")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _title(key: str) -> str:
    return f"held-out accuracy{key.replace('accuracy', '').replace('/', ', ')}"


def _effective(curve: RunCurve) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The effective share, averaged over a few steps."""
    width = min(SMOOTH_STEPS, curve.steps)
    smooth = np.convolve(curve.effective, np.ones(width) / width, mode="valid")
    return curve.tokens[width - 1 : -1], smooth


def _draw(
    panel: Any, lines: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]], color: str, label: str
) -> None:
    """Every line faint, and the mean over the range that all of them cover."""
    if not lines:
        return
    for tokens, values in lines:
        panel.plot(tokens, values, color=color, alpha=0.2, linewidth=0.8)
    start, end = max(tokens[0] for tokens, _ in lines), min(tokens[-1] for tokens, _ in lines)
    common = np.linspace(start, end, GRID_POINTS)
    mean = np.mean([np.interp(common, tokens, values) for tokens, values in lines], axis=0)
    panel.plot(common, mean, color=color, linewidth=1.8, label=label)
