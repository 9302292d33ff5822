"""A SandboxFusion server as the sandbox (POST /run_code; https://bytedance.github.io/SandboxFusion).

How strongly it isolates is the server's matter, and how much of a program's output it keeps (the first megabyte,
at the time of writing).  Each test case is a request; calls of one function share a request and a process until
one takes the process with it.
"""

from __future__ import annotations

import base64
import http.client
import json
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox.inside import python
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Program, Results, Status

LONGEST_REPLY = 2**26  # bytes
GRACE_SECONDS = 30.0  # for the server's queue and the way
START_SECONDS = 0.5  # wall clock that the server needs to start a process; not the program's
FIRST_PAUSE_SECONDS = 0.5
LAST_WORDS = 300  # characters of standard error

# The module that runs calls in our own sandbox travels along; answers go to the standard output, what the
# program prints does not.  Timers of processor time and of wall clock, which end the process, count from each
# call.
CALLS = """
import os, signal, srpo_case
answers = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
def timed(values):
    for value in values:
        signal.setitimer(signal.ITIMER_PROF, {seconds!r})
        signal.setitimer(signal.ITIMER_REAL, {wall!r})
        yield value
program, = timed([{program!r}])
srpo_case.call_each(srpo_case.prepare(program), {function!r}, timed({inputs!r}), answers)
"""
OUT_OF_TIME = tuple(code for number in (signal.SIGPROF, signal.SIGALRM) for code in (-number, 128 + number))
"""Return codes of a process that such a timer has ended, by itself and as a shell says it."""


class RemoteSandbox:
    """Programs on a SandboxFusion server."""

    level = "remote"

    def __init__(self, section: SandboxSection) -> None:
        assert section.url is not None  # the recipe checks it
        self._url = section.url.rstrip("/") + "/run_code"
        self._retries = section.retries
        self._module = base64.b64encode(Path(python.__file__).read_bytes()).decode()

    def start(self) -> None:
        """See whether the server runs programs; raises SrpoError when it does not."""
        limits = Limits(10.0, 10.0, 1.0, 2**29, 2**10, False)
        (result,) = self.run(Program("print(input())", "stdio", ("srpo",)), limits)
        if result.output.strip() != b"srpo":
            raise SrpoError(
                f"{self._url}: a program that prints its input answered {result}; is it SandboxFusion?"
            )

    def run(self, program: Program, limits: Limits) -> Results:
        """The result of each case, in order; see `LocalSandbox.run`.

        Raises:
            SrpoError: when the server does not answer, or answers that it is broken.
        """
        done, left = 0, limits.program_seconds
        while done < len(program.inputs):
            if left <= 0:
                results = [CaseResult("timeout", b"", f"no time left of {limits.program_seconds:g} s")]
            elif program.kind == "call":
                results, used = self._calls(program, done, limits, left)
                left -= used
            else:
                result, used = self._whole(program, program.inputs[done], limits, left)
                results, left = [result], left - used
            for result in results:
                yield result
                done += 1
                if result.status != "ok" and limits.stop_at_failure:
                    return

    def close(self) -> None:
        """Nothing is kept open."""

    def _whole(self, program: Program, text: str, limits: Limits, left: float) -> tuple[CaseResult, float]:
        """A run of the whole program, and the seconds it took of those that are left."""
        body = {"code": program.program, "stdin": text}
        reply, used = self._post(body, limits, min(limits.seconds, left))
        status, note = _status(reply)
        output = reply["stdout"].encode("utf-8", "replace")
        if len(output) > limits.output:
            return CaseResult("flooded", b"", f"more than {limits.output} bytes of output"), used
        return CaseResult(status, output, note), used

    def _calls(self, program: Program, first: int, limits: Limits, left: float) -> tuple[list[CaseResult], float]:
        """The calls from `first` on, to the one that ended the process or to where the server cut its output."""
        inputs = list(program.inputs[first:])
        wall = limits.seconds * limits.patience
        code = CALLS.format(
            program=program.program, function=program.function, inputs=inputs, seconds=limits.seconds, wall=wall
        )
        reply, used = self._post({"code": code, "files": {"srpo_case.py": self._module}}, limits, left)
        lines = reply["stdout"].encode("utf-8", "replace").split(b"\n")[:-1][: len(inputs)]
        results = [_answer(line, limits.output) for line in lines]
        if len(results) < len(inputs):
            status, note = _status(reply)
            # A server keeps no more than the first megabyte or so of what a program prints; if this one ended in
            # order and has answered something, its next call is where the next request begins.
            if status != "ok" or not results:
                results.append(CaseResult("failed" if status == "ok" else status, b"", note or "ended early"))
        return results, used

    def _post(self, body: dict[str, Any], limits: Limits, seconds: float) -> tuple[dict[str, Any], float]:
        """The server's `run_result` of one run, and the seconds it took; asked again while it does not answer."""
        run_timeout = START_SECONDS + seconds * limits.patience
        content = json.dumps(
            {
                "language": "python",
                "run_timeout": run_timeout,
                "memory_limit_MB": limits.memory // 2**20,
                **body,
            }
        ).encode()
        pause = FIRST_PAUSE_SECONDS
        for attempt in range(self._retries + 1):
            try:
                reply = self._request(content, run_timeout + GRACE_SECONDS)
                break
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                if attempt == self._retries:
                    why = str(error) or type(error).__name__
                    raise SrpoError(
                        f"{self._url}: no answer after {attempt + 1} requests ({why}); "
                        "start the SandboxFusion server, or correct reward.sandbox.url"
                    ) from None
                time.sleep(pause)
                pause *= 2
        result = reply.get("run_result")
        if reply.get("status") == "SandboxError" or not isinstance(result, dict):
            raise SrpoError(f"{self._url}: the server could not run a program: {_short(reply.get('message'))}")
        result = {**result, "stdout": result.get("stdout") or "", "stderr": result.get("stderr") or ""}
        wall = result.get("execution_time") or 0.0
        texts = isinstance(result["stdout"], str) and isinstance(result["stderr"], str)
        if not texts or not isinstance(wall, int | float):
            raise SrpoError(f"{self._url}: not an answer of SandboxFusion: {_short(result)}")
        return result, max(wall - START_SECONDS, 0.0) / limits.patience

    def _request(self, content: bytes, timeout: float) -> dict[str, Any]:
        """One request; raises OSError or ValueError when there is no sensible answer."""
        request = urllib.request.Request(self._url, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            text = response.read(LONGEST_REPLY + 1)
        if len(text) > LONGEST_REPLY:
            raise ValueError("the answer is too long")
        reply = json.loads(text)
        if not isinstance(reply, dict):
            raise ValueError("the answer is no JSON object")
        return reply


def _answer(line: bytes, longest: int) -> CaseResult:
    """What a call has returned or raised."""
    if not line.startswith(python.VALUE):
        return CaseResult("failed", b"", line[1:].decode("utf-8", "replace"))
    if len(line) - 1 > longest:
        return CaseResult("flooded", b"", f"more than {longest} bytes of output")
    return CaseResult("ok", line[1:], "")


def _status(result: dict[str, Any]) -> tuple[Status, str]:
    """How a run ended, and its last words."""
    code = result.get("return_code")
    if result.get("status") == "TimeLimitExceeded" or code in OUT_OF_TIME:
        return "timeout", "longer than its seconds"
    note = result["stderr"].strip()[-LAST_WORDS:].rsplit("\n", 1)[-1]
    return ("ok" if result.get("status") == "Finished" and code == 0 else "failed"), note


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LAST_WORDS else f"{text[:LAST_WORDS]}..."
