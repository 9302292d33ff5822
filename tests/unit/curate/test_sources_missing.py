"""What cannot be read ends in one sentence; what changed is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srpo.data.curate import sources
from megatron_srpo.data.curate.place import Place
from megatron_srpo.errors import SrpoError


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def write_parquet(file: Path) -> None:
    pq.write_table(pa.table({"prompt": [str(number) * 50 for number in range(5000)]}), file, row_group_size=100)


def write_arrow(file: Path) -> None:
    table = pa.table({"prompt": [str(number) * 50 for number in range(5000)]})
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)


def broken(folder: Path) -> dict[str, tuple[str, str]]:
    """Path and a part of the sentence, by name."""
    write_parquet(folder / "cut.parquet")
    cut(folder / "cut.parquet", 0.5)
    write_arrow(folder / "cut.arrow")
    cut(folder / "cut.arrow", 0.5)
    write_parquet(folder / "damaged.parquet")
    content = bytearray((folder / "damaged.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    (folder / "damaged.parquet").write_bytes(content)
    (folder / "cut.json").write_text('[{"prompt": "a"}, {"prompt": "b')
    (folder / "open.json").write_text('[{"prompt": "a"}, {"prompt": "b"}')
    (folder / "empty.parquet").touch()
    (folder / "empty.arrow").touch()
    (folder / "rows.csv").write_text("prompt\n1\n")
    (folder / "bare").mkdir()
    return {
        "parquet cut short": (str(folder / "cut.parquet"), "not a readable parquet file"),
        "parquet damaged": (str(folder / "damaged.parquet"), "cannot be read"),
        "arrow cut short": (str(folder / "cut.arrow"), "cannot be read"),
        "list cut short": (str(folder / "cut.json"), "the list does not end"),
        "list without end": (str(folder / "open.json"), "the list does not end"),
        "empty parquet": (str(folder / "empty.parquet"), "not a readable parquet file"),
        "empty arrow": (str(folder / "empty.arrow"), "cannot be read"),
        "unknown kind": (str(folder / "rows.csv"), "unknown kind of file"),
        "missing": (str(folder / "none.jsonl"), "there is no such file"),
        "empty pattern": (str(folder / "none-*.parquet"), "there is no such file"),
        "pattern that finds other kinds": (str(folder / "*.*"), "unknown kind of file"),
        "empty folder": (str(folder / "bare"), "cannot be read as a folder or as a set on the hub"),
        "on the hub, without network": ("nobody/nothing", "cannot be read as a folder or as a set on the hub"),
    }


NAMES = (
    "parquet cut short",
    "parquet damaged",
    "arrow cut short",
    "list cut short",
    "list without end",
    "empty parquet",
    "empty arrow",
    "unknown kind",
    "missing",
    "empty pattern",
    "pattern that finds other kinds",
    "empty folder",
    "on the hub, without network",
)


@pytest.mark.parametrize("name", NAMES)
def test_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path, said = broken(tmp_path)[name]
    with pytest.raises(SrpoError) as raised:
        for chunk in sources.chunks(Place(path=path), 100):
            chunk.rows()
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert path.rpartition("/")[2].partition("*")[0] in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.json", ""), ("a.json", " [ ] ")]
)
def test_nothing_in_a_file_is_no_rows(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert list(sources.chunks(Place(path=str(tmp_path / name)), 5)) == []


def test_a_table_without_rows_is_no_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "a.parquet")
    place = Place(path=str(tmp_path / "a.parquet"))
    assert list(sources.chunks(place, 5)) == [] and sources.known_rows(place) == 0


def test_rows_are_known_where_files_say_so(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    write_parquet(tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text("{}\n")
    assert sources.known_rows(Place(path=str(tmp_path / "*.parquet"))) == 10_000
    assert sources.known_rows(Place(path=str(tmp_path / "*"))) is None


def test_the_fingerprint_knows_every_file(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text(json.dumps({"prompt": folder}) + "\n")
    places = [Place(path=str(tmp_path / "*" / "rows.jsonl")), Place(path=str(tmp_path))]
    before = [sources.fingerprint(place) for place in places]
    assert [list(of["files"]) for of in before] == [["a/rows.jsonl", "b/rows.jsonl"]] * 2
    (tmp_path / "a" / "rows.jsonl").write_text(json.dumps({"prompt": "c"}) + "\n")
    after = [sources.fingerprint(place) for place in places]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False]
    moved = tmp_path.with_name("moved")
    shutil.move(tmp_path, moved)
    assert sources.fingerprint(Place(path=str(moved))) == after[1]


def test_the_fingerprint_of_a_folder_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    before = sources.fingerprint(Place(path=str(tmp_path)))
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "rows.jsonl.metadata").write_text("when it was downloaded")
    assert sources.fingerprint(Place(path=str(tmp_path))) == before


def test_what_a_pattern_finds_must_be_readable_files(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "gone.jsonl")
    for pattern, said in (("*.parquet", "folder.parquet: is a folder"), ("*.jsonl", "link.jsonl: cannot be read")):
        with pytest.raises(SrpoError, match=said):
            sources.fingerprint(Place(path=str(tmp_path / pattern)))


def test_a_name_on_the_hub_is_read_at_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def info(self: object, path: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        asked.append((path, revision))
        return SimpleNamespace(sha="a" * 40)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    assert sources.pinned(Place(path="some/set")).revision == "a" * 40
    assert sources.pinned(Place(path="some/set", revision="main", subset="b")).revision == "a" * 40
    assert sources.pinned(Place(path="some/set", revision="b" * 40)).revision == "b" * 40
    (tmp_path / "rows.jsonl").touch()
    for path in (tmp_path, tmp_path / "rows.jsonl"):
        assert sources.pinned(Place(path=str(path))).revision is None
    assert asked == [("some/set", None), ("some/set", "main")]


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(self: object, path: str, **options: object) -> None:
        raise ConnectionError("no way\nto it")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    with pytest.raises(SrpoError, match=r"^nobody/nothing: .* revision main \(ConnectionError: no way to it\)\.$"):
        sources.pinned(Place(path="nobody/nothing"))


def test_the_fingerprint_of_a_name_is_the_name() -> None:
    place = Place(path="nobody/nothing", subset="main", revision="abc")
    assert sources.fingerprint(place) == {
        "hub": "nobody/nothing",
        "subset": "main",
        "split": "train",
        "revision": "abc",
    }
