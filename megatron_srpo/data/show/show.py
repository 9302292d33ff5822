"""`srpo data show`: counts, examples and plots of a set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_srpo.data.show.choose import Examples, Filter, Seen
from megatron_srpo.data.show.example import as_json, print_row
from megatron_srpo.data.show.overview import print_overview, sentence
from megatron_srpo.data.show.rows import STATUSES, Opened, is_being_made, open_path
from megatron_srpo.data.show.tally import Tally
from megatron_srpo.data.show.text import literal
from megatron_srpo.errors import SrpoError
from megatron_srpo.plain import line_of


@dataclass(frozen=True)
class Options:
    """What is shown, and how."""

    examples: int = 3
    """Of each status."""
    seed: int = 0
    plots: Path | None = None
    json: bool = False


def show(path: Path, wanted: Filter, options: Options, console: Console) -> None:
    """Show what is in a set or a file of problems.

    Args:
        path: of the set's folder, or of the file.
        wanted: only rows like this.
        options: what is shown.
        console: where to print.

    Raises:
        SrpoError: when there is nothing that could be shown.
    """
    opened = open_path(path)
    tally, examples, seen = (
        Tally(wanted.status),
        Examples(0 if options.json else options.examples, options.seed),
        Seen(),
    )
    for row in opened.rows(wanted.statuses):
        seen.add(row)
        if wanted.matches(row):
            tally.add(row)
            examples.offer(row)
    # Imported here: it takes a second, which a path that is wrong should not cost.
    from megatron_srpo.data.curate.rule_texts import NAMES, meanings

    seen.check(path, wanted, NAMES)
    counts = _counts(opened, wanted, tally, NAMES)
    written = [] if options.plots is None else _plot(counts, opened.name, options.plots)
    if options.json:
        print(json.dumps(counts))
        return
    _print_head(opened, wanted, counts, console)
    print_overview(counts, meanings(), console)
    _print_examples(examples, console)
    for file in written:
        console.print(literal(f"written: {file}"), soft_wrap=True)


def show_row(path: Path, name: str, options: Options, console: Console) -> None:
    """Show one row whole, whatever became of it; raises SrpoError when there is none of that id."""
    opened = open_path(path)
    first = None
    for row in opened.rows():
        first = first or row.id
        if row.id == name:
            if options.json:
                print(json.dumps(as_json(row, row.values()), default=str))
            else:
                print_row(row, row.values(), console, whole=True)
            return
    hint = "" if opened.manifest is None else ": the source, and the number of the row in it, from 0"
    like = f"; ids look like {first}{hint}" if first else ""
    raise SrpoError(line_of(f"{path}: has no row {name}, neither kept nor left out{like}."))


def _counts(opened: Opened, wanted: Filter, tally: Tally, rules: Iterable[str]) -> dict[str, Any]:
    manifest, given = opened.manifest, wanted.given()
    return {
        "path": str(opened.path),
        "name": opened.name,
        "filters": given,
        **tally.counts(rules),
        "confusion": None if manifest is None or given else manifest.counts.get("confusion"),
        "grading": None if manifest is None else manifest.grading,
    }


def _plot(counts: dict[str, Any], name: str, folder: Path) -> list[Path]:
    # Imported here: matplotlib takes a second.
    from megatron_srpo.data.show.plots import write_plots

    return write_plots(counts, name, folder)


def _print_head(opened: Opened, wanted: Filter, counts: dict[str, Any], console: Console) -> None:
    only = " and ".join(f"{name} {value}" for name, value in wanted.given().items())
    console.print(literal(sentence(counts, opened.name + (f", only {only}" if only else ""))), soft_wrap=True)
    if opened.manifest is not None and is_being_made(opened.path):
        console.print("another version of it is being made; this is the one before")
    console.print()


def _print_examples(examples: Examples, console: Console) -> None:
    for status in STATUSES:
        chosen = examples.chosen(status)
        if chosen:
            console.rule(f"{status}: {len(chosen)} at random", align="left", style="dim")
        for row, values in chosen:
            print_row(row, values, console)
