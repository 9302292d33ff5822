"""LiveCodeBench, whose private tests are JSON text, or a pickle of it that is never unpickled."""

from __future__ import annotations

import base64
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any

from megatron_srpo.data.curate.adapters.cases import Case, call_cases, call_tests, stdio_tests
from megatron_srpo.data.curate.adapters.exact import read_tests
from megatron_srpo.data.curate.adapters.functions import with_function
from megatron_srpo.data.curate.adapters.row import Row, kind_of, mapping, notes, optional_text, text, text_of
from megatron_srpo.data.curate.draft import BadRow, Draft

LARGEST = 2**28  # bytes of one row's private tests, unpacked; several times what tests may have with us
TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")
# What a pickle of one text has around it: they write down its protocol and remember the text, and do nothing.
AROUND = ("PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP")


def livecodebench(row: Row) -> Draft:
    """LiveCodeBench, code generation: stdin and stdout, or a method with starter code."""
    question, starter_code = text(row, "question_content"), optional_text(row, "starter_code")
    found = _public(text(row, "public_test_cases")) + _private(optional_text(row, "private_test_cases"))
    kinds = {kind for kind, _, _ in found}
    if len(kinds) > 1:
        raise BadRow("the tests are stdin and functional at once.")
    pairs: list[Case] = [(given, expected) for _, given, expected in found]
    meta = notes(
        row,
        {
            "id": "question_id",
            "title": "question_title",
            "difficulty": "difficulty",
            "source": "platform",
            "contest": "contest_id",
            "date": "contest_date",
        },
    )
    if kinds != {"functional"}:
        tests, left_out = stdio_tests(pairs)
        return Draft("code", question, tests=tests, meta=meta | left_out)
    function = text_of(mapping(row, "metadata").get("func_name"), "the function's name in the column metadata")
    if not function.strip():
        raise BadRow("the tests are functional, but the column metadata has no func_name.")
    tests, left_out = call_tests(function, call_cases(pairs, starter_code))
    return Draft("code", with_function(question, function, starter_code), tests=tests, meta=meta | left_out)


def pickled_text(data: bytes) -> str:
    """The text that a pickle holds, read without running the pickle.

    Raises:
        ValueError: when the pickle holds anything but exactly one text.
    """
    found: list[str] = []
    end = 0
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name in TEXTS:
            found.append(str(argument))
        elif opcode.name not in AROUND:
            raise ValueError(f"it has the operation {opcode.name}")
        end = position or 0
    if len(found) != 1:
        raise ValueError(f"it holds {len(found)} texts")
    if end != len(data) - 1:
        raise ValueError("something follows its end")
    return found[0]


def _public(value: str) -> list[tuple[str, Any, Any]]:
    return _tests(read_tests(value, "the column public_test_cases") if value.strip() else [], "public_test_cases")


def _private(value: str) -> list[tuple[str, Any, Any]]:
    if not value.strip():
        return []
    if not value.lstrip().startswith("["):
        try:
            value = pickled_text(_unpacked(base64.b64decode(value, validate=True)))
        except (ValueError, zlib.error) as error:
            raise BadRow(
                f"the column private_test_cases is no JSON, and no pickle of one text ({error})."
            ) from None
    return _tests(read_tests(value, "the column private_test_cases"), "private_test_cases")


def _unpacked(data: bytes) -> bytes:
    """Decompressed, but never more than `LARGEST`: a megabyte can be a terabyte of zeros."""
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, LARGEST)
    if not unpacker.eof:
        raise ValueError(f"it is cut off, or more than {LARGEST} bytes")
    if unpacker.unused_data:
        raise ValueError("something follows what is compressed")
    return unpacked


def _tests(value: Any, name: str) -> list[tuple[str, Any, Any]]:
    """Kind, input and output of each test."""
    if not isinstance(value, list):
        raise BadRow(f"the column {name} must hold a list of tests, found {kind_of(value)}.")
    found: list[tuple[str, Any, Any]] = []
    for test in value:
        if not isinstance(test, Mapping) or test.get("testtype") not in ("stdin", "functional"):
            raise BadRow(f"the column {name} must hold tests whose testtype is stdin or functional.")
        if "input" not in test or "output" not in test:
            raise BadRow(f"a test in the column {name} has no input or no output.")
        found.append((str(test["testtype"]), test["input"], test["output"]))
    return found
