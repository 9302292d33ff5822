"""The same bytes whatever happens on the way, and one sentence where it cannot go on."""

from __future__ import annotations

import errno
import io
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

from megatron_srpo.data.curate import run
from megatron_srpo.data.curate.config import CurateConfig
from megatron_srpo.data.curate.finish import Finish, StoppedWritingError
from megatron_srpo.data.curate.progress import Bars
from megatron_srpo.data.curate.run import curate
from megatron_srpo.data.curate.unit import UnitWorker
from megatron_srpo.data.problem_set import hold_set, is_problem_set
from megatron_srpo.errors import SrpoError
from megatron_srpo.observe.metrics import JsonLines
from tests.unit.curate.jobs import check_counts, contents, lines_of, make, row, start, values, write_rows

PRINTS = {"kind": "stdio", "cases": [["1\n", "2\n"], ["5\n", "10\n"]]}
HANGING = {"kind": "stdio", "cases": [["1\n", "2\n"]]}


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def sources(folder: Path) -> dict[str, Any]:
    """Two sources with everything that may become of a row."""
    rows: list[Any] = [row(number) for number in range(12)]
    rows += [row(3), row(4, answer="10", prompt=row(4)["prompt"].upper()), "no JSON", row(20, answer="")]
    others = [row(number) for number in (5, 30, 31)]
    others.append({"prompt": "Print twice the number.", "tests": PRINTS, "references": ["print(2*int(input()))"]})
    others.append(row(4, prompt=f"{row(4)['prompt']} Please."))  # of two that contradict each other: it stays
    return {
        "first": {"path": write_rows(folder / "first.jsonl", rows), "labels": "wrong"},
        "second": write_rows(folder / "second.jsonl", others),
    }


def evaluation(folder: Path) -> dict[str, Any]:
    return {"sets": {"test": {"path": write_rows(folder / "test.jsonl", [row(7)])}}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The config of a set that was made without any disturbance."""
    folder = tmp_path_factory.mktemp("made")
    config = values(folder, sources(folder), contamination=evaluation(folder), rows_per_part=5)
    make(config)
    return config


def again(made: dict[str, Any], folder: Path, **more: Any) -> dict[str, Any]:
    """The same set in another folder."""
    return made | {"out": str(folder / "out")} | more


def units(config: dict[str, Any]) -> list[Path]:
    folder = Path(config["out"]) / "work" / "units"
    return sorted(unit for unit in folder.glob("*") if unit.suffix != ".tmp")


def test_counts_add_up_and_rows_are_where_they_belong(made: dict[str, Any]) -> None:
    manifest = check_counts(made)
    assert manifest.counts["total"] == {"rows": 21, "kept": 14, "refused": 6, "quarantined": 1}
    refused = {line["id"]: (line["rules"], line["reasons"]) for line in lines_of(made, "refused")}
    assert refused == {
        "first/4": (["conflict"], ["first/13 has the same text and another answer"]),
        "first/13": (["conflict"], ["first/4 has the same text and another answer"]),
        "first/7": (["contaminated"], ["100% of test/0"]),
        "first/12": (["duplicate"], ["of first/3, similarity 1.00"]),
        "second/0": (["duplicate"], ["of first/5, similarity 1.00"]),
        "first/15": (["missing"], ["no answer"]),
    }
    assert [line["id"] for line in lines_of(made, "quarantined")] == ["first/14"]
    assert manifest.counts["evaluation"] == {"test": 1}
    assert [part.rows for part in manifest.problems] == [5, 5, 4]
    assert not (Path(made["out"]) / "work").exists()


def test_the_order_is_that_of_sources_and_rows(made: dict[str, Any]) -> None:
    for kind in ("problems", "refused"):
        ids = [(line["source"], int(line["id"].partition("/")[2])) for line in lines_of(made, kind)]
        assert ids == sorted(ids)


def test_more_workers_make_the_same_bytes(made: dict[str, Any], tmp_path: Path) -> None:
    config = again(made, tmp_path, workers=3)
    make(config)
    assert contents(config) == contents(made)


def test_units_of_another_size_make_the_same_set(made: dict[str, Any], tmp_path: Path) -> None:
    config = again(made, tmp_path, rows_per_unit=7)
    make(config)
    parts = {name: hash for name, hash in contents(config).items() if name.startswith(("problems", "refused"))}
    assert parts and parts.items() <= contents(made).items()


def test_a_finished_set_is_left_alone(made: dict[str, Any]) -> None:
    before = {file: file.stat().st_mtime_ns for file in Path(made["out"]).rglob("*.*")}
    make(made)
    make(made | {"workers": 5, "worker_memory_megabytes": 3000})
    assert {file: file.stat().st_mtime_ns for file in Path(made["out"]).rglob("*.*")} == before


def test_killed_at_any_unit_it_goes_on_and_repeats_none(made: dict[str, Any], tmp_path: Path) -> None:
    config = again(made, tmp_path)
    done: dict[Path, int] = {}
    for kills in (1, 3):
        process = start(config | {"workers": kills})
        wait_until(partial(at_least, kills, process, config))
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        wait_until(lambda family=family: not any(one.is_running() for one in family))
        assert not is_problem_set(Path(config["out"]))
        assert all(unit.stat().st_ino == number for unit, number in done.items())
        done = {unit: unit.stat().st_ino for unit in units(config)}
        assert done
    seen: list[dict[Path, int]] = []
    discard = run._discard
    with pytest.MonkeyPatch.context() as patch:
        note = lambda work: (seen.append({unit: unit.stat().st_ino for unit in units(config)}), discard(work))  # noqa: E731
        patch.setattr(run, "_discard", note)
        make(config)
    assert done.items() <= seen[-1].items() and len(seen[-1]) == 6
    assert contents(config) == contents(made)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_process_and_its_units(number: signal.Signals, tmp_path: Path) -> None:
    endless = {"prompt": "Wait.", "tests": HANGING, "references": ["while True:\n    pass"]}
    rows = [row(1), endless]
    config = values(tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", rows)}, rows_per_unit=1, workers=2)
    process = start(config)
    # Nursery, a worker, its two sandboxes, and a program that runs in one.
    family: dict[int, psutil.Process] = {}

    def programs_run() -> bool:
        assert process.poll() is None
        family.update({one.pid: one for one in psutil.Process(process.pid).children(recursive=True)})
        return len(family) >= 5 and len(units(config)) == 1

    wait_until(programs_run)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said == f"stopped by {number.name}: everything recorded is kept, the same command goes on\n"
    wait_until(lambda: not any(one.is_running() for one in family.values()))
    assert [unit.name for unit in units(config)] == ["a.0000000000"]


def at_least(enough: int, process: subprocess.Popen[str], config: dict[str, Any]) -> bool:
    """Whether so many units are finished, or the process has ended."""
    return len(units(config)) >= enough or process.poll() is not None


def begun(config: dict[str, Any], until: int = 2) -> None:
    """Have some units of a set finished, and no more."""
    process = start(config)
    wait_until(partial(at_least, until, process, config))
    process.kill()
    process.communicate()
    assert units(config)


def test_what_changed_is_named(made: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(made["out"]).parent, tmp_path / "copy"))
    config = values(folder, sources(folder), contamination=evaluation(folder), rows_per_part=5)
    shutil.rmtree(config["out"])
    begun(config)
    names = list(reversed(config["sources"]))
    changes: dict[str, dict[str, Any]] = {
        "config.rows_per_part was 5 and is 6": {"rows_per_part": 6},
        "config.duplicates.similarity was 0.7 and is 0.8": {"duplicates": {"similarity": 0.8}},
        "config.sources.second.limit was None and is 3": {
            "sources": config["sources"] | {"second": config["sources"]["second"] | {"limit": 3}}
        },
        "config.order was ['first', 'second'] and is ['second', 'first']": {
            "sources": {name: config["sources"][name] for name in names}
        },
    }
    for difference, change in changes.items():
        with pytest.raises(SrpoError) as raised:
            make(config | change)
        assert difference in str(raised.value) and "--fresh" in str(raised.value)
    done = units(config)
    write_rows(folder / "test.jsonl", [row(8)])
    with pytest.raises(
        SrpoError, match=r"inputs.contamination/test.files.test.jsonl.xxh3 was .* and is .*--fresh"
    ):
        make(config)
    assert units(config) == done
    make(config, fresh=True)
    assert lines_of(config, "problems") != lines_of(made, "problems")
    with pytest.raises(SrpoError, match="rows_per_part was 5 and is 6"):
        make(config | {"rows_per_part": 6})


def test_work_of_other_versions_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = values(tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", [row(number) for number in range(9)])})
    begun(config, until=1)
    versions = run.versions
    monkeypatch.setattr(run, "versions", lambda: versions() | {"ftfy": "99"})
    with pytest.raises(SrpoError, match=r"versions.ftfy was '.*' and is '99'.*--fresh"):
        make(config)
    made = make(config, fresh=True)
    monkeypatch.undo()
    assert make(config) == made  # what is finished stays finished


def test_a_set_on_the_hub_is_one_commit_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="c" * 40))
    monkeypatch.setattr(run, "run_until_signal", lambda work: work.close())
    config = values(tmp_path, {"a": "some/set"}, contamination={"sets": {"b": {"path": "other/set"}}})
    with monkeypatch.context() as patch:
        patch.setattr(run, "_discard", lambda work: None)
        curate(CurateConfig.model_validate(config), False, Console(file=io.StringIO()))
    job = json.loads((tmp_path / "out" / "work" / "job.json").read_text())
    assert job["config"]["sources"]["a"]["revision"] == job["inputs"]["a"]["revision"] == "c" * 40
    assert job["inputs"]["contamination/b"]["revision"] == "c" * 40


def test_a_contradicting_row_names_one_that_has_another_answer(tmp_path: Path) -> None:
    rows = [row(4, answer=answer) for answer in ("9", "9.0", "10", "9")]
    config = values(tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", rows)})
    make(config)
    named = [line["reasons"][0].partition(" ")[0] for line in lines_of(config, "refused")]
    assert named == ["a/2", "a/2", "a/0", "a/2"]


def test_a_duplicate_of_a_duplicate_says_what_it_is_like(tmp_path: Path) -> None:
    story = "{} has apples; {} has pears; {} has plums; Dora has nuts; Emil has figs. How many are there in all?"
    names = (("Anna", "Bert", "Cleo"), ("Finn", "Bert", "Cleo"), ("Finn", "Gerd", "Hans"))
    rows = [{"prompt": story.format(*of), "answer": "7"} for of in names]
    config = values(tmp_path, {"a": write_rows(tmp_path / "a.jsonl", rows)}, duplicates={"similarity": 0.45})
    make(config)
    first, second = (line["reasons"][0] for line in lines_of(config, "refused"))
    assert first.startswith("of a/0, similarity 0.")
    assert second.startswith("of a/0 by way of a/1, similarity 0.")


def test_a_fresh_run_over_a_finished_set_can_be_gone_on_with(made: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(Path(made["out"]).parent, tmp_path / "copy"))
    config = made | {"out": str(folder / "out"), "rows_per_part": 6}
    process = start(config, "--fresh")
    wait_until(partial(at_least, 1, process, config))
    process.kill()
    process.communicate()
    assert contents(again(made, folder)).items() >= contents(made).items()  # the old set is still there
    manifest = make(config)
    assert manifest.config["rows_per_part"] == 6 and not (folder / "out" / "work").exists()


def test_work_that_is_half_removed_is_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work" / "units" / "a.0000000000"
    folder.mkdir(parents=True)
    (folder / "unit.json").touch()

    def killed(folder: Path, **options: Any) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            run._discard(tmp_path / "work")
    assert [file.name for file in tmp_path.iterdir()] == [run.DISCARDED]
    run._discard(tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_called_work_that_is_not_ours_stays(fresh: bool, tmp_path: Path) -> None:
    config = values(tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", [row(1)])})
    own = tmp_path / "out" / "work" / "thesis.txt"
    own.parent.mkdir(parents=True)
    own.write_text("years of it")
    with pytest.raises(SrpoError, match=r"out/work: .*thesis.txt.*; give another `out`"):
        make(config, fresh)
    assert own.read_text() == "years of it"
    own.rename(own.with_name("job.json.tmp"))  # as a kill at the beginning leaves it
    make(config, fresh)


def test_writing_the_set_can_be_stopped(tmp_path: Path) -> None:
    checked = CurateConfig.model_validate(values(tmp_path, {"a": "a.jsonl"}))
    folder = tmp_path / "out" / "work" / "units" / "a.0000000000"
    folder.parent.mkdir(parents=True)
    request = {"source": "a", "first": 0, "rows": [row(1)], "at": str(tmp_path / "at"), "lost": {}}
    UnitWorker(checked).do(request | {"folder": str(folder)})
    finish = Finish(checked, {}, [folder], JsonLines(tmp_path / "events"), Bars(Console(file=io.StringIO())))
    agreeing = [[True] for _ in finish.same_texts()]
    finish.stop()
    with pytest.raises(StoppedWritingError):
        finish.write(agreeing)
    assert not is_problem_set(tmp_path / "out") and folder.exists()


def test_a_full_disk_at_the_end_is_one_sentence_and_keeps_the_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, agreeing: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "part.tmp")

    config = values(tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", [row(1)])})
    with monkeypatch.context() as patch:
        patch.setattr(run.Finish, "write", full)
        with pytest.raises(SrpoError, match=r"out: the set cannot be written \(.*No space left.*; make room"):
            make(config)
    assert len(units(config)) == 1
    make(config)


def test_only_one_command_uses_a_folder(made: dict[str, Any]) -> None:
    with (
        hold_set(Path(made["out"])),
        pytest.raises(SrpoError, match="another srpo data command works on this set"),
    ):
        make(made)


EMPTY: dict[str, list[Any]] = {"no rows": [], "all refused": [row(1, answer="")], "all put aside": ["bad"]}


@pytest.mark.parametrize("name", EMPTY)
def test_a_set_may_be_empty(name: str, tmp_path: Path) -> None:
    config = values(tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", EMPTY[name])})
    make(config)
    manifest = check_counts(config)
    assert manifest.problems == () and manifest.counts["total"]["rows"] == len(EMPTY[name])
    assert f"0 problems (none) out of {len(EMPTY[name])} rows" in (tmp_path / "out" / "card.md").read_text()


def test_a_source_that_breaks_off_keeps_the_units_before(tmp_path: Path) -> None:
    good = write_rows(tmp_path / "good.jsonl", [row(number) for number in range(8)])
    (tmp_path / "cut.json").write_text(json.dumps([row(9)])[:-1])
    config = values(tmp_path, {"good": good, "cut": str(tmp_path / "cut.json")})
    process = start(config)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.count("\n") == 1 and "the list does not end" in said
    assert [unit.name for unit in units(config)] == ["good.0000000000", "good.0000000004"]


def test_a_folder_that_cannot_be_one_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    config = values(tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", [row(1)])})
    with pytest.raises(SrpoError, match="out: cannot be used as a folder"):
        make(config)


def test_what_cannot_be_read_of_an_evaluation_set_is_named(tmp_path: Path) -> None:
    for bad, said in (
        ("no JSON", "row 2: the line is not valid JSON"),
        ('{"prompt": 3}', "row 2: expected text in"),
        (None, "there are no rows in it"),
    ):
        sets = {"test": {"path": write_rows(tmp_path / "test.jsonl", [row(1), bad] if bad else [])}}
        config = values(
            tmp_path, {"a": write_rows(tmp_path / "rows.jsonl", [row(1)])}, contamination={"sets": sets}
        )
        with pytest.raises(SrpoError, match=f"contamination.sets.test.*{said}"):
            make(config, fresh=True)


def test_the_number_of_workers_is_no_part_of_the_identity(made: dict[str, Any]) -> None:
    identity = CurateConfig.model_validate(made).identity()
    assert not {"workers", "out", "worker_memory_megabytes"} & set(identity) and "rows_per_unit" in identity
