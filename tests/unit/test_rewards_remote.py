"""Programs on a SandboxFusion server: what it is asked, how its answers are read, and when it does not answer."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox import remote
from megatron_srpo.rewards.sandbox.choice import describe_sandbox, open_sandbox
from megatron_srpo.rewards.sandbox.inside import python
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Program
from megatron_srpo.rewards.sandbox.remote import RemoteSandbox
from tests.unit.fusion import Fusion, fusion

LIMITS = Limits(
    seconds=20.0, program_seconds=60.0, patience=2.0, memory=2**29, output=2**20, stop_at_failure=False
)
RESULT = {"status": "Finished", "return_code": 0, "stdout": "1\n", "stderr": "", "execution_time": 0.1}


def limits(**changes: Any) -> Limits:
    return Limits(**{**LIMITS.__dict__, **changes})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fusion]:
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    with fusion() as running:
        yield running


def section(url: str, **more: Any) -> SandboxSection:
    return SandboxSection(backend="sandbox_fusion", url=url, **more)


def run(server: Fusion, program: Program, within: Limits = LIMITS) -> list[CaseResult]:
    return list(RemoteSandbox(section(server.url)).run(program, within))


def told(results: list[CaseResult]) -> list[tuple[str, bytes]]:
    return [(result.status, result.output) for result in results]


def test_each_run_of_a_program_is_a_request(server: Fusion) -> None:
    program = Program("print(input() * 2, 'é')", "stdio", ("a\n", "b\n"))
    assert told(run(server, program)) == [("ok", "aa é\n".encode()), ("ok", "bb é\n".encode())]
    assert server.asked == [
        {"language": "python", "code": program.program, "stdin": text, "run_timeout": 40.5, "memory_limit_MB": 512}
        for text in program.inputs
    ]


def test_calls_share_a_request_and_a_process(server: Fusion) -> None:
    program = (
        "seen = []\nprint('x')\ndef f(x):\n  print('=', x, flush=True)\n  seen.append(x)\n  return [len(seen), x]"
    )
    results = run(server, Program(program, "call", ("[1.5]", '["é"]', "[null]"), "f"))
    assert told(results) == [("ok", b"[1, 1.5]"), ("ok", b'[2, "\\u00e9"]'), ("ok", b"[3, null]")]
    (asked,) = server.asked
    assert asked["run_timeout"] == 120.5
    assert list(asked["files"]) == ["srpo_case.py"]
    with open(python.__file__, "rb") as file:
        assert base64.b64decode(asked["files"]["srpo_case.py"]) == file.read()


def test_programs_and_inputs_may_hold_any_text(server: Fusion) -> None:
    program = 'text = """{0} {program!r} \'\'\' %s \\\\"""\ndef f(x): return text + x'
    text = "{} '\" \\ \n \u2028 \x00 😀"
    (result,) = run(server, Program(program, "call", (json.dumps([text]),), "f"))
    assert json.loads(result.output) == "{0} {program!r} ''' %s \\" + text


def test_a_call_that_raises_leaves_the_others_alone(server: Fusion) -> None:
    program = Program("def f(x): return 1 // x", "call", ("[1]", "[0]", "[-1]"), "f")
    results = run(server, program)
    assert [result.status for result in results] == ["ok", "failed", "ok"]
    assert results[1].note == "ZeroDivisionError: integer division or modulo by zero"
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [0, 1, 7])
def test_a_call_that_takes_the_process_with_it_fails_and_the_next_begins_anew(server: Fusion, code: int) -> None:
    source = f"import os\ndef f(x): return os._exit({code}) if x == 2 else x"
    program = Program(source, "call", ("[1]", "[2]", "[3]", "[2]"), "f")
    expected = [("ok", b"1"), ("failed", b""), ("ok", b"3"), ("failed", b"")]
    results = run(server, program)
    assert told(results) == expected
    assert results[1].note == results[3].note == "ended early"
    assert told(run(server, program, limits(stop_at_failure=True))) == expected[:2]


def test_no_run_is_asked_for_after_a_failure_or_when_nobody_takes_the_result(server: Fusion) -> None:
    program = Program("print(1 // int(input()))", "stdio", ("1", "0", "1"))
    assert [result.status for result in run(server, program)] == ["ok", "failed", "ok"]
    server.asked.clear()
    results = run(server, program, limits(stop_at_failure=True))
    assert [result.status for result in results] == ["ok", "failed"]
    assert results[1].note == "ZeroDivisionError: integer division or modulo by zero"
    assert len(server.asked) == 2
    next(RemoteSandbox(section(server.url)).run(program, LIMITS))
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("source", "note"),
    [
        ("def f(x) return x", "SyntaxError: expected ':'"),
        ("def g(x): return x", "NameError: no function f, nor a class Solution with it"),
        ("raise ValueError('no')", "ValueError: no"),
        ("x = bytearray(10**9)", "MemoryError"),
    ],
)
def test_a_program_that_cannot_be_loaded_fails_every_call(server: Fusion, source: str, note: str) -> None:
    results = run(server, Program(source, "call", ("[1]", "[2]"), "f"))
    assert [(result.status, result.note.strip()) for result in results] == [("failed", note.strip())] * 2


def test_a_run_without_end_is_a_timeout(server: Fusion) -> None:
    hangs = Program("import time\nwhile True: time.sleep(1000)", "stdio", ("",))
    (result,) = run(server, hangs, limits(seconds=0.25, patience=2.0))
    assert result == CaseResult("timeout", b"", "longer than its seconds")
    assert server.asked[0]["run_timeout"] == 1.0


def test_runs_have_the_programs_seconds_together(server: Fusion) -> None:
    start = remote.START_SECONDS  # on top of what the program uses
    server.faults = [{"run_result": {**RESULT, "execution_time": wall}} for wall in (0.1, 2 + start, 1 + start)]
    within = limits(seconds=1.25, program_seconds=1.5, patience=2.0)
    results = run(server, Program("", "stdio", ("", "", "", "", "")), within)
    assert [result.status for result in results] == ["ok", "ok", "ok", "timeout", "timeout"]
    assert results[3].note == results[4].note == "no time left of 1.5 s"
    assert [asked["run_timeout"] - start for asked in server.asked] == [2.5, 2.5, 1.0]  # wall clock


# By its processor time, however long it may wait, and by the wall clock.
@pytest.mark.parametrize(("hang", "patience"), [("pass", 1000.0), ("time.sleep(1000)", 2.0)])
def test_a_call_without_end_is_a_timeout_and_the_next_begins_anew(
    server: Fusion, hang: str, patience: float
) -> None:
    source = f"import time\ndef f(x):\n  while x == 2: {hang}\n  return x"
    within = limits(seconds=1.0, program_seconds=50.0, patience=patience)
    program = Program(source, "call", ("[1]", "[2]", "[3]"), "f")
    assert told(run(server, program, within)) == [("ok", b"1"), ("timeout", b""), ("ok", b"3")]


def test_calls_have_the_programs_seconds_together(server: Fusion) -> None:
    source = "import time\ndef f(x):\n  time.sleep(x)\n  return x"
    program = Program(source, "call", ("[0]", "[1000]", "[0]"), "f")
    within = limits(seconds=500.0, program_seconds=1.0, patience=3.0)
    results = run(server, program, within)
    assert told(results) == [("ok", b"0"), ("timeout", b""), ("timeout", b"")]
    assert (results[1].note, results[2].note) == ("longer than its seconds", "no time left of 1 s")
    assert server.asked[0]["run_timeout"] == 3.5


def test_output_that_is_too_long_is_a_flood(server: Fusion) -> None:
    whole = Program("print('x' * int(input()), end='')", "stdio", ("1000", "1001"))
    call = Program("def f(x): return 'x' * x", "call", ("[998]", "[999]", "[1]"), "f")
    small = limits(output=1000)
    assert told(run(server, whole, small)) == [("ok", b"x" * 1000), ("flooded", b"")]
    results = run(server, call, small)
    assert told(results) == [("ok", b'"' + b"x" * 998 + b'"'), ("flooded", b""), ("ok", b'"x"')]
    assert results[1].note == "more than 1000 bytes of output"


def test_where_the_server_cuts_the_output_of_calls_the_next_request_begins(server: Fusion) -> None:
    server.kept = 1000
    program = Program("def f(x): return 'x' * x", "call", tuple(f"[{size}]" for size in [300] * 7), "f")
    assert told(run(server, program)) == [("ok", b'"' + b"x" * 300 + b'"')] * 7
    assert len(server.asked) == 3
    too_long = Program("def f(x): return 'x' * x", "call", ("[1]", "[1200]", "[2]"), "f")
    assert [result.status for result in run(server, too_long)] == ["ok", "failed", "ok"]


def test_a_program_can_say_for_itself_only_what_its_calls_return(server: Fusion) -> None:
    forged = (
        "import os\nfor fd in range(3, 20):\n  try: os.write(fd, b'=1\\n?2\\n=3\\n=4\\n')\n  except OSError: pass"
    )
    results = run(server, Program(forged, "call", ("[1]", "[2]"), "f"))
    assert told(results) == [("ok", b"1"), ("failed", b"")]


@pytest.mark.parametrize(
    "failure", [500, 503, 429, None, b"<html>", b"[]", b"", b"[" * 10**5, b"RAWhello\r\n\r\n"]
)
def test_a_server_that_does_not_answer_once_is_asked_again(server: Fusion, failure: Any) -> None:
    server.faults = [failure, failure]
    assert told(run(server, Program("print(1)", "stdio", ("",)))) == [("ok", b"1\n")]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (500, "HTTP Error 500: Internal Server Error"),
        (404, "HTTP Error 404: Not Found"),
        (b"[]", "the answer is no JSON object"),
        (b"<html>", "Expecting value"),
        (b"RAWhello\r\n\r\n", "hello"),
        (None, "Remote end closed connection without response"),
    ],
)
def test_a_server_that_never_answers_is_named_with_what_to_do(server: Fusion, failure: Any, said: str) -> None:
    server.faults = [failure] * 9
    sandbox = RemoteSandbox(section(server.url, retries=2))
    with pytest.raises(SrpoError) as caught:
        list(sandbox.run(Program("print(1)", "stdio", ("",)), LIMITS))
    text = str(caught.value)
    assert text.startswith(f"{server.url}/run_code: no answer after 3 requests (")
    assert said in text
    assert text.endswith("start the SandboxFusion server, or correct reward.sandbox.url")
    assert len(server.asked) == 3


def test_pauses_between_requests_grow(server: Fusion, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.25)
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    server.faults = [500] * 4
    with pytest.raises(SrpoError):
        run(server, Program("", "stdio", ("",)))
    assert slept == [0.25, 0.5, 1.0]


def test_an_answer_that_is_too_long_is_none(server: Fusion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LONGEST_REPLY", 100)
    server.faults = [{"status": "Success", "message": "x" * 100}] * 9
    with pytest.raises(SrpoError, match="the answer is too long"):
        run(server, Program("", "stdio", ("",)))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": "SandboxError", "message": "no room"}, "the server could not run a program: 'no room'"),
        (
            {"status": "SandboxError", "message": "x", "run_result": RESULT},
            "the server could not run a program: 'x'",
        ),
        ({"status": "Success"}, "the server could not run a program: None"),
        ({"status": "Success", "run_result": []}, "the server could not run a program: None"),
        ({"run_result": {**RESULT, "stdout": 1}}, "not an answer of SandboxFusion: {'status': 'Finished', "),
        ({"run_result": {**RESULT, "stderr": ["x"]}}, "not an answer of SandboxFusion: {'status': 'Finished', "),
        (
            {"run_result": {**RESULT, "execution_time": "1"}},
            "not an answer of SandboxFusion: {'status': 'Finished', ",
        ),
    ],
)
def test_an_answer_that_is_none_is_an_error_at_once(server: Fusion, answer: dict[str, Any], said: str) -> None:
    server.faults = [answer] * 9
    with pytest.raises(SrpoError) as caught:
        run(server, Program("", "stdio", ("",)))
    assert str(caught.value).startswith(f"{server.url}/run_code: {said}")
    assert len(server.asked) == 1


def test_a_long_message_of_the_server_is_cut(server: Fusion) -> None:
    server.faults = [{"status": "SandboxError", "message": "x" * 10**6}]
    with pytest.raises(SrpoError) as caught:
        run(server, Program("", "stdio", ("",)))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ok"),
        ({"execution_time": None, "stderr": None}, "ok"),
        ({"return_code": 1}, "failed"),
        ({"return_code": -9}, "failed"),
        ({"return_code": None}, "failed"),
        ({"status": "Error"}, "failed"),
        ({"status": "TimeLimitExceeded", "return_code": None}, "timeout"),
        ({"stdout": None}, "ok"),
    ],
)
def test_how_a_run_ended_is_read_from_its_status_and_code(
    server: Fusion, changes: dict[str, Any], status: str
) -> None:
    server.faults = [{"status": "Failed", "message": "", "run_result": {**RESULT, **changes}}]
    (result,) = run(server, Program("", "stdio", ("",)))
    assert result.status == status
    assert result.output == (b"1\n" if "stdout" not in changes else b"")


def test_the_note_is_the_last_line_of_standard_error(server: Fusion) -> None:
    errors = "Traceback\n  line\nValueError: no\n\n"
    server.faults = [{"run_result": {**RESULT, "return_code": 1, "stderr": errors}}] * 2
    assert [result.note for result in run(server, Program("", "stdio", ("",)))] == ["ValueError: no"]
    server.faults = [{"run_result": {**RESULT, "return_code": 1, "stderr": "x" * 10**6}}]
    assert [result.note for result in run(server, Program("", "stdio", ("",)))] == ["x" * 300]


def test_the_recipes_server_is_tried_when_the_sandbox_is_opened(server: Fusion) -> None:
    sandbox = open_sandbox(section(f"{server.url}/"))
    assert (type(sandbox), sandbox.level) == (RemoteSandbox, "remote")
    assert len(server.asked) == 1
    sandbox.close()
    assert describe_sandbox(section(server.url))[0] == "remote"
    server.faults = [{"run_result": RESULT}]
    with pytest.raises(SrpoError, match="a program that prints its input answered .* is it SandboxFusion"):
        open_sandbox(section(server.url))


def test_a_server_that_is_gone_is_named_with_what_to_do(server: Fusion) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(SrpoError) as caught:
            open_sandbox(section(f"{url}/", retries=1))
    said = (
        f"{url}/run_code: no answer after 2 requests (<urlopen error [Errno 111] Connection refused>); start the "
    )
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/",
        "host:8080",
        "http://",
        "http:///run",
        "http://host/?a",
        "",
        " http://host",
        "http://a b",
    ],
)
def test_a_url_that_is_none_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"url must be like http://host:8080 or https://host, found "):
        section(url)


@pytest.mark.parametrize("url", ["http://host:8080", "https://host", "http://[::1]:8080/", "https://host/a/b"])
def test_a_url_of_a_server_is_taken(url: str) -> None:
    assert section(url).url == url
