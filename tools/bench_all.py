"""Runs every benchmark and rewrites the table between the markers in docs/results.md.

    python tools/bench_all.py [--quick]

A benchmark that does not run is an error; one that misses its target is a row that says so.  Those that need a GPU
are left out where torch sees none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import typer

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs" / "results.md"
NEEDS_GPU = {"gpu_actor.py", "offload.py"}
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def run(script: Path, quick: bool) -> dict[str, Any]:
    """The JSON object of one benchmark."""
    command = [sys.executable, str(script), *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def table(found: list[dict[str, Any]], quick: bool) -> str:
    """The benchmarks as a Markdown table."""
    machine = found[0]["machine"]
    lines = [
        f"`make bench`{' with --quick' if quick else ''} on {machine['processor']}, {machine['cores']} cores, "
        f"torch {machine['torch']}, Python {machine['python']}; GPU: {machine['gpu'] or 'none'}.",
        "",
        "| benchmark | metric | ours | baseline | ratio | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for bench in found:
        for row in bench["results"]:
            lines.append(
                f"| `{bench['bench']}` | {row['metric']} | {row['value']:.4g} {row['unit']} | "
                f"{row['baseline']}: {row['baseline_value']:.4g} | {row['ratio']:.3f} | {row['target']} | "
                f"{'yes' if row['ok'] else 'NO'} |"
            )
    return "\n".join(lines)


def main(quick: bool = False) -> None:
    """Run all and rewrite the table."""
    scripts = sorted((REPOSITORY / "tools" / "bench").glob("*.py"))
    present = torch.cuda.is_available()
    found = [run(script, quick) for script in scripts if present or script.name not in NEEDS_GPU]
    text = RESULTS.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    RESULTS.write_text(f"{before}{BEGIN}\n{table(found, quick)}\n{END}{after}")


if __name__ == "__main__":
    typer.run(main)
