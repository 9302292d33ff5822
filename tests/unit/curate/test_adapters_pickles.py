"""Private tests of LiveCodeBench: pickles that are read and never run."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import sys
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.data.curate.adapters import ADAPTERS, livecodebench
from megatron_srpo.data.curate.adapters.livecodebench import pickled_text
from megatron_srpo.data.curate.draft import BadRow, Draft
from tests.unit.curate.sets import rows


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", ["", "[]", "a\nb", "é" * 200, "x" * 70_000])
def test_a_pickle_of_one_text_is_read(protocol: int, text: str) -> None:
    assert pickled_text(pickle.dumps(text, protocol)) == text


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never run",)


TEXT = pickle.dumps("[]")


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Evil()),
        pickle.dumps(Evil(), 0),
        pickle.dumps(["[]"]),
        pickle.dumps(("[]", "[]")),
        pickle.dumps(b"[]"),
        pickle.dumps(None),
        pickle.dumps(5),
        TEXT + TEXT,
        TEXT + b"x",
        TEXT[:-1],
        TEXT[:-1] + TEXT,
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02[]\x8c\x02[].",
        b"\x80\x04\x8c\xff[].",
        b"\x80\x04.",
        b".",
        b"",
        b"\xff",
    ],
)
def test_any_other_pickle_is_refused(data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError):
        pickled_text(data)
    packed = base64.b64encode(zlib.compress(data)).decode()
    with pytest.raises(BadRow, match="the column private_test_cases is no JSON, and no pickle of one text"):
        ADAPTERS["livecodebench"]({**rows("livecodebench")[0], "private_test_cases": packed})
    assert capsys.readouterr().out == ""


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=40)
    | st.builds(lambda at, new: TEXT[:at] + new + TEXT[at:], st.integers(0, 20), st.binary())
)
def test_no_bytes_are_more_than_a_text_or_a_reason(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(pickled_text(data), str)


def test_what_is_unpacked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    row = rows("livecodebench")[0]

    def read(data: bytes) -> Draft:
        return ADAPTERS["livecodebench"]({**row, "private_test_cases": base64.b64encode(data).decode()})

    whole = zlib.compress(pickle.dumps(json.dumps([{"input": "x" * 1000, "output": "", "testtype": "stdin"}])))
    read(whole)
    for broken in (whole[:-1], whole + b"x", b"x" + whole):
        with pytest.raises(BadRow):
            read(broken)
    module = sys.modules[livecodebench.__module__]
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(BadRow, match="cut off, or more than 1000 bytes"):
        read(whole)
