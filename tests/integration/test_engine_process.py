"""Engine processes: what goes wrong at their start, and that none is left behind.

With the deterministic backend, which starts fast; SGLang's own children are covered by test_sglang.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.ports import unclaimed_port
from megatron_srpo.recipe.schema import EngineSection
from megatron_srpo.rollout.client import EngineClient
from megatron_srpo.rollout.engine import EngineProcess, start_engines
from megatron_srpo.rollout.engine_command import EngineCommand, build_command
from tests.conftest import REPOSITORY
from tests.integration.engines import processes_with

TinyHf = Callable[..., Path]


def section(**changes: Any) -> EngineSection:
    return EngineSection(**{"backend": "deterministic", "start_timeout_seconds": 120.0, **changes})


async def until_gone(marker: str) -> None:
    """Wait until no process has the marker, as long as a slow machine needs; fails after a minute."""
    async with asyncio.timeout(60):
        while processes_with(marker):
            await asyncio.sleep(0.1)


# A server that becomes healthy and has a child that ignores SIGTERM, as a hung scheduler would, and has
# left the server's process group.
STUBBORN = """
import http.server, signal, subprocess, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()
"""


def process_of(tmp_path: Path, program: str) -> tuple[EngineProcess, str]:
    """An engine process that runs a Python program, and the marker that all its descendants carry."""
    marker = f"MARKER={tmp_path}"
    port = unclaimed_port("127.0.0.1")
    environment = {**os.environ, "MARKER": str(tmp_path)}
    command = EngineCommand((sys.executable, "-c", program, str(port)), environment)
    return EngineProcess(0, "127.0.0.1", port, command, tmp_path / "engine-0.log"), marker


async def test_two_engines_start_and_stop(tiny_hf: TinyHf, tmp_path: Path) -> None:
    async with await start_engines(section(count=2), tiny_hf(), tmp_path) as engines:
        assert len(set(engines.urls)) == 2
        watching = asyncio.create_task(engines.watch())
        for url in engines.urls:
            async with EngineClient(url) as client:
                assert (await client.model_info())["weight_version"] == "0"
        ports = [f"--port\0{process.port}" for process in engines.processes]
        assert all(len(processes_with(port)) == 2 for port in ports)  # guard and server
    await watching
    assert not any(processes_with(port) for port in ports)


async def test_taken_port_is_found_before_the_start(tiny_hf: TinyHf, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SrpoError, match=rf"127\.0\.0\.1:{port} .*engine\.port"):
            await start_engines(section(port=port), tiny_hf(), tmp_path)
    assert not list(tmp_path.glob("*.log"))


async def test_missing_interpreter_names_key_and_target(tmp_path: Path) -> None:
    missing = section(backend="sglang", python=tmp_path / "python", max_total_tokens=100)
    with pytest.raises(SrpoError, match=r"engine\.python.*make setup"):
        await start_engines(missing, tmp_path, tmp_path)


async def test_death_at_start_tells_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SrpoError, match=rf"engine 0 .*exit code 1.*Error: .*{tmp_path}/logs/engine-0\.log"):
        await start_engines(section(), tmp_path, tmp_path / "logs")
    assert not processes_with(str(tmp_path))


async def test_time_out_at_start_stops_the_engine(tmp_path: Path) -> None:
    process, marker = process_of(tmp_path, "import time; print('loading', flush=True); time.sleep(600)")
    with pytest.raises(SrpoError, match=r"start_timeout_seconds.*loading"):
        await process.start(timeout=1.0)
    assert not processes_with(marker)


async def test_later_death_is_noticed_and_leaves_nothing(tmp_path: Path) -> None:
    process, marker = process_of(tmp_path, STUBBORN)
    await process.start(timeout=60.0)
    [server] = psutil.Process(process.pid).children()
    server.kill()
    with pytest.raises(SrpoError, match=r"engine 0 .*exit code 137 \(SIGKILL\)"):
        await asyncio.wait_for(process.watch(), 60)
    assert not processes_with(marker)


async def test_stop_ends_a_child_that_ignores_it(tmp_path: Path) -> None:
    process, marker = process_of(tmp_path, STUBBORN)
    await process.start(timeout=60.0)
    assert len(processes_with(marker)) == 3  # guard, server, child
    await process.stop()
    assert not processes_with(marker)
    await process.watch()  # an engine that was stopped is no failure


async def test_killed_guard_takes_the_server_along(tmp_path: Path) -> None:
    process, marker = process_of(tmp_path, STUBBORN)
    await process.start(timeout=60.0)
    os.kill(process.pid, signal.SIGKILL)
    await until_gone(f"\0{process.port}\0")
    # SGLang's children follow their server by themselves; this stand-in for one does not.
    for child in processes_with(marker):
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("moment", ["while starting", "when healthy"])
async def test_killed_controller_leaves_nothing(tiny_hf: TinyHf, tmp_path: Path, moment: str) -> None:
    program = f"""
        import asyncio
        from pathlib import Path
        from megatron_srpo.recipe.schema import EngineSection
        from megatron_srpo.rollout.engine import start_engines

        async def main():
            section = EngineSection(backend="deterministic", count=2, start_timeout_seconds=120.0)
            engines = await start_engines(section, Path({str(tiny_hf())!r}), Path({str(tmp_path)!r}))
            print("healthy", flush=True)
            await engines.watch()

        asyncio.run(main())
    """
    environment = {**os.environ, "MARKER": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    controller = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, stdout=subprocess.PIPE
    )
    marker = f"MARKER={tmp_path}"
    try:
        if moment == "when healthy":
            assert controller.stdout is not None
            assert await asyncio.to_thread(controller.stdout.readline) == b"healthy\n"
        async with asyncio.timeout(60):
            while len(processes_with(marker)) < 5:  # controller, two guards, two servers
                await asyncio.sleep(0.05)
    finally:
        controller.kill()
        controller.wait()
    await until_gone(marker)


def test_command_on_gpus(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.touch()
    gpu = section(backend="sglang", device="cuda", python=python, count=2, tensor_parallel=2)
    given = build_command(gpu, Path("model"), index=1, port=30001, gpus=["4", "5", "6", "7"])
    assert given.environment["CUDA_VISIBLE_DEVICES"] == "6,7"
    assert given.arguments[:3] == (str(python), "-m", "sglang.launch_server")
    counted = build_command(gpu, Path("model"), index=1, port=30001)
    assert "--base-gpu-id 2" in " ".join(counted.arguments)
    with pytest.raises(SrpoError, match=r"needs 4 GPUs but 3"):
        build_command(gpu, Path("model"), index=0, port=30001, gpus=["0", "1", "2"])


def test_command_on_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    cpu = section(backend="sglang", device="cpu", python=python, tensor_parallel=2, max_total_tokens=4096)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    command = build_command(cpu, Path("model"), index=0, port=30000)
    recording = build_command(cpu, Path("model"), index=0, port=30000, record_experts=True)
    assert set(recording.arguments) - set(command.arguments) == {"--enable-return-routed-experts"}
    assert command.arguments[1].endswith("sglang_cpu.py")
    assert command.environment["SGLANG_CPU_OMP_THREADS_BIND"] == "3|5"
    assert "MASTER_ADDR" not in command.environment
    with pytest.raises(SrpoError, match=r"engine\.max_total_tokens"):
        build_command(cpu.model_copy(update={"max_total_tokens": None}), Path("m"), index=0, port=1)
