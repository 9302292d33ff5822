"""A server that answers as SandboxFusion does, without any isolation: for programs of these tests only."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEPT = 2**20  # bytes of output; the real server drops what comes after
FIELDS = {"code", "language", "stdin", "run_timeout", "memory_limit_MB", "files"}


class Fusion(ThreadingHTTPServer):
    """Keeps what it was asked; answers the next requests with `faults`, then as it should.

    A fault is a status, the bytes of a body, an object to send as JSON, or None: no answer at all.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[dict[str, Any]] = []
        self.faults: list[int | bytes | dict[str, Any] | None] = []
        self.kept = KEPT

    def fault(self) -> list[Any]:
        return [self.faults.pop(0)] if self.faults else []


class Handler(BaseHTTPRequestHandler):
    server: Fusion

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        for fault in self.server.fault():
            if fault is None:
                self.connection.shutdown(2)
            elif isinstance(fault, int):
                self.send_error(fault)
            elif isinstance(fault, bytes) and fault.startswith(b"RAW"):
                self.wfile.write(fault.removeprefix(b"RAW"))
            else:
                self.answer(fault if isinstance(fault, bytes) else json.dumps(fault).encode())
            return
        if (
            self.path != "/run_code"
            or not FIELDS.issuperset(body)
            or self.headers["Content-Type"] != "application/json"
        ):
            self.send_error(422)
            return
        self.answer(json.dumps(run_code(body, self.server.kept)).encode())

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: Any) -> None:
        pass


def run_code(request: dict[str, Any], kept: int) -> dict[str, Any]:
    """Run one program, with its files, in a folder of its own."""
    assert request["language"] == "python"
    with tempfile.TemporaryDirectory(prefix="fusion-") as folder:
        for name, content in request.get("files", {}).items():
            (Path(folder) / name).write_bytes(base64.b64decode(content))
        (Path(folder) / "program.py").write_text(request["code"], encoding="utf-8")
        started = time.monotonic()
        output, errors = (Path(folder) / name for name in ("output", "errors"))
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-S", "program.py"],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=lambda: limit(request["memory_limit_MB"] * 2**20),
            )
            try:
                process.communicate((request.get("stdin") or "").encode(), request["run_timeout"])
                status, code = "Finished", process.returncode
            except subprocess.TimeoutExpired:
                status, code = "TimeLimitExceeded", None
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        result = {
            "status": status,
            "execution_time": time.monotonic() - started,
            "return_code": code,
            "stdout": decoded(output.read_bytes()[:kept]),
            "stderr": decoded(errors.read_bytes()[:kept]),
        }
    return {
        "status": "Success" if code == 0 else "Failed",
        "message": "",
        "compile_result": None,
        "run_result": result,
        "executor_pod_name": None,
        "files": {},
    }


def limit(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**25, 2**25))


def decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        return f"[DecodeError] {error}"


@contextmanager
def fusion() -> Iterator[Fusion]:
    """A running server."""
    with Fusion() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
