"""`srpo data grade` against a small server that answers as the prompt says, and with real judges."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from rich.console import Console
from tokenizers import Tokenizer

from megatron_srpo import cli
from megatron_srpo.data.grade.journal import GradeJournal
from megatron_srpo.data.grade.survey import Survey, survey
from megatron_srpo.data.problem_set import read_manifest, read_parts
from megatron_srpo.launch import grade as grading
from megatron_srpo.observe.grading import GradingProgress
from megatron_srpo.recipe.load import load_recipe
from megatron_srpo.recipe.model_config import read_model_config
from tests.unit.folders import write_recipe, write_set

# A problem's text is the list of its responses: 1 right, 0 wrong, x the judge raises, - cut off, ! aborted.
PROMPTS = {
    "always": "1111",
    "twice": "1010",
    "never": "00--",
    "unsure": "1xx0",
    "broken": "xxx!",
    "long": "0" * 40,
}
EXPECTED = {
    "always": ("easy", 1.0),
    "twice": ("medium", 0.5),
    "never": ("hard", 0.0),
    "unsure": ("medium", 0.5),
    "broken": (None, None),
    "long": (None, None),
}
WORDS = {"1": "1", "0": "0", "x": "raise", "-": "0", "!": "1", "p": "```python\nprint(7)\n```"}
FINISH = {"-": "length", "!": "abort"}


class Server:
    """Answers in a thread of its own, since grading has the main one for its signals."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.model = {"model_path": "served", "weight_version": "default"}
        self.version = "default"
        self.requests: list[tuple[str, int]] = []
        self.samplings: list[dict[str, Any]] = []
        self.infos = self.now = self.most = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_get("/model_info", self.model_info)
        app.router.add_post("/generate", self.generate)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def model_info(self, _: web.Request) -> web.Response:
        self.infos += 1
        return web.json_response(self.model)

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt = self._tokenizer.decode(body["input_ids"])
        sample = int(body["rid"].split("/")[-3])
        self.requests.append((prompt, sample))
        self.samplings.append(body["sampling_params"])
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.02)
        self.now -= 1
        mark = prompt[sample % len(prompt)]
        tokens = self._tokenizer.encode(WORDS[mark]).ids
        meta = {
            "finish_reason": {"type": FINISH.get(mark, "stop")},
            "prompt_tokens": len(body["input_ids"]),
            "weight_version": self.version,
            "output_token_logprobs": [[-0.5, token, None] for token in tokens],
        }
        return web.json_response({"output_ids": tokens, "meta_info": meta})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe whose judge takes the response for its accuracy and raises where that is no number."""
    file = write_recipe(tmp_path)
    more = """\
grading: {samples: 4}
reward: {judge: {path: "tests.unit.reward_functions:share"}, workers: 1}
"""
    text = file.read_text().replace('"Q: {question} A:"', '"{question}"')
    file.write_text(text + more)
    return file


@pytest.fixture
def server(tmp_path: Path, recipe: Path) -> Iterator[Server]:
    started = Server(Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json")))
    yield started
    started.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"id": id, "prompt": prompt} for id, prompt in PROMPTS.items()]
    return write_set(tmp_path / "set", rows, rows_per_part=4)


class Command:
    """`srpo data grade` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """Run it; returns what it said, on standard error if it failed."""
        self._monkeypatch.setattr(sys, "argv", ["srpo", "data", "grade", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as ended:
            found = ended.code or 0
        out, err = self._capsys.readouterr()
        assert found == code, out + err
        assert code == 0 or (err.startswith("error: ") and err.count("\n") == 1), err
        return err if code else out


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    parts = read_manifest(folder).problems
    return {row["id"]: row for batch in read_parts(folder, parts) for row in batch.to_pylist()}


def graded(folder: Path) -> dict[str, tuple[str | None, float | None]]:
    return {id: (row["difficulty"], row["pass_rate"]) for id, row in rows_of(folder).items()}


def test_a_set_is_graded_by_what_the_judges_say(
    command: Command, server: Server, folder: Path, recipe: Path
) -> None:
    out = command(folder, "--recipe", recipe, "--url", server.url)
    assert graded(folder) == EXPECTED
    assert "1 easy, 2 medium, 1 hard, 2 not graded" in out
    assert "1 times: the prompt is longer than rollout.max_prompt_tokens 30" in out
    assert "1 times: fewer than 1 responses could be judged: ValueError: could not convert" in out
    assert "6 of 20 responses could not be judged" in out
    assert Counter(prompt for prompt, _ in server.requests) == {p: 4 for p in PROMPTS.values() if len(p) == 4}
    lines = [json.loads(line) for line in (folder / "grades.jsonl").read_text().splitlines()]
    assert lines[0]["setup"]["model"] == {"served": "served", "version": 0}
    assert {line["id"]: (line["n"], line["c"], line["errors"]) for line in lines[1:]} == {
        "always": (4, 4, 0),
        "twice": (4, 2, 0),
        "never": (4, 0, 0),
        "unsure": (2, 1, 2),
        "broken": (0, 0, 4),
        "long": (0, 0, 0),
    }
    assert json.loads(rows_of(folder)["never"]["meta"])["grade"]["truncated"] == 0.5
    assert {one["temperature"] for one in server.samplings} == {1.0}
    assert len({one["sampling_seed"] for one in server.samplings}) == 20
    assert not (folder / "logs").exists(), "no engine of our own was started"


def test_other_thresholds_start_nothing_and_ask_for_no_response(
    command: Command, server: Server, folder: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(folder, "--recipe", recipe, "--url", server.url)
    monkeypatch.delattr(grading, "RewardPool")
    asked = len(server.requests)
    command(folder, "--recipe", recipe, "--url", server.url, "grading.hard=0.5", "grading.easy=0.9")
    assert (graded(folder)["twice"], graded(folder)["always"]) == (("hard", 0.5), ("easy", 1.0))
    command(folder, "--recipe", recipe, "--url", server.url, "grading.k=3")
    assert graded(folder)["unsure"] == (None, None), "two judged responses are too few for Pass@3"
    assert graded(folder)["twice"] == ("easy", 0.5)
    assert len(server.requests) == asked


def test_only_what_is_missing_is_measured(command: Command, server: Server, folder: Path, recipe: Path) -> None:
    command(folder, "--recipe", recipe, "--url", server.url)
    journal = folder / "grades.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    gone = json.loads(lines[2])["id"]
    journal.write_text("".join([*lines[:2], *lines[3:]]))
    server.requests.clear()
    out = command(folder, "--recipe", recipe, "--url", server.url)
    assert "going on: 5 of 6 problems have a grade" in out
    assert [prompt for prompt, _ in server.requests] == [PROMPTS[gone]] * 4
    assert graded(folder) == EXPECTED


def test_a_changed_problem_is_measured_again(command: Command, server: Server, folder: Path, recipe: Path) -> None:
    command(folder, "--recipe", recipe, "--url", server.url)
    server.requests.clear()
    write_set(folder, [{"id": "always", "prompt": "0000"}, {"id": "twice", "prompt": "1010"}])
    command(folder, "--recipe", recipe, "--url", server.url)
    assert {prompt for prompt, _ in server.requests} == {"0000"}
    assert graded(folder) == {"always": ("hard", 0.0), "twice": ("medium", 0.5)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rollout.temperature=0.5", "sampling.temperature was 1.0 and is 0.5"),
        ("grading.samples=5", "sampling.samples was 4 and is 5"),
        ("seed=1", "sampling.seed was 0 and is 1"),
        ("data.prompt_template='{question}?'", "template was '{question}' and is '{question}?'"),
        ("reward.answer_format=boxed", "reward.answer_format was 'think_answer' and is 'boxed'"),
        ("model", "model.served was 'served' and is 'another'"),
    ],
)
def test_another_set_up_is_refused(
    command: Command, server: Server, folder: Path, recipe: Path, change: str, said: str
) -> None:
    command(folder, "--recipe", recipe, "--url", server.url)
    before, asked = graded(folder), len(server.requests)
    arguments = [folder, "--recipe", recipe, "--url", server.url]
    if change == "model":
        server.model = {"model_path": "another", "weight_version": "default"}
    else:
        arguments.append(change)
    err = command(*arguments, code=2)
    assert said in err and "--fresh" in err
    assert (graded(folder), len(server.requests)) == (before, asked)
    command(*arguments, "reward.workers=2", "--fresh")
    assert len(server.requests) > asked


def test_what_judges_nothing_may_change(command: Command, server: Server, folder: Path, recipe: Path) -> None:
    command(folder, "--recipe", recipe, "--url", server.url)
    free = (
        "reward.workers=2",
        "rollout.max_concurrent_requests=3",
        "engine.count=2",
        "rollout.samples_per_prompt=9",
    )
    command(folder, "--recipe", recipe, "--url", server.url, *free)
    assert graded(folder) == EXPECTED


def test_programs_are_run(command: Command, server: Server, recipe: Path, tmp_path: Path) -> None:
    tests = '{"kind": "stdio", "cases": [["", "7"]]}'
    code = {"id": "c", "domain": "code", "prompt": "p0pp", "answer": None, "tests": tests}
    folder = write_set(tmp_path / "code", [code, {"id": "m", "prompt": "0000"}])
    built_in = ("reward.judge=null", "reward.answer_format=boxed")
    out = command(folder, "--recipe", recipe, "--url", server.url, *built_in)
    assert "programs run in a sandbox of level" in out
    assert graded(folder) == {"c": ("easy", 0.75), "m": ("hard", 0.0)}


def test_weights_that_change_meanwhile_end_it(
    command: Command, server: Server, folder: Path, recipe: Path
) -> None:
    server.version = "3"
    err = command(folder, "--recipe", recipe, "--url", server.url, code=2)
    assert "weights are of version 3, but grading began with version 0" in err
    assert "always" not in (folder / "grades.jsonl").read_text()
    assert read_manifest(folder).grading is None


def test_servers_must_serve_one_model_with_a_number(
    command: Command, server: Server, folder: Path, recipe: Path, tmp_path: Path
) -> None:
    other = Server(Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json")))
    try:
        arguments = (folder, "--recipe", recipe, "--url", server.url, "--url", other.url)
        command(*arguments)
        assert server.samplings and other.samplings
        other.model = {"model_path": "other", "weight_version": "0"}
        assert "grade with one model" in command(*arguments, code=2)
    finally:
        other.stop()
    server.model = {"model_path": "served", "weight_version": "best"}
    err = command(folder, "--recipe", recipe, "--url", server.url, "--fresh", code=2)
    assert "its weight version is 'best', not a number" in err
    assert len((folder / "grades.jsonl").read_text().splitlines()) == 7, "nothing is forgotten before all is well"


def test_bad_input_is_named(command: Command, folder: Path, recipe: Path, tmp_path: Path) -> None:
    assert "no manifest.json" in command(tmp_path / "none", "--recipe", recipe, code=2)
    assert "no interpreter there" in command(folder, "--recipe", recipe, "engine.python=/none", code=2)
    assert "needs 513 positions" in command(folder, "--recipe", recipe, "rollout.max_response_tokens=481", code=2)
    assert "/model_info failed" in command(folder, "--recipe", recipe, "--url", "http://127.0.0.1:9", code=2)
    assert "grading: hard 0.8 must be below easy" in command(
        folder, "--recipe", recipe, "grading.hard=0.8", code=2
    )
    assert "grading: k 5 is above samples 4" in command(folder, "--recipe", recipe, "grading.k=5", code=2)
    assert not (folder / "grades.jsonl").exists() or not (folder / "grades.jsonl").read_text()


def test_concurrency_is_the_rollouts_and_requests_of_a_problem_go_together(
    command: Command, server: Server, recipe: Path, tmp_path: Path
) -> None:
    prompts = [f"10{number:04b}" for number in range(16)]
    folder = write_set(tmp_path / "many", [{"prompt": prompt} for prompt in prompts])
    command(folder, "--recipe", recipe, "--url", server.url, "rollout.max_concurrent_requests=6")
    assert server.most <= 6
    assert server.most >= 4
    first = [prompt for prompt, _ in server.requests]
    for prompt in prompts:
        places = [at for at, one in enumerate(first) if one == prompt]
        assert max(places) - min(places) < 6, "not spread over the others"


async def test_problems_are_read_as_they_are_needed(recipe: Path, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "many", [{}] * 60, rows_per_part=10)
    loaded = load_recipe(recipe, ["rollout.max_concurrent_requests=8"])
    with GradeJournal(folder) as journal:
        journal.begin(grading.setup_of(loaded, {"served": "m", "version": 0}), False)
        found: Survey = await survey(folder, journal)
        console: Any = type("Quiet", (), {"is_terminal": False})()
        progress = GradingProgress(60, 0, console)
        run = grading._Run(folder, loaded, read_model_config(loaded.model.path), journal, found, progress)
        assert len(run.draw()) == 4, "2 problems have the 8 requests, and as many more wait"
        assert run.draw() == []
        run._on_their_way -= 3
        assert len(run.draw()) == 3


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, now = {}, [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        with GradingProgress(50, 10, console) as progress:
            for _ in range(20):
                now[0] += 2.0
                progress.advance()
        assert isinstance(console.file, io.StringIO)
        shown[terminal] = console.file.getvalue()
    assert "30/50" in shown[True]
    assert shown[False] == "graded 25 of 50, 0.50 a second, 1 minutes left\n"
