"""A SandboxFusion server as the sandbox (POST /run_code; https://bytedance.github.io/SandboxFusion).

How strongly it isolates is the server's matter.  Each test case is a request; calls of one function share a
request and a process until one takes the process with it.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.reward import SandboxSection
from megatron_srpo.rewards.sandbox.inside import python
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Program, Results

LONGEST_REPLY = 2**26  # bytes
GRACE_SECONDS = 30.0  # for the server's queue and the way
FIRST_PAUSE_SECONDS = 0.5
LAST_WORDS = 300  # characters of standard error

# The module that runs calls in our own sandbox travels along; answers go to the standard output, what the
# program prints does not.
CALLS = """
import os, srpo_case
answers = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
srpo_case.call_each(srpo_case.prepare({program!r}), {function!r}, {inputs!r}, answers)
"""


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
        done = 0
        while done < len(program.inputs):
            if program.kind == "call":
                results = self._calls(program, done, limits)
            else:
                results = [self._whole(program, program.inputs[done], limits)]
            for result in results:
                yield result
                done += 1
                if result.status != "ok" and limits.stop_at_failure:
                    return

    def close(self) -> None:
        """Nothing is kept open."""

    def _whole(self, program: Program, text: str, limits: Limits) -> CaseResult:
        reply = self._post({"code": program.program, "stdin": text}, limits, limits.seconds)
        status, note = _status(reply)
        output = (reply.get("stdout") or "").encode("utf-8", "replace")
        if len(output) > limits.output:
            return CaseResult("flooded", b"", f"more than {limits.output} bytes of output")
        return CaseResult(status, output, note)

    def _calls(self, program: Program, first: int, limits: Limits) -> list[CaseResult]:
        """The calls from `first` on, to the one that ended the process."""
        inputs = list(program.inputs[first:])
        code = CALLS.format(program=program.program, function=program.function, inputs=inputs)
        files = {"srpo_case.py": self._module}
        reply = self._post({"code": code, "files": files}, limits, limits.program_seconds)
        lines = (reply.get("stdout") or "").encode("utf-8", "replace").split(b"\n")[:-1][: len(inputs)]
        results = [
            CaseResult("ok", line[1:], "")
            if line.startswith(python.VALUE)
            else CaseResult("failed", b"", line[1:].decode())
            for line in lines
        ]
        if len(results) < len(inputs):
            status, note = _status(reply)
            results.append(CaseResult("failed" if status == "ok" else status, b"", note or "ended early"))
        return results

    def _post(self, body: dict[str, Any], limits: Limits, seconds: float) -> dict[str, Any]:
        """The server's `run_result` of one run, asked again while it does not answer."""
        content = json.dumps(
            {
                "language": "python",
                "run_timeout": seconds * limits.patience,
                "memory_limit_MB": limits.memory // 2**20,
                **body,
            }
        ).encode()
        pause = FIRST_PAUSE_SECONDS
        for attempt in range(self._retries + 1):
            try:
                reply = self._request(content, seconds * limits.patience + GRACE_SECONDS)
                break
            except (OSError, ValueError) as error:
                if attempt == self._retries:
                    raise SrpoError(
                        f"{self._url}: no answer after {attempt + 1} requests ({error}); is the server running?"
                    ) from None
                time.sleep(pause)
                pause *= 2
        result = reply.get("run_result")
        if reply.get("status") == "SandboxError" or not isinstance(result, dict):
            raise SrpoError(f"{self._url}: the server could not run a program: {reply.get('message')!r}")
        return result

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


def _status(result: dict[str, Any]) -> tuple[Any, str]:
    """How a run ended, and its last words."""
    note = (result.get("stderr") or "").strip()[-LAST_WORDS:].rsplit("\n", 1)[-1]
    if result.get("status") == "TimeLimitExceeded":
        return "timeout", note
    finished = result.get("status") == "Finished" and result.get("return_code") == 0
    return ("ok" if finished else "failed"), note
