"""The same rows from every kind of input, in chunks whose bounds follow from the content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_srpo.data.curate import readers, sources
from megatron_srpo.data.curate.draft import BadRow
from megatron_srpo.data.curate.place import Place
from megatron_srpo.data.curate.process import columns_of

HARD = ']}}[,\\" ünï €😀'  # in a text, where it ends nothing
ROWS = [
    {"prompt": f"{'long ' * (number % 7)}{HARD} {number}", "answer": str(number), "tests": [[number, 10**number]]}
    for number in range(17)
]


def parquet(folder: Path) -> Place:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet", row_group_size=4)
    return Place(path=str(folder / "rows.parquet"))


def parquets(folder: Path) -> Place:
    for at in range(3):  # in the order of their names
        table = pa.Table.from_pylist(ROWS[at * 6 : at * 6 + 6])
        pq.write_table(table, folder / f"part-{at}.parquet", row_group_size=5)
    return Place(path=str(folder / "part-*.parquet"))


def nested(folder: Path) -> Place:
    for at in range(3):
        (folder / f"sub-{at}").mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in ROWS[at * 6 : at * 6 + 6])
        (folder / f"sub-{at}" / "rows.ndjson").write_text(lines)
    return Place(path=str(folder / "**" / "*.ndjson"))


def lines(folder: Path) -> Place:
    text = "\ufeff" + "\r\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return Place(path=str(folder / "rows.jsonl"))


def lines_in_json(folder: Path) -> Place:
    text = "\ufeff\n" + "\n".join(json.dumps(row) for row in ROWS)
    (folder / "rows.json").write_text(text, encoding="utf-8")
    return Place(path=str(folder / "rows.json"))


def json_list(folder: Path) -> Place:
    (folder / "rows.json").write_text(
        "\ufeff \n" + json.dumps(ROWS, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    return Place(path=str(folder / "rows.json"))


def arrow_file(folder: Path) -> Place:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return Place(path=str(folder / "rows.arrow"))


def saved(folder: Path) -> Place:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"), num_shards=2)
    return Place(path=str(folder / "saved" / "*.arrow"))


def hub_folder(folder: Path) -> Place:
    (folder / "set" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "set" / "data" / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:1]), folder / "set" / "data" / "test-00000-of-00001.parquet")
    return Place(path=str(folder / "set"))


KINDS = (parquet, parquets, nested, lines, lines_in_json, json_list, arrow_file, saved, hub_folder)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def read(place: Place, rows: int = 5, limit: int | None = None) -> list[Any]:
    """All rows, checking that chunks are numbered without gaps and are full but for the last."""
    found: list[Any] = []
    sizes = []
    for chunk in sources.chunks(place, rows, limit):
        assert chunk.first == len(found)
        decoded = chunk.rows()
        assert len(decoded) == chunk.size
        sizes.append(chunk.size)
        found += [dict(columns_of(row)) for row in decoded]
    full, rest = divmod(len(found), rows)
    assert sizes == [rows] * full + [rest] * bool(rest)
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("buffer", [3, 64, 2**20])
def test_every_kind_gives_the_same_rows(
    kind: Any, buffer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "READ_BYTES", buffer)
    monkeypatch.setattr(readers, "READ_ROWS", max(2, buffer % 100))
    place = kind(tmp_path)
    assert read(place) == ROWS
    assert read(place, rows=1, limit=7) == ROWS[:7]
    assert read(place, rows=100, limit=17) == read(place, limit=10**6) == ROWS


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 8, 9, 16, 17, 18])
@pytest.mark.parametrize("rows", [1, 2, 4, 7, 17, 40])
def test_limit_and_rows_of_a_unit_are_exact(rows: int, limit: int, tmp_path: Path) -> None:
    assert read(parquet(tmp_path), rows, limit) == ROWS[:limit]


def test_chunks_end_before_they_weigh_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 3000)
    monkeypatch.setattr(readers, "PIECE_BYTES", 1000)
    heavy = [{"prompt": "x" * (2000 if number == 5 else 100)} for number in range(60)]
    pq.write_table(pa.Table.from_pylist(heavy), tmp_path / "heavy.parquet")
    found = list(sources.chunks(Place(path=str(tmp_path / "heavy.parquet")), 1000))
    assert [row for chunk in found for row in chunk.rows()] == heavy
    assert len(found) > 2
    assert all(sum(len(row["prompt"]) for row in chunk.rows()) <= 3000 for chunk in found)  # type: ignore[call-overload, index]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(VALUES, max_size=6),
    buffer=st.integers(1, 40),
    indent=st.none() | st.integers(0, 2),
    ascii_only=st.booleans(),
)
def test_elements_of_a_list_wherever_the_buffer_ends(
    values: list[Any], buffer: int, indent: int | None, ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("list") / "rows.json"
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    file.write_bytes(text.encode("utf-8", "replace"))
    expected = json.loads(file.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "READ_BYTES", buffer)
        found = [json.loads(piece.rows(0, 1)[0]) for piece in readers.of_list(file)]  # type: ignore[arg-type]
    assert found == expected


BAD_ELEMENTS = {
    "words": "{bad}",
    "a number without end": "1" * 5000,
    "nested too deeply": "[" * 100_000 + "]" * 100_000,
    "no UTF-8": '{"prompt": "\udcff"}',
    "one bracket too many": '{"a": 1}}',
    "no comma": '{"a": 1} {"a": 2}',
    "line break in a text": '{"a": "\n"}',
    "a lone surrogate": r'{"a": "\ud800"}',
    "not a number": '{"a": NaN}',
}


@pytest.mark.parametrize("name", BAD_ELEMENTS)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_bad_element_costs_one_row(name: str, suffix: str, tmp_path: Path) -> None:
    element = BAD_ELEMENTS[name].replace("\n", "\\n" if suffix == "jsonl" else "\n")
    good = json.dumps({"prompt": "p"})
    text = f"{good}\n{element}\n{good}\n" if suffix == "jsonl" else f"[{good}, {element},\n{good}]"
    (tmp_path / f"rows.{suffix}").write_bytes(text.encode("utf-8", "surrogateescape"))
    (chunk,) = sources.chunks(Place(path=str(tmp_path / f"rows.{suffix}")), 100)
    rows = chunk.rows()
    assert [rows[0], rows[2]] == [good, good] and len(rows) == 3


def test_texts_beyond_the_end_of_a_damaged_file_are_not_read() -> None:
    offsets = pa.py_buffer(b"".join(at.to_bytes(4, "little") for at in (0, 1, 40, 3)))
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abc".ljust(64, b"x"))[:3]])
    first, *others = readers.decoded(pa.record_batch({"prompt": texts}), 0, 3)
    assert columns_of(first) == {"prompt": "a"}
    assert [type(other) for other in others] == [BadRow, BadRow]


def test_a_row_of_a_table_that_python_cannot_hold_costs_one_row(tmp_path: Path) -> None:
    offsets, data = pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0])), pa.py_buffer(b"a\xffc")
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, data])
    times = pa.array([0, 0, 2**62], pa.timestamp("ms"))
    pq.write_table(pa.table({"prompt": texts, "at": times}), tmp_path / "rows.parquet")
    (chunk,) = sources.chunks(Place(path=str(tmp_path / "rows.parquet")), 100)
    first, second, third = chunk.rows()
    assert columns_of(first)["prompt"] == "a"
    for bad in (second, third):
        assert isinstance(bad, BadRow) and "cannot be decoded" in str(bad)
