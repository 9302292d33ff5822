"""JSON of tests, read without losing or changing a value."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from megatron_srpo.data.curate.draft import BadRow


@dataclass(frozen=True)
class Unfit:
    """Stands in the place of a value that no test can hold."""

    reason: str


def read_tests(text: str, what: str) -> Any:
    """What JSON text holds, with `Unfit` for numbers that are beyond JSON or Python's limits.

    Raises:
        BadRow: when the text is no JSON.
    """
    try:
        return _loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{what} is no readable JSON ({error}).") from None


def read_line(text: Any) -> Any:
    """The value that a line of JSON holds; one that is there as a value is taken as it is."""
    if not isinstance(text, str):
        return text
    try:
        return _loads(text)
    except (ValueError, RecursionError):
        return Unfit("an argument or a value is no JSON")


def _loads(text: str) -> Any:
    """Like json.loads, with `Unfit` for numbers that Python or JSON cannot hold."""
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_constant)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python reads; slower, so only where it needs to be
        return json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_constant)


def _integer(text: str) -> int | Unfit:
    try:
        return int(text)
    except ValueError:
        return Unfit(f"a number has {len(text)} digits")


def _finite(text: str) -> float | Unfit:
    number = float(text)
    return number if math.isfinite(number) else _constant(text)


def _constant(name: str) -> Unfit:
    return Unfit(f"{name:.80} is no finite number")
