"""Counts as pictures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srpo.data.show.rows import KEPT, STATUSES
from megatron_srpo.errors import SrpoError
from megatron_srpo.plain import line_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
WIDTH = 8.0  # inches
LONGEST_NAME = 36  # characters of a label
MOST_BARS = 40
# Of Okabe and Ito (2008), which people with any kind of colour vision can tell apart.
COLOURS = {"kept": "#0072B2", "refused": "#E69F00", "quarantined": "#7F7F7F"}
OTHER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "text.parse_math": False,  # names of sources are no formulas
    "svg.hashsalt": "srpo",
}


def write_plots(counts: Mapping[str, Any], name: str, folder: Path) -> list[Path]:
    """Every plot that the counts have something for, as PNG and SVG; the files.

    Raises:
        SrpoError: when they cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # scripts that the font has not
        filters = ", ".join(f"{key} {value}" for key, value in counts["filters"].items())
        title = f"{_label(name)} (only {line_of(filters)[:LONGEST_NAME]})" if filters else _label(name)
        figures = {
            "sources": _sources(counts["sources"], title),
            "rules": _rules(counts["rules"], title),
            "lengths": _lengths(counts["lengths"], title),
            "difficulty": _difficulty(counts, title),
        }
        return _write({file: figure for file, figure in figures.items() if figure is not None}, folder)


def _write(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            for suffix, metadata in ((".png", {}), (".svg", {"Date": None})):
                path = folder / f"{name}{suffix}"
                figure.savefig(path, dpi=DPI, metadata=metadata)
                written.append(path)
    except OSError as error:
        raise SrpoError(f"{folder}: plots cannot be written ({error.strerror}); give another --plots.") from None
    return written


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _sources(sources: Mapping[str, Mapping[str, int]], title: str) -> Figure | None:
    """Stacked bars: what became of the rows of each source."""
    if not sources:
        return None
    names, others = list(sources)[:MOST_BARS], list(sources)[MOST_BARS:]
    labels = [_label(name or "(none)") for name in names] + [f"({len(others)} others)"] * bool(others)
    figure = _figure(_height(len(labels)))
    axes = figure.subplots()
    start = [0] * len(labels)
    for status in STATUSES:
        values = [sources[name][status] for name in names]
        values += [sum(sources[name][status] for name in others)] * bool(others)
        if any(values):
            axes.barh(range(len(labels)), values, left=start, color=COLOURS[status], label=status)
        start = [one + other for one, other in zip(start, values, strict=True)]
    _finish_bars(axes, labels, start, f"{title}: rows by source", "rows")
    if len(axes.containers) > 1:
        figure.legend(loc="outside lower center", ncols=len(STATUSES), frameon=False)
    return figure


def _rules(rules: Mapping[str, Mapping[str, int]], title: str) -> Figure | None:
    """Horizontal bars: how many rows each rule refused."""
    refused = {name: of["refused"] for name, of in rules.items() if of["refused"]}
    if not refused:
        return None
    names = sorted(refused, key=lambda name: -refused[name])[:MOST_BARS]
    figure = _figure(_height(len(names)))
    axes, values = figure.subplots(), [refused[name] for name in names]
    axes.barh(range(len(names)), values, color=COLOURS["refused"])
    what = "rows that name the rule (a row may name several)"
    _finish_bars(axes, [_label(name) for name in names], values, f"{title}: refusals by rule", what)
    return figure


def _finish_bars(axes: Axes, labels: Sequence[str], values: Sequence[int], title: str, what: str) -> None:
    """Names at the bars, the first on top, and numbers at their ends."""
    from matplotlib.ticker import MaxNLocator

    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * max(values))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    for at, value in enumerate(values):
        axes.annotate(
            f"{value:,}", (value, at), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_xlabel(what)
    _title(axes, title)


def _lengths(lengths: Mapping[str, Any], title: str) -> Figure | None:
    """Steps: how long the prompts of each domain are."""
    if not lengths["domains"]:
        return None
    from matplotlib.ticker import MaxNLocator

    figure = _figure(4.0)
    axes = figure.subplots()
    edges = [lengths["bounds"][0] / 2, *lengths["bounds"], 2 * lengths["bounds"][-1]]
    filled = [at for at, numbers in enumerate(zip(*lengths["domains"].values(), strict=True)) if any(numbers)]
    first, last = filled[0], filled[-1] + 1
    for (domain, numbers), colour in zip(lengths["domains"].items(), OTHER_COLOURS, strict=False):
        shown = edges[first : last + 1]
        axes.stairs(numbers[first:last], shown, fill=True, color=colour, alpha=0.25)
        axes.stairs(numbers[first:last], shown, color=colour, linewidth=2, label=_label(domain))
    axes.set_xscale("log", base=2)
    axes.set_xticks(edges[first : last + 1], [f"{edge:,.0f}" for edge in edges[first : last + 1]])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("characters (each step is twice as long as the one before)")
    axes.set_ylabel("rows")
    axes.legend(frameon=False)
    _title(axes, f"{title}: lengths of prompts, {lengths['of']} rows")
    return figure


def _difficulty(counts: Mapping[str, Any], title: str) -> Figure | None:
    """Bars: pass rates, and classes of difficulty; of what is graded."""
    rates, classes = counts["pass_rates"], counts["difficulties"]
    panels = (["rates"] if rates is not None else []) + (["classes"] if classes else [])
    if not panels:
        return None
    figure = _figure(4.0)
    widths = [{"rates": 3, "classes": 1.4}[panel] for panel in panels]
    for panel, axes in zip(
        panels, figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0], strict=True
    ):
        if panel == "rates":
            _columns(axes, rates["bins"], rates["rows"], "share of samples that were right")
            for label in axes.get_xticklabels():
                label.set(rotation=45, ha="right", rotation_mode="anchor")
        else:
            _columns(axes, list(classes), [of[KEPT] for of in classes.values()], "difficulty")
    figure.axes[0].set_ylabel("problems")
    figure.suptitle(f"{title}: how hard the problems are", x=0.01, ha="left", fontsize=12)
    return figure


def _columns(axes: Axes, labels: Sequence[str], values: Sequence[int], what: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.bar(range(len(values)), values, color=COLOURS["kept"], width=0.85)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xticks(range(len(values)), [_label(label) for label in labels])
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(what)


def _title(axes: Axes, text: str) -> None:
    """Over the whole figure, not only over the bars: names of sources take their space on the left."""
    axes.figure.suptitle(text, x=0.01, ha="left", fontsize=12)


def _height(bars: int) -> float:
    """Inches of a figure with so many bars."""
    return 1.9 + 0.3 * bars


def _label(name: str) -> str:
    """A name that leaves room for the bars; of a long one both ends, where names differ."""
    text = line_of(name)
    half = LONGEST_NAME // 2
    return text if len(text) <= LONGEST_NAME else f"{text[: half - 1]}…{text[-half:]}"
