"""A recipe's sources: files and sets, and every filter of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_srpo.data.problem_set import read_manifest
from megatron_srpo.data.sources import check_source, load_source
from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.run_directory import RunDirectory, differences
from megatron_srpo.recipe.data import DataSource
from megatron_srpo.recipe.load import load_recipe, resolved_yaml
from megatron_srpo.recipe.preflight import preflight
from tests.unit.folders import write_problems, write_recipe, write_set
from tests.unit.test_run_directory import record

TESTS = '{"kind": "stdio", "cases": [["1\\n", "1\\n"]]}'
CODE = {"domain": "code", "answer": None, "tests": TESTS}
ROWS: list[dict[str, Any]] = [
    {"difficulty": "easy", "pass_rate": 1.0, "source": "a"},
    {"difficulty": "medium", "pass_rate": 0.5, "source": "b"},
    {"difficulty": "hard", "pass_rate": 0.0, "source": "a"},
    {"difficulty": "medium", "pass_rate": 0.375, "source": "c", **CODE},
    {"difficulty": None, "pass_rate": None, "source": "a"},
]
EVERY_FILTER = [
    ({}, "01234"),
    ({"domain": "math"}, "0124"),
    ({"domain": "code"}, "3"),
    ({"difficulty": ["medium", "hard"]}, "123"),
    ({"difficulty": ["easy"]}, "0"),
    ({"sources": ["b", "c"]}, "13"),
    ({"min_pass_rate": 0.5}, "01"),
    ({"max_pass_rate": 0.375}, "23"),
    ({"max_pass_rate": 1.0}, "0123"),
    ({"min_pass_rate": 0.25, "max_pass_rate": 0.75, "domain": "math"}, "1"),
]


def source(path: Path, **filters: Any) -> DataSource:
    return DataSource.model_validate({"path": path, **filters})


def graded(folder: Path) -> Path:
    return write_set(folder, ROWS, rows_per_part=2, grading={"difficulty": {}})


def ids(chosen: DataSource) -> str:
    return "".join(problem.id.removeprefix("p") for problem in load_source(chosen))


def refused(chosen: DataSource) -> str:
    with pytest.raises(SrpoError) as caught:
        load_source(chosen)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("filters", "expected"), EVERY_FILTER)
def test_every_filter_of_a_set(tmp_path: Path, filters: dict[str, Any], expected: str) -> None:
    assert len(read_manifest(graded(tmp_path)).problems) == 3, "several parts"
    assert ids(source(tmp_path, **filters)) == expected


@pytest.mark.parametrize(("filters", "expected"), EVERY_FILTER)
@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl"])
def test_every_filter_of_a_file(tmp_path: Path, filters: dict[str, Any], expected: str, name: str) -> None:
    plain = {"domain": "math", "answer": "1", "tests": None}
    rows = [plain | {"id": f"p{at}", "prompt": "x"} | row for at, row in enumerate(ROWS)]
    if name == "p.parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    assert ids(source(tmp_path / name, **filters)) == expected


@pytest.mark.parametrize(
    ("filters", "column"),
    [
        ({"difficulty": ["hard"]}, "difficulty"),
        ({"domain": "math"}, "domain"),
        ({"sources": ["a"]}, "source"),
        ({"min_pass_rate": 0.5}, "pass_rate"),
        ({"max_pass_rate": 0.5}, "pass_rate"),
    ],
)
def test_a_filter_without_its_column_is_named(tmp_path: Path, filters: dict[str, Any], column: str) -> None:
    (key,) = filters
    said = f"the filter {key} needs the column {column}, which is missing; found id, prompt, answer"
    parquet = source(write_problems(tmp_path / "p.parquet", ["x"]), **filters)
    with pytest.raises(SrpoError, match=said):
        check_source(parquet)
    (tmp_path / "p.jsonl").write_text('{"id": "a", "prompt": "x", "answer": "1"}\n')
    assert said in refused(source(tmp_path / "p.jsonl", **filters))


def test_what_the_filters_leave_out_is_counted_when_nothing_is_left(tmp_path: Path) -> None:
    said = refused(source(graded(tmp_path), difficulty=["hard"], domain="code"))
    assert said == (
        f"{tmp_path} (domain code, difficulty hard): the filters leave none of its 5 problems "
        "(1 easy, 1 hard, 2 medium, 1 ungraded)."
    )


@pytest.mark.parametrize("filters", [{"difficulty": ["easy"]}, {"min_pass_rate": 0.1}, {"max_pass_rate": 0.1}])
def test_an_ungraded_set_says_what_to_run_without_reading_rows(tmp_path: Path, filters: dict[str, Any]) -> None:
    write_set(tmp_path, [{}])
    (key,) = filters
    with pytest.raises(SrpoError, match=f"chosen by {key}; run srpo data grade {tmp_path} --recipe RECIPE"):
        check_source(source(tmp_path, **filters))
    check_source(source(tmp_path, domain="math"))
    assert ids(source(tmp_path, domain="math")) == "0"


def test_a_source_that_no_problem_is_from_is_named(tmp_path: Path) -> None:
    said = refused(source(graded(tmp_path), sources=["a", "gsm"]))
    assert "sources names gsm, but no problem is from there; found a, b, c" in said


def test_a_pass_rate_that_is_none_is_named(tmp_path: Path) -> None:
    file = write_problems(tmp_path / "p.parquet", ["x", "y"], pass_rate=[0.5, 50.0])
    assert "row 2, column pass_rate: expected a number from 0 to 1" in refused(source(file, min_pass_rate=0.1))


def test_ids_must_differ_among_the_chosen(tmp_path: Path) -> None:
    rows = [{"id": "same", "source": name} for name in "ab"]
    write_set(tmp_path, rows, rows_per_part=1)
    assert "row 2, column id: 'same' already stands in row 1" in refused(source(tmp_path))
    assert len(load_source(source(tmp_path, sources=["b"]))) == 1


def test_parts_are_checked_cheaply_and_verified_when_read(tmp_path: Path) -> None:
    part = graded(tmp_path) / read_manifest(tmp_path).problems[0].file
    content = part.read_bytes()
    part.write_bytes(content[:-1] + b"?")
    check_source(source(tmp_path))  # as long as it was
    assert f"{part}: its content is not what the manifest says" in refused(source(tmp_path))
    part.write_bytes(content[:-1])
    with pytest.raises(SrpoError, match=f"{part}: the manifest says {len(content)} bytes, found"):
        check_source(source(tmp_path))
    part.unlink()
    with pytest.raises(SrpoError, match=f"{part}: the manifest names this file, but it is not there"):
        check_source(source(tmp_path))


def test_a_folder_that_is_no_set_and_an_empty_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SrpoError, match="no manifest.json in it"):
        check_source(source(tmp_path))
    with pytest.raises(SrpoError, match=f"there is no such file or set .looked for {tmp_path}/gone"):
        check_source(source(tmp_path / "gone"))
    with pytest.raises(SrpoError, match="the set has no problems"):
        check_source(source(write_set(tmp_path / "empty", [])))


# In a recipe


def test_a_path_without_filters_stays_a_plain_text(tmp_path: Path) -> None:
    file = write_recipe(tmp_path)
    plain, section = (load_recipe(file, [f"data.train={{m: {text}}}"]) for text in ("x", "{path: x}"))
    assert plain == section
    assert "    m: x\n" in resolved_yaml(section)
    assert differences(plain, section) == {}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "{path: x, dificulty: [hard]}",
            "unknown key data.train.m.dificulty; did you mean data.train.m.dif",
        ),
        ("{path: x, zzzzzz: 1}", "the keys here are data.train.m.path, data.train.m.domain"),
        ("{path: x, difficulty: [hrad]}", "data.train.m.difficulty[0] is 'hrad', expected 'easy', 'medium' or"),
        ("{path: x, difficulty: []}", "data.train.m: difficulty is an empty list"),
        ("{path: x, sources: []}", "data.train.m: sources is an empty list"),
        ("{path: x, domain: maths}", "data.train.m.domain is 'maths', expected 'math' or 'code'"),
        ("{path: x, min_pass_rate: 2}", "data.train.m.min_pass_rate is 2, expected less than or equal to 1"),
        ("{path: x, min_pass_rate: 0.5, max_pass_rate: 0.2}", "min_pass_rate 0.5 is above max_pass_rate 0.2"),
        ("{difficulty: [hard]}", "the key data.train.m.path is missing"),
        ("3", "data.train.m: expected the path of a file or set, or a section with path and filters, found 3"),
    ],
)
def test_wrong_sources_are_named_with_what_is_right(tmp_path: Path, value: str, said: str) -> None:
    with pytest.raises(SrpoError) as caught:
        load_recipe(write_recipe(tmp_path), [f"data.train={{m: {value}}}"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_filter_is_laid_over_a_path_and_a_path_replaces_all(tmp_path: Path) -> None:
    file = write_recipe(tmp_path)
    filtered = "data.train.math.difficulty=[hard]"
    path = load_recipe(file).data.train["math"].path
    assert load_recipe(file, [filtered]).data.train["math"] == source(path, difficulty=["hard"])
    assert load_recipe(file, [filtered, "data.train.math=x"]).data.train["math"] == source(Path("x"))


def test_two_sources_of_one_set_with_different_filters(tmp_path: Path) -> None:
    folder = graded(tmp_path / "set")
    values = f"data.train={{math: {{path: {folder}, domain: math}}, c: {{path: {folder}, difficulty: [medium]}}}}"
    recipe = load_recipe(write_recipe(tmp_path), [values])
    preflight(recipe)
    assert {name: ids(one) for name, one in recipe.train_sources.items()} == {"math": "0124", "c": "13"}
    (tmp_path / "again.yaml").write_text(resolved_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_plan_checks_sets_and_train_reads_them(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", [{"prompt": "long " * 50}])
    recipe = load_recipe(write_recipe(tmp_path), [f"data.heldout={{m: {folder}}}"])
    preflight(recipe, prompts=False)
    with pytest.raises(SrpoError, match=f"{folder}: problem p0: its prompt has"):
        preflight(recipe)
    (folder / "manifest.json").unlink()
    with pytest.raises(SrpoError, match="no manifest.json"):
        preflight(recipe, prompts=False)


def test_changed_filters_are_a_changed_recipe(tmp_path: Path) -> None:
    file, folder = write_recipe(tmp_path), graded(tmp_path / "set")
    arguments = [f"run_dir={tmp_path / 'run'}"]
    with RunDirectory(load_recipe(file, [*arguments, f"data.train={{m: {folder}}}"])) as run:
        record(run)
    with pytest.raises(SrpoError, match=r"data\.train\.m\.difficulty was None and is \['hard'\]"):
        RunDirectory(load_recipe(file, [*arguments, f"data.train={{m: {{path: {folder}, difficulty: [hard]}}}}"]))
    with RunDirectory(load_recipe(file, [*arguments, f"data.train={{m: {folder}}}", "grading.easy=0.9"])):
        pass
