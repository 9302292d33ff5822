"""Sets of programming contests that come with programs: APPS, TACO, CodeContests."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from megatron_srpo.data.curate.adapters.cases import Case, paired, stdio_tests
from megatron_srpo.data.curate.adapters.functions import with_function
from megatron_srpo.data.curate.adapters.in_out import described_tests, programs
from megatron_srpo.data.curate.adapters.row import Row, kind_of, mapping, notes, optional_text, text
from megatron_srpo.data.curate.draft import BadRow, Draft

PYTHON = (3, "PYTHON3")  # of CodeContests' languages; 1 is Python 2
SITES = ("", "codechef", "codeforces", "hackerearth", "codejam", "atcoder", "aizu")  # by CodeContests' numbers


def apps(row: Row) -> Draft:
    """APPS: stdin and stdout, or a function with starter code."""
    return _with_in_out(row, {"id": "problem_id", "difficulty": "difficulty", "url": "url"})


def taco(row: Row) -> Draft:
    """TACO: in the form of APPS, with more said of where a problem is from."""
    columns = {name: name for name in ("difficulty", "url", "source", "time_limit", "memory_limit", "picture_num")}
    draft = _with_in_out(row, {"id": "name", **columns})
    tags = _names(row.get("tags"))
    return Draft(
        draft.domain,
        draft.prompt,
        tests=draft.tests,
        references=draft.references,
        meta={**draft.meta, "tags": tags} if tags else draft.meta,
    )


def code_contests(row: Row) -> Draft:
    """CodeContests: three groups of tests, and solutions in several languages, of which Python 3 is kept."""
    description = text(row, "description")
    cases: list[Case] = []
    for name in ("public_tests", "private_tests", "generated_tests"):
        group = mapping(row, name) if name in row or name == "public_tests" else {}
        if group:
            cases += paired(group.get("input"), group.get("output"), f"the column {name}")
    tests, left_out = stdio_tests(cases)
    columns = {"id": "name", "difficulty": "difficulty", "rating": "cf_rating", "tags": "cf_tags"}
    files = {name: name for name in ("input_file", "output_file", "memory_limit_bytes")}
    known = {name: value for name, value in notes(row, columns | files).items() if value != 0}  # 0 is unknown
    meta = known | _site(row.get("source")) | _seconds(row.get("time_limit")) | left_out
    return Draft("code", description, tests=tests, references=_python(row), meta=meta)


def _with_in_out(row: Row, columns: Mapping[str, str]) -> Draft:
    question, starter_code = text(row, "question"), optional_text(row, "starter_code")
    if "input_output" not in row:
        text(row, "input_output")  # says that it is missing
    tests, function, left_out = described_tests(row["input_output"], "the column input_output", starter_code)
    prompt = with_function(question, function, starter_code) if function else question
    references = programs(row.get("solutions"), "the column solutions")
    return Draft("code", prompt, tests=tests, references=references, meta=notes(row, columns) | left_out)


def _python(row: Row) -> tuple[str, ...]:
    """The programs in Python 3."""
    if row.get("solutions") is None:
        return ()
    found = mapping(row, "solutions")
    languages, sources = found.get("language", []), found.get("solution", [])
    if not isinstance(languages, list) or not isinstance(sources, list) or len(languages) != len(sources):
        raise BadRow("the column solutions must hold as many languages as solutions.")
    chosen = [source for language, source in zip(languages, sources, strict=True) if language in PYTHON]
    return programs(chosen, "the column solutions")


def _site(number: Any) -> dict[str, Any]:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < len(SITES):
        return {}
    return {"source": SITES[number]}


def _seconds(limit: Any) -> dict[str, Any]:
    """A time limit of seconds and nanoseconds, as seconds."""
    if limit is None:
        return {}
    if not isinstance(limit, Mapping):
        raise BadRow(f"the column time_limit must be an object, found {kind_of(limit)}.")
    parts = [limit.get(name) or 0 for name in ("seconds", "nanos")]
    if not all(isinstance(part, int) and 0 <= part < 2**31 for part in parts):
        raise BadRow("the column time_limit must hold numbers of seconds and nanoseconds.")
    return {"time_limit": parts[0] + parts[1] / 1e9}


def _names(value: Any) -> list[str]:
    """Names in a list, or in the text that Python writes for one, as TACO has its tags."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value[:10_000])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return []
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
