"""`srpo reward check`, and the warning of a run whose responses cannot be judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo import cli
from megatron_srpo.observe.summary import error_alarm, summarize
from tests.support import journal_row

RIGHT = "<think>40 + 2</think> <answer>42</answer>"
PROGRAM = "<think>Add.</think> <answer>\n```python\nprint(int(input()) + 1)\n```\n</answer>"
TESTS = json.dumps({"kind": "stdio", "cases": [["1", "2"]]})


def check(monkeypatch: pytest.MonkeyPatch, file: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["srpo", "reward", "check", str(file), *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def write(folder: Path, *rows: Any) -> Path:
    file = folder / "responses.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_file_is_scored_with_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"answer": "42", "response": RIGHT, "tests": None},
        {"answer": "41", "response": RIGHT, "tests": None},
        {"answer": None, "response": PROGRAM, "tests": TESTS},
        {"answer": "42", "response": "42", "tests": None},
    ]
    file = write(tmp_path, *rows)
    assert check(monkeypatch, file, "--json", "reward.accuracy=2") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [reward["total"] for reward in found] == [2.0, 0.0, 2.0, -0.5]
    assert [reward["id"] for reward in found] == ["row 1", "row 2", "row 3", "row 4"]
    assert [reward["reason"] for reward in found] == [
        "42 equals 42",
        "42 is not 41",
        "1 of 1 cases",
        "no <answer>",
    ]
    assert check(monkeypatch, file, "--limit", "3") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "programs run in a sandbox of level" in printed
    assert "3 responses: 2 right, 0 could not be judged, mean reward 0.667" in printed


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([], [], "the file has no rows"),
        ([{"answer": "1"}], [], "the column response is missing"),
        ([{"response": "1"}], [], "the column answer is missing"),
        ([{"answer": "1", "response": 1}], [], "row 1, column response: expected text, found 1."),
        ([{"answer": "", "response": "1"}], [], "row 1, column answer: the text is empty."),
        ([{"tests": "{", "response": "1"}], [], "row 1, column tests: not valid JSON"),
        (
            [{"tests": {"kind": "x" * 999}, "response": "1"}],
            [],
            "of type dict. Write it as JSON text (json.dumps).",
        ),
        ([{"answer": "1", "response": "1"}], ["reward.anwer_format=boxed"], "did you mean reward.answer_format?"),
        (
            [{"answer": "1", "response": "1"}],
            ["reward.functions.x.path=nowhere:f"],
            "reward.functions.x: nowhere:f",
        ),
    ],
)
def test_bad_input_ends_in_one_sentence(
    rows: list[Any],
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check(monkeypatch, write(tmp_path, *rows), *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert len(error) < 600


def test_many_errors_are_an_alarm_with_the_main_cause() -> None:
    good = [journal_row(0, sample, components={"accuracy": 1.0, "format": -0.5}) for sample in range(18)]
    bad = [journal_row(1, sample, error=cause) for sample, cause in enumerate(["slow", "lost", "slow"])]
    assert error_alarm(good, 0.0) is None
    assert error_alarm(good + bad, 3 / 21) is None
    assert error_alarm(good + bad, 0.1) == (
        "3 of 21 responses could not be judged, which earned the least that can be; 2 of them: slow"
    )
    found = summarize(good + bad)
    assert found["error_share"] == pytest.approx(3 / 21)
    assert found["reward_accuracy"] == pytest.approx(18 / 21)
    assert found["reward_format"] == pytest.approx(-9 / 21)
