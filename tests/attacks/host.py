"""What attacks are aimed at, and whether they have hit."""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.recipe.reward import CodeSection, SandboxSection
from megatron_srpo.rewards.code import CodeJudge
from megatron_srpo.rewards.sandbox.jobs import CaseResult, Limits, Program
from megatron_srpo.rewards.sandbox.local import LocalSandbox

WIDE = CodeSection(seconds=20, program_seconds=40)
REPOSITORY = Path(__file__).resolve().parents[2]


class Recorder:
    """A sandbox whose results are kept."""

    def __init__(self, level: str) -> None:
        self.level = level
        self.inner = LocalSandbox(SandboxSection(files_megabytes=8), level)
        self.results: list[CaseResult] = []

    def run(self, program: Program, limits: Limits) -> Iterator[CaseResult]:
        self.results = []
        for result in self.inner.run(program, limits):
            self.results.append(result)
            yield result

    def close(self) -> None:
        self.inner.close()

    def wait_until_idle(self) -> None:
        """Until the server says that nothing of the last program is left."""
        assert self.inner._server is not None
        self.inner._server.wait_until_idle()

    @property
    def process(self) -> int:
        """The server, as the host sees it; at namespaces it has one child, which is process 1 inside."""
        assert self.inner._server is not None
        return self.inner._server._process.pid


class Host:
    """What programs must not find, reach or change, and whether they have."""

    def __init__(self, folder: Path) -> None:
        self.token, self.name = f"hidden-{secrets.token_hex(12)}", f"attacks-{secrets.token_hex(6)}"
        for one in (folder, folder.parent):
            one.chmod(0o755)
        self.folder = folder / "open"
        self.folder.mkdir()
        self.folder.chmod(0o777)
        self.secret, self.data = folder / "secret.txt", folder / "data.jsonl"
        self.secret.write_text(self.token)
        self.data.write_text(json.dumps({"expected": self.token}))
        for one in (self.secret, self.data):
            one.chmod(0o666)
        os.environ["ATTACKS_SECRET"] = self.token
        self.listeners = [socket.create_server(("127.0.0.1", 0))]
        port = self.listeners[0].getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", port))
        self.listeners.append(udp)
        port6 = 1
        if socket.has_ipv6:
            try:
                self.listeners.append(socket.create_server(("::1", 0), family=socket.AF_INET6))
                port6 = self.listeners[-1].getsockname()[1]
            except OSError:
                pass
        for address in (str(self.folder / "socket"), f"\0{self.name}"):
            self.listeners.append(socket.socket(socket.AF_UNIX))
            self.listeners[-1].bind(address)
            self.listeners[-1].listen()
        self.told = {
            "secret": str(self.secret),
            "data": str(self.data),
            "folder": str(self.folder),
            "project": str(REPOSITORY),
            "name": self.name,
            "port": port,
            "port6": port6,
            "socket": str(self.folder / "socket"),
            "parent": os.getpid(),
        }
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        """Everything that a program might have changed."""
        places = [
            self.secret,
            self.data,
            self.folder,
            *self.folder.iterdir(),
            Path(json.__file__),
            Path(os.__file__),
        ]
        stats = {str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.stat().st_size) for path in places}
        marked = [
            str(Path(folder) / name)
            for folder in (
                "/tmp",
                "/dev/shm",
                "/var/tmp",
                "/",
                "/root",
                ".",
                Path(os.__file__).parent,
                self.folder,
            )
            if os.access(folder, os.R_OK)
            for name in os.listdir(folder)
            if self.name in name or name in ("sitecustomize.py", "escaped") or name.startswith("core")
        ]
        return {"stats": stats, "marked": marked, "limits": psutil.Process().rlimit(psutil.RLIMIT_CPU)}

    def check(self) -> None:
        state = self.state()
        assert state == self.before, f"{state} is no longer {self.before}"
        assert not select.select(self.listeners, [], [], 0)[0], "somebody has called"


def inside(sandbox: Recorder) -> set[int]:
    """All processes of a sandbox, whoever has adopted them: they all have the server's command line."""
    server = Path(f"/proc/{sandbox.process}/cmdline").read_bytes()
    found = set()
    for process in psutil.pids():
        try:
            if Path(f"/proc/{process}/cmdline").read_bytes() == server:
                found.add(process)
        except OSError:
            continue
    return found | {child.pid for child in psutil.Process(sandbox.process).children(recursive=True)}


def processes_with(mark: str) -> list[int]:
    """All processes whose command line contains the mark."""
    found = []
    for process in psutil.pids():
        try:
            if mark.encode() in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
        except OSError:
            continue
    return found


def state_of_server(sandbox: Recorder) -> tuple[int, int, int]:
    """Number of its processes, and of descriptors and threads of the innermost one."""
    sandbox.wait_until_idle()
    innermost = [psutil.Process(sandbox.process), *psutil.Process(sandbox.process).children(recursive=True)][-1]
    try:
        descriptors = innermost.num_fds()
    except psutil.AccessDenied:  # it hides them from all but root
        descriptors = 0
    return len(inside(sandbox)), descriptors, innermost.num_threads()


def run_honest(sandbox: Recorder) -> None:
    tests = CodeTests("stdio", ("3 4\n", "5 6\n"), ("7\n", "11\n"))
    program = "import json, os\na, b = map(int, input().split())\nprint(a + b)\nassert os.listdir('/tmp') == []\n"
    if sandbox.level != "namespaces":
        program = program.replace("assert", "# ")
    judge = CodeJudge(WIDE, sandbox, sandbox)
    assert judge.score(f"```python\n{program}```", tests, "boxed").accuracy == 1, sandbox.results
    sandbox.wait_until_idle()
