"""The report as people read it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from megatron_srpo.doctor.examine import Report
from megatron_srpo.doctor.finding import Status
from megatron_srpo.plain import line_of

STYLES: dict[Status, str] = {"ok": "green", "missing": "cyan", "warning": "yellow", "error": "bold red"}


def show(report: Report, console: Console) -> None:
    """Print a table of the findings, by groups, and the conclusion."""
    table = Table("", "status", Column("found, and what to do", overflow="fold"), box=None)
    group = ""
    for finding in report.findings:
        if finding.group != group:
            group = finding.group
            table.add_row(Text(group, "bold"))
        status = Text(finding.status, STYLES[finding.status])
        # Other programs may have said anything.
        found = Text(line_of(finding.found))
        if finding.advice:
            found.append(f"\n{line_of(finding.advice)}", "dim")
        table.add_row(Text(f"  {finding.name}"), status, found)
    console.print(table)
    console.print(report.conclusion, markup=False, highlight=False, soft_wrap=True)
