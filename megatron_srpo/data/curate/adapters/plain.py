"""People's own files: our own columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from megatron_srpo.data.curate.adapters.answers import bare
from megatron_srpo.data.curate.adapters.in_out import programs
from megatron_srpo.data.curate.adapters.row import (
    Row,
    from_json,
    kind_of,
    listing,
    notes,
    number_or_text,
    optional_text,
    text,
    text_of,
)
from megatron_srpo.data.curate.draft import BadRow, Domain, Draft

PROMPTS = ("prompt", "problem", "question")
READ = ("answer", "solution", "options", "tests", "references", "domain", "meta")


def problems(row: Row) -> Draft:
    """Rows with our own columns; those that we do not know become notes, as does an object `meta`."""
    named = next((name for name in PROMPTS if row.get(name) is not None), None)
    named = named or next((name for name in PROMPTS if name in row), PROMPTS[0])
    if named not in row and any(name in row for name in READ):
        row = {**row, named: ""}  # JSON lines leave out what is empty; the rule `missing` refuses it
    tests = _tests(row.get("tests"))
    options = [number_or_text(option, "an option") for option in listing(row.get("options"), "the column options")]
    others = {str(name): str(name) for name in row if name not in READ and name != named}
    return Draft(
        _domain(optional_text(row, "domain").strip(), tests),
        text(row, named),
        bare(number_or_text(row.get("answer"), "the column answer")),
        optional_text(row, "solution"),
        tuple(options),
        tests,
        programs(row.get("references"), "the column references"),
        _meta(row) | notes(row, others),
    )


def _domain(name: str, tests: str) -> Domain:
    match name:
        case "math" | "code":
            return name
        case "":
            return "code" if tests.strip() else "math"
    raise BadRow(f"the domain must be math or code, found {name[:80]!r}.")


def _tests(value: Any) -> str:
    """JSON text as it is, as rules look into it; an object becomes its JSON text."""
    if not isinstance(value, Mapping):
        return "" if value == [] else text_of(value, "the column tests")
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"the column tests has no form in JSON ({error}).") from None
    return text_of(written, "the column tests")


def _meta(row: Row) -> dict[str, Any]:
    found = from_json(row.get("meta"), "the column meta")
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise BadRow(f"the column meta must be an object or JSON text of one, found {kind_of(found)}.")
    return notes(found, {str(name): str(name) for name in found})
