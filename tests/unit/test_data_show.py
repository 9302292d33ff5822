"""`srpo data show`: what a user sees of a set that the real curation has made, and of a file of problems."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo import cli
from megatron_srpo.data.show.plots import LONGEST_NAME, write_plots
from megatron_srpo.data.show.rows import Row, repairs_in
from megatron_srpo.data.show.tally import RATES, Tally, rate_bin
from megatron_srpo.data.show.text import shortened
from megatron_srpo.plain import plain
from tests.unit.sets import EVIL, TESTS, make_set, write_lines

KEPT = [*(f"alpha/{row}" for row in range(11)), "beta/0", "beta/3"]
REFUSED = ["alpha/11", "alpha/12", "alpha/13", "beta/1", "beta/2"]
QUARANTINED = ["beta/4", "beta/5"]
Show = Callable[..., str]
GRADED: list[dict[str, Any]] = [
    {
        "id": "one",
        "prompt": "1+1?",
        "answer": "2",
        "difficulty": "easy",
        "pass_rate": 1.0,
        "source": "[red]s[/red]",
    },
    {"id": "two", "prompt": "2+2?", "answer": "4", "difficulty": "hard", "pass_rate": 0.0},
    {"id": "three", "prompt": "3+3?", "answer": "6", "difficulty": "medium", "pass_rate": 0.5},
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("show"))


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Show:
    """Runs `srpo data show`; what it prints, or with a code other than 0 what it says of the error."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str | Path | int, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["srpo", "data", "show", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert int(ended.value.code or 0) == code, printed
        assert not (code and printed.out) and not (not code and printed.err)
        return printed.err if code else printed.out

    return run


def counts(show: Show, path: Path, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(show(path, "--json", *options))
    return found


def shown(text: str) -> list[str]:
    """The ids of the examples in an output."""
    lines = (line.split() for line in text.splitlines())
    return [words[1] for words in lines if len(words) == 2 and words[0] in ("kept", "refused", "quarantined")]


def test_counts_are_those_of_the_curation(small: Path, show: Show) -> None:
    found = counts(show, small)
    assert found["rows"] == {"kept": len(KEPT), "refused": len(REFUSED), "quarantined": len(QUARANTINED)}
    assert found["sources"] == {
        "alpha": {"kept": 11, "refused": 3, "quarantined": 0},
        "beta": {"kept": 2, "refused": 2, "quarantined": 2},
    }
    assert found["domains"]["code"]["kept"] == 1 and found["domains"]["unknown"]["quarantined"] == 2
    manifest = json.loads((small / "manifest.json").read_text())["counts"]
    assert {rule: (of["repaired"], of["refused"]) for rule, of in found["rules"].items()} == {
        rule: (of["repaired"], of["refused"]) for rule, of in manifest["rules"].items()
    }
    assert found["lengths"]["domains"] == {name: manifest["lengths"][name] for name in ("code", "math")}
    assert found["lengths"]["bounds"] == manifest["lengths"]["bounds"]
    assert found["confusion"] == manifest["confusion"] is not None
    assert (found["pass_rates"], found["grading"], found["filters"]) == (None, None, {})


def test_overview_has_all_tables_and_every_row_once(small: Path, show: Show) -> None:
    text = show(small, "--examples", 20)
    assert shown(text) == [*KEPT, *REFUSED, *QUARANTINED]
    for part in (
        "small: 20 rows, 13 kept, 5 refused, 2 quarantined",
        "by source",
        "by domain",
        "by rule",
        "Another problem has the same text and another answer",
        "up to 128",
        "rules against the labels of 14 rows",
        "conflict: alpha/12 has the same text and another answer",
        "duplicate: of alpha/4",
        "2 cases, calls of double; the first: [3] -> 6",
        "the line is a list, expected an object",
    ):
        assert part in text, part
    assert "by difficulty" not in text and "pass rates" not in text


def test_examples_depend_on_the_seed_alone(small: Path, show: Show) -> None:
    first = shown(show(small))
    assert len(first) == 3 + 3 + 2
    assert shown(show(small, "--seed", 0)) == first
    assert shown(show(small, "--status", "kept")) == first[:3]
    others = {tuple(shown(show(small, "--status", "kept", "--seed", seed))) for seed in range(1, 9)}
    assert len(others) > 4 and {name for names in others for name in names} <= set(KEPT)
    assert shown(show(small, "--examples", 0)) == []


def test_examples_are_a_fair_sample(small: Path, show: Show) -> None:
    seen = [name for seed in range(60) for name in shown(show(small, "--status", "kept", "--seed", seed))]
    assert set(seen) == set(KEPT)  # each is missed with (10/13)^60 = 1e-7
    assert all(len(set(seen[at : at + 3])) == 3 for at in range(0, len(seen), 3))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--status", "refused"], REFUSED),
        (["--status", "quarantined"], QUARANTINED),
        (["--source", "beta"], ["beta/0", "beta/3", "beta/1", "beta/2", "beta/4", "beta/5"]),
        (["--domain", "code"], ["beta/3"]),
        (["--rule", "conflict"], ["alpha/11", "alpha/12"]),
        (["--rule", "duplicate", "--source", "beta"], ["beta/1"]),
        (["--rule", "duplicate", "--source", "alpha"], []),
    ],
)
def test_filters_restrict_examples_and_counts(
    small: Path, show: Show, options: list[str], names: list[str]
) -> None:
    assert shown(show(small, "--examples", 20, *options)) == names
    found = counts(show, small, *options)
    assert sum(found["rows"].values()) == len(names)
    assert sum(sum(of.values()) for of in found["sources"].values()) == len(names)
    assert found["confusion"] is None and found["filters"]


def test_lengths_are_of_the_status_that_is_asked_for(small: Path, show: Show) -> None:
    lengths = counts(show, small, "--status", "refused")["lengths"]
    assert (lengths["of"], sum(lengths["domains"]["math"])) == ("refused", len(REFUSED))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("alpha/3", ("kept", "prompt", "how many drums", "answer  8")),
        ("beta/1", ("refused", "row 1", "duplicate: of alpha/4")),
        ("beta/5", ("quarantined", "not valid JSON", 'row as read  {"prompt": "broken \\x1b[31m')),
        ("beta/3", ("all tests", json.dumps(TESTS))),
    ],
)
def test_one_row_is_shown_whole(small: Path, show: Show, name: str, parts: tuple[str, ...]) -> None:
    text = show(small, "--id", name)
    assert shown(text) == [name]
    assert all(part in text for part in parts), text
    found = json.loads(show(small, "--id", name, "--json"))
    assert (found["id"], found["status"]) == (name, parts[0] if parts[0] != "all tests" else "kept")


def test_a_long_prompt_is_cut_in_examples_and_whole_by_id(tmp_path: Path, show: Show) -> None:
    prompt = "\n".join(f"line {number}" for number in range(40))
    path = write_lines(tmp_path / "long.jsonl", [{"id": "a", "prompt": prompt, "answer": "2"}])
    text = show(path)
    assert "line 14" in text and "line 15" not in text and "more characters)" in text
    assert "line 39" in show(path, "--id", "a")


def test_texts_are_no_markup_and_no_control_characters(small: Path, show: Show) -> None:
    expected = EVIL.replace("\x1b", "\\x1b").replace("\x9b", "\\x9b").replace("\u202e", "\\u202e")
    for text in (show(small, "--id", "alpha/10"), show(small, "--examples", 20)):
        assert expected in text
        assert all(character.isprintable() or character == "\n" for character in text)


def test_escapes() -> None:
    assert plain("a\tb\r\n\x7f\u200b\u2028\ud800\U000e0001 é∞中\u00a0") == (
        "a    b\\x0d\n\\x7f\\u200b\\u2028\\ud800\\U000e0001 é∞中\u00a0"
    )
    assert shortened("abcdef", 3) == "abc ... (3 more characters)"
    assert shortened("abc", 3) == "abc"


def test_a_file_of_problems(tmp_path: Path, show: Show) -> None:
    path = write_lines(tmp_path / "graded.jsonl", GRADED)
    found = counts(show, path)
    assert found["rows"]["kept"] == 3 and list(found["difficulties"]) == ["easy", "medium", "hard"]
    assert dict(zip(found["pass_rates"]["bins"], found["pass_rates"]["rows"], strict=True)) == {
        **dict.fromkeys(RATES, 0),
        "0": 1,
        "0.5 to 0.6": 1,
        "1": 1,
    }
    text = show(path)
    assert shown(text) == ["one", "two", "three"]
    assert "pass rates, as graded" in text and "by difficulty" in text and "[red]s[/red]" in text
    assert "easy, pass rate 1" in text
    assert shown(show(path, "--difficulty", "hard")) == ["two"]
    assert json.loads(show(path, "--id", "two", "--json"))["pass_rate"] == 0


def test_a_part_of_a_set_is_a_file_of_problems(small: Path, show: Show) -> None:
    (part,) = (small / "problems").iterdir()
    assert counts(show, part)["rows"]["kept"] == len(KEPT)
    assert counts(show, small / "manifest.json") == counts(show, small)


def unfinished(small: Path) -> None:
    (small / "manifest.json").unlink()
    (small / "work").mkdir()
    (small / "work" / "job.json").write_text("{}")


def no_set(small: Path) -> None:
    (small / "manifest.json").unlink()


def no_part(small: Path) -> None:
    next((small / "refused").iterdir()).unlink()


def changed_part(small: Path) -> None:
    path = next((small / "problems").iterdir())
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unfinished, "the set is not finished; run srpo data curate with its config again"),
        (no_set, "no manifest.json in it"),
        (no_part, "the manifest names this file, but it is not there"),
        (changed_part, "bytes, found"),
    ],
)
def test_a_set_that_is_not_whole(
    small: Path, tmp_path: Path, show: Show, change: Callable[[Path], None], message: str
) -> None:
    copy = Path(shutil.copytree(small, tmp_path / "copy"))
    change(copy)
    error = show(copy, code=2)
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_set_that_is_being_made_again_is_shown_and_said(small: Path, tmp_path: Path, show: Show) -> None:
    copy = Path(shutil.copytree(small, tmp_path / "copy"))
    (copy / "work").mkdir()
    (copy / "work" / "job.json").write_text("{}")
    assert "another version of it is being made" in show(copy)
    assert "another version" not in show(small)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--status", "lost"], "unknown status; expected kept, refused, quarantined"),
        (["--source", "gamma"], "no row of --source gamma; there are alpha, beta."),
        (["--domain", "music"], "there are code, math."),
        (["--difficulty", "hard"], "no row of --difficulty hard; no row names a difficulty."),
        (["--rule", "gone"], "there are conflict, contaminated, duplicate, missing."),
        (["--id", "alpha/99"], "no row alpha/99, neither kept nor left out; ids look like alpha/0"),
        (["--id", "alpha/1", "--source", "alpha"], "leave out the filters"),
    ],
)
def test_wrong_options_end_in_one_sentence(small: Path, show: Show, options: list[str], message: str) -> None:
    assert message in show(small, *options, code=2)


def test_a_rule_that_there_is_may_have_no_rows(small: Path, show: Show) -> None:
    assert sum(counts(show, small, "--rule", "reference_fails")["rows"].values()) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, "there is no such set or file"),
        ("notes.txt", "x", "neither the folder of a set nor a file of problems"),
        ("empty.jsonl", "", "the file has no rows"),
        ("bad.parquet", "x", "not a readable parquet file"),
        ("columns.jsonl", '{"a\\u001b[31m": 1}\n', "found a\\x1b[31m"),
        ("rate.jsonl", '{"id": "a", "prompt": "b", "answer": "c", "pass_rate": 3}\n', "row 1, column pass_rate"),
        ("row.jsonl", '{"id": "a", "prompt": "", "answer": "c"}\n', "row 1, column prompt: the text is empty"),
    ],
)
def test_wrong_files_end_in_one_sentence(
    tmp_path: Path, show: Show, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    error = show(tmp_path / name, code=2)
    assert message in error and error.count("\n") == 1 and "\x1b" not in error


def png_size(path: Path) -> tuple[int, int]:
    start = path.read_bytes()[:24]
    assert start.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", start[16:24])
    return width, height


def test_plots_of_a_set(small: Path, tmp_path: Path, show: Show) -> None:
    folder = tmp_path / "new" / "plots"
    text = show(small, "--plots", folder)
    names = [f"{name}.{suffix}" for name in ("sources", "rules", "lengths") for suffix in ("png", "svg")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert all(f"written: {folder / name}" in text for name in names)
    assert png_size(folder / "lengths.png") == (1200, 600)
    assert [png_size(folder / f"{name}.png") for name in ("sources", "rules")] == [(1200, 375), (1200, 465)]
    assert all((folder / name).stat().st_size > 5_000 for name in names)
    again = tmp_path / "again"
    show(small, "--plots", again)
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_plots_of_difficulty_where_it_was_graded(tmp_path: Path, show: Show) -> None:
    path = write_lines(tmp_path / "graded.jsonl", GRADED)
    show(path, "--plots", tmp_path)
    assert png_size(tmp_path / "difficulty.png") == (1200, 600)
    assert not (tmp_path / "rules.png").exists()  # nothing was refused


def test_plots_cannot_be_written(small: Path, tmp_path: Path, show: Show) -> None:
    (tmp_path / "file").write_text("x")
    assert "plots cannot be written" in show(small, "--plots", tmp_path / "file" / "plots", code=2)


@contextmanager
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The figures that are saved meanwhile."""
    from matplotlib.figure import Figure

    saved: list[Any] = []
    save = Figure.savefig

    def keep(figure: Any, *arguments: Any, **options: Any) -> None:
        if figure not in saved:
            saved.append(figure)
        save(figure, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        yield saved


def test_labels_of_many_rules_and_long_sources_do_not_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = Tally(None)
    for number in range(50):
        rules = ((f"rule_number_{number % 25}", "x"),)
        source = f"$a_{number}$ source of the name " + "long " * 20 + str(number)
        tally.add(Row("refused", "x", source, "math", None, None, 10**number % 99_999, (), rules, dict))
    with figures(monkeypatch) as saved:
        write_plots({"filters": {}, **tally.counts([])}, "n" * 200, tmp_path)
    for figure in saved[:2]:
        labels = figure.axes[0].get_yticklabels()
        assert len(labels) in (25, 41) and all(len(label.get_text()) <= LONGEST_NAME for label in labels)
        boxes = [label.get_window_extent() for label in labels]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        assert min(box.x0 for box in boxes) >= 0
        title = figure.get_suptitle(), figure._suptitle.get_window_extent()
        assert title[1].x1 <= figure.bbox.x1, title


def test_bins_of_pass_rates() -> None:
    names = [RATES[rate_bin(rate)] for rate in (0.0, 0.05, 0.1, 0.3, 0.7, 0.99, 1.0)]
    assert names == ["0", "0 to 0.1", "0.1 to 0.2", "0.3 to 0.4", "0.7 to 0.8", "0.9 to 1", "1"]


def test_repairs_are_read_from_notes() -> None:
    assert repairs_in('{"repairs": [["html", "two tags"], ["noise", "a number"]]}') == (
        ("html", "two tags"),
        ("noise", "a number"),
    )
    for other in (None, "{}", '{"a": "\\"repairs\\""}', '{"repairs": "of cars"}', '{"repairs": ["ab", ["a"]]}'):
        assert repairs_in(other) == ()


def test_repairs_are_shown_and_counted(tmp_path: Path, show: Show) -> None:
    rows = [
        {"id": "a", "prompt": "1+1?", "answer": "2", "meta": json.dumps({"repairs": [["html", "two tags"]]})},
        {"id": "b", "prompt": "2+2?", "answer": "4", "meta": "{}"},
    ]
    path = write_lines(tmp_path / "repaired.jsonl", rows)
    assert counts(show, path)["rules"] == {"html": {"repaired": 1, "refused": 0}}
    text = show(path, "--rule", "html")
    assert shown(text) == ["a"] and "repaired by  html: two tags" in text
