"""Histograms of the lengths of prompts, by domain."""

from __future__ import annotations

from bisect import bisect_left

LENGTHS = tuple(2**power for power in range(5, 17))  # characters of a prompt; each bin ends with its bound


def count_length(histograms: dict[str, list[int]], domain: str, length: int) -> None:
    """Count a prompt of so many characters in the histogram of its domain."""
    histogram = histograms.setdefault(domain, [0] * (len(LENGTHS) + 1))
    histogram[bisect_left(LENGTHS, length)] += 1
