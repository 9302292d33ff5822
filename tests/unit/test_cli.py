"""The command line: what a user reads for bad input, and that nothing starts then."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo import cli
from megatron_srpo.errors import SrpoError
from tests.unit.folders import write_problems, write_recipe, write_tokenizer


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run `srpo ARGUMENTS` here; the exit code."""
    monkeypatch.setattr(sys, "argv", ["srpo", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands in for the launcher; holds the arguments of each start."""
    from megatron_srpo.launch import local

    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(local, "train", lambda *arguments: calls.append(arguments))
    return calls


def remove_model(folder: Path) -> None:
    (folder / "model").rename(folder / "elsewhere")


def truncate_weights(folder: Path) -> None:
    file = folder / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def enlarge_tokenizer(folder: Path) -> None:
    write_tokenizer(folder / "model" / "tokenizer.json", extra=40)


def lengthen_prompt(folder: Path) -> None:
    write_problems(folder / "train.parquet", ["1 + 0?", "What is " + "1 + " * 20 + "0?"])


def drop_answers(folder: Path) -> None:
    file = folder / "train.parquet"
    file.rename(folder / "other.parquet")
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(folder / "other.parquet").drop_columns(["answer"]), file)


def remove_python(folder: Path) -> None:
    (folder / "python").unlink()


@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (remove_model, [], ["there is no such folder", "model.path"]),
        (truncate_weights, [], ["model.safetensors: truncated, expected", "bytes, found"]),
        (enlarge_tokenizer, [], ["tokenizer.json", "size 297", "config.json says vocab_size 260"]),
        (lengthen_prompt, [], ["problem p1: its prompt has 96 tokens", "rollout.max_prompt_tokens is 30"]),
        (drop_answers, [], ["train.parquet: the column answer is missing"]),
        (remove_python, [], ["engine.python", "no interpreter there", "make setup"]),
        (None, ["rollout.promts_per_step=8"], ["unknown key", "did you mean rollout.prompts_per_step?"]),
        (None, ["trainer.ranks=two"], ["trainer.ranks is 'two', expected a valid integer"]),
        (None, ["trainer.tensor_parallel=4"], ["tensor_parallel 4", "num_key_value_heads 2", "1 or 2"]),
        (None, ["trainer.ranks=3"], ["ranks 3 is not a multiple of", "= 2"]),
        (None, ["--replay", "nowhere"], ["--replay nowhere: no recorded steps"]),
    ],
)
def test_bad_input_ends_in_one_sentence_and_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: list[tuple[Any, ...]],
    spoil: Any,
    arguments: list[str],
    said: list[str],
) -> None:
    recipe = write_recipe(tmp_path)
    if spoil:
        spoil(tmp_path)
    assert run(monkeypatch, "train", recipe, *arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(part in err for part in said), err
    assert out == ""
    assert started == []


def test_what_a_file_holds_is_no_command_of_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "p\x1b[2J\u202e"
    row = {"id": evil, "prompt": "1+1?", "answer": "2", "response": "2"}
    file = tmp_path / "rows.jsonl"
    file.write_text(2 * (json.dumps({**row, "domain": evil}) + "\n"))
    assert run(monkeypatch, "data", "show", file) == 2
    monkeypatch.setattr(cli, "app", lambda: (_ for _ in ()).throw(SrpoError(f"row {evil}: no.")))
    assert run(monkeypatch) == 2
    said = capsys.readouterr().err
    assert said.endswith("error: row p\\x1b[2J\\u202e: no.\n") and "\x1b" not in said and "\u202e" not in said


def test_a_good_recipe_starts_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[tuple[Any, ...]]
) -> None:
    recipe = write_recipe(tmp_path)
    assert run(monkeypatch, "train", recipe, "steps=7", "--run-dir", tmp_path / "12") == 0
    ((resolved, replay),) = started
    assert (resolved.steps, resolved.directory, replay) == (7, tmp_path / "12", None)


def test_a_replay_needs_no_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[tuple[Any, ...]]
) -> None:
    recipe = write_recipe(tmp_path)
    remove_python(tmp_path)
    (tmp_path / "old" / "rollouts").mkdir(parents=True)
    (tmp_path / "old" / "rollouts" / "step-000000.parquet").touch()
    assert run(monkeypatch, "train", recipe, "--replay", tmp_path / "old") == 0
    assert started[0][1] == tmp_path / "old"


def test_plan_prints_json_or_tables_and_starts_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: list[tuple[Any, ...]],
) -> None:
    recipe = write_recipe(tmp_path)
    assert run(monkeypatch, "plan", recipe, "seed=5", "--json") == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["seed"] == 5
    assert run(monkeypatch, "plan", recipe) == 0
    assert "small: on CPUs, 4 processes train" in capsys.readouterr().out
    assert started == []


def test_plan_refuses_what_train_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert run(monkeypatch, "plan", recipe, "rollout.max_response_tokens=4000") == 2
    assert "max_position_embeddings 512" in capsys.readouterr().err
