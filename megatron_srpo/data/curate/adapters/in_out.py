"""The form of APPS, which other sets have taken over: one object of inputs, outputs and perhaps a function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_srpo.data.curate.adapters.cases import call_cases, call_tests, paired, stdio_tests
from megatron_srpo.data.curate.adapters.exact import read_tests
from megatron_srpo.data.curate.adapters.row import is_unicode, kind_of, listing, text_of
from megatron_srpo.data.curate.draft import BadRow


def described_tests(value: Any, what: str, starter_code: str) -> tuple[str, str, dict[str, Any]]:
    """Tests from an object, or JSON text of one, with `inputs`, `outputs` and, for calls, `fn_name`.

    Returns:
        The tests, the function's name (empty for whole runs), and what to note.  All empty without a test.

    Raises:
        BadRow: when the object is not of this form, or none of its tests can be used.
    """
    if isinstance(value, str):
        value = read_tests(value, what) if value.strip() else None
    if value is None:
        return "", "", {}
    if not isinstance(value, Mapping):
        raise BadRow(f"{what} must be an object with inputs and outputs, found {kind_of(value)}.")
    pairs = paired(value.get("inputs"), value.get("outputs"), what)
    function = text_of(value.get("fn_name"), f"the function's name in {what}").strip()
    if function:
        tests, left_out = call_tests(function, call_cases(pairs, starter_code))
    else:
        tests, left_out = stdio_tests(pairs)
    return tests, function, left_out


def programs(value: Any, what: str) -> tuple[str, ...]:
    """The programs in a list or in JSON text of one."""
    found = listing(value, what)
    if wrong := [program for program in found if not isinstance(program, str)]:
        raise BadRow(f"{what} must be programs, found {kind_of(wrong[0])}.")
    return tuple(program for program in found if program.strip() and is_unicode(program))
