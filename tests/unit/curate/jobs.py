"""Small curations, run in this process or by the command line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console

from megatron_srpo.data.curate.config import CurateConfig
from megatron_srpo.data.curate.run import curate
from megatron_srpo.data.problem_set import Manifest, read_manifest, read_parts

REPOSITORY = Path(__file__).parents[3]
LINE = "Compute the sum of {} and {} for the {} time in this exercise."


def row(number: int, **more: Any) -> dict[str, Any]:
    """A good problem, unlike those of other numbers."""
    prompt = LINE.format(number, number + 1, f"{number}th")
    return {"prompt": prompt, "answer": str(2 * number + 1), **more}


def write_rows(file: Path, rows: Iterable[Any]) -> str:
    """JSON lines; a text is a line as it is, and bytes are bytes."""
    lines = [one if isinstance(one, str | bytes) else json.dumps(one) for one in rows]
    file.write_bytes(b"".join((one.encode() if isinstance(one, str) else one) + b"\n" for one in lines))
    return str(file)


def values(folder: Path, sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A config; a source may be a path."""
    named = {name: dict(of) if isinstance(of, dict) else {"path": of} for name, of in sources.items()}
    return {"name": "small", "out": str(folder / "out"), "sources": named, "workers": 1, "rows_per_unit": 4} | more


def make(config: dict[str, Any], fresh: bool = False) -> Manifest:
    """Run a curation in this process to its end."""
    checked = CurateConfig.model_validate(config)
    curate(checked, fresh, Console(file=io.StringIO()))
    return read_manifest(checked.out)


def start(config: dict[str, Any], *options: str) -> subprocess.Popen[str]:
    """`srpo data curate` in a process of its own."""
    file = Path(config["out"]).parent / "config.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return subprocess.Popen(
        [sys.executable, "-m", "megatron_srpo.cli", "data", "curate", str(file), *options],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(config: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The rows of a finished set: problems, refused or quarantined."""
    out = Path(config["out"])
    return [line for batch in read_parts(out, getattr(read_manifest(out), kind)) for line in batch.to_pylist()]


def contents(config: dict[str, Any]) -> dict[str, str]:
    """The hash of every file of a set, by name; not of those that tell when and by whom it was made."""
    out = Path(config["out"])
    files = (file for file in out.rglob("*") if file.is_file() and file.name not in ("lock", "events.jsonl"))
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def check_counts(config: dict[str, Any]) -> Manifest:
    """What must be true of every finished set."""
    manifest = read_manifest(Path(config["out"]))
    counts = manifest.counts
    kinds = {"kept": "problems", "refused": "refused", "quarantined": "quarantined"}
    assert list(counts["sources"]) == list(config["sources"])
    for of in (counts["total"], *counts["sources"].values()):
        assert of["rows"] == of["kept"] + of["refused"] + of["quarantined"]
    for kind in ("rows", *kinds):
        assert counts["total"][kind] == sum(of[kind] for of in counts["sources"].values())
    for kind, parts in kinds.items():
        lines = lines_of(config, parts)
        assert len(lines) == sum(part.rows for part in getattr(manifest, parts)) == counts["total"][kind]
        for name, of in counts["sources"].items():
            assert sum(line["source"] == name for line in lines) == of[kind]
    for line in lines_of(config, "refused"):
        assert len(line["rules"]) == len(line["reasons"]) > 0 and all(line["rules"]) and all(line["reasons"])
    for line in lines_of(config, "quarantined"):
        assert line["rules"] == [] and len(line["reasons"]) == 1 and line["reasons"][0]
    assert sum(counts["domains"].values()) == counts["total"]["kept"]
    for domain, number in counts["domains"].items():
        assert sum(counts["lengths"][domain]) == number
    return manifest


def children() -> list[psutil.Process]:
    """All processes that come from this one."""
    return psutil.Process().children(recursive=True)
