"""The form in which every benchmark reports: progress on stderr, one JSON object on stdout."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """One metric against its baseline; `ratio` is value / baseline_value, `ok` whether it meets the target."""

    metric: str
    value: float
    unit: str
    baseline: str
    baseline_value: float
    ratio: float
    target: str
    ok: bool


def compare(
    metric: str, values: list[float], unit: str, baseline: str, baseline_values: list[float], target: str
) -> Result:
    """Compare alternating measurements by the median of the ratios of neighbours.

    `target` is such as "<= 1.05" or ">= 0.7", and speaks of the ratio.
    """
    ratio = statistics.median(a / b for a, b in zip(values, baseline_values, strict=True))
    sign, limit = target.split()
    ok = ratio <= float(limit) if sign == "<=" else ratio >= float(limit)
    middle, other = statistics.median(values), statistics.median(baseline_values)
    return Result(metric, middle, unit, baseline, other, round(ratio, 4), target, ok)


def progress(text: str) -> None:
    """Say how far the benchmark is."""
    print(text, file=sys.stderr, flush=True)


def report(bench: str, results: list[Result], **details: object) -> None:
    """Print the benchmark's JSON object; `details` describe what was measured."""
    print(json.dumps({"bench": bench, "machine": machine(), **details, "results": [asdict(r) for r in results]}))


def machine() -> dict[str, object]:
    """Processor, cores and versions."""
    import torch

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
