"""Reading the columns of one row: what is there, of the right type, or a reason for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from megatron_srpo.data.curate.draft import BadRow

Row = Mapping[str, Any]

KINDS = {
    "NoneType": "nothing",
    "dict": "an object",
    "list": "a list",
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
}
DEEPEST_NOTE = 20  # levels of lists and objects in a note; deeper ones are left out


def renamed(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names.

    Args:
        row: as the file has it.
        columns: our name for each of their names; a column of ours that is there already gives way.

    Raises:
        BadRow: when a column that is to be renamed is missing.
    """
    for name in columns:
        if name not in row:
            raise _missing(row, name)
    kept_ones = {name: value for name, value in row.items() if name not in columns}
    return {**kept_ones, **{ours: row[theirs] for theirs, ours in columns.items()}}


def text(row: Row, name: str) -> str:
    """The text of a column that must be there; where the row has no value in it, it is empty."""
    if name not in row:
        raise _missing(row, name)
    return text_of(row[name], f"the column {name}")


def optional_text(row: Row, name: str) -> str:
    """The text of a column that may be missing, which is then empty."""
    return text_of(row.get(name), f"the column {name}")


def text_of(value: Any, what: str) -> str:
    """A value that must be text, or nothing.

    Raises:
        BadRow: when it is something else, or no Unicode: half of a pair of surrogates, which no file can hold.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{what} must be text, found {kind_of(value)}.")
    if not is_unicode(value):
        raise BadRow(f"{what} holds half of a surrogate pair, which is no character.")
    return value


def number_or_text(value: Any, what: str) -> str:
    """A value that may be written as a number, as answers often are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text_of(value, what)
    try:
        written = str(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        raise BadRow(f"{what} is a number too long to write.") from None
    # In tables, "not a number" is how libraries say that nothing is there.
    return "" if isinstance(value, float) and math.isnan(value) else written


def listing(value: Any, what: str) -> list[Any]:
    """A list, or JSON text of one; empty where there is nothing."""
    value = from_json(value, what)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise BadRow(f"{what} must be a list or JSON text of one, found {kind_of(value)}.")
    return list(value)


def mapping(row: Row, name: str) -> Mapping[str, Any]:
    """The object in a column that must be there, or that its JSON text holds; empty where there is nothing."""
    if name not in row:
        raise _missing(row, name)
    value = from_json(row[name], f"the column {name}")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadRow(f"the column {name} must be an object or JSON text of one, found {kind_of(value)}.")
    return value


def from_json(value: Any, what: str) -> Any:
    """What JSON text holds; any value but text is what it is.  None for empty text."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{what} is no readable JSON ({error}).") from None


def notes(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """Columns that are worth keeping, under our names, as JSON values; what is empty or missing is not there.

    Args:
        row: any row.
        columns: their name of each of our names.
    """
    found = {ours: note(row.get(theirs)) for ours, theirs in columns.items()}
    return {name: value for name, value in found.items() if value not in (None, "", [], {})}


def note(value: Any, depth: int = 0) -> Any:
    """The value as JSON can hold it: times as text, and None for what cannot be held."""
    if isinstance(value, str):
        return value if is_unicode(value) else value.encode(errors="replace").decode()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 64 else None  # more is no note but an accident
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if depth < DEEPEST_NOTE and isinstance(value, list | tuple):
        return [note(inner, depth + 1) for inner in value]
    if depth < DEEPEST_NOTE and isinstance(value, Mapping):
        return {note(key): note(inner, depth + 1) for key, inner in value.items() if isinstance(key, str)}
    return None


def is_unicode(value: str) -> bool:
    """Whether the text can be written to a file."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(value: Any) -> str:
    """The type of a value, for people."""
    return KINDS.get(type(value).__name__, f"a value of type {type(value).__name__}")


def _missing(row: Row, name: str) -> BadRow:
    found = ", ".join(str(column) for column in row) or "none"
    return BadRow(f"the column {name} is missing; the columns are {found:.300}.")
