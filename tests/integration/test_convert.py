"""Conversions with Megatron itself on every layout, under SIGKILL, and from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_srpo.convert import to_megatron
from megatron_srpo.launch.ports import unclaimed_port
from tests.architectures import MOE, TINY, read_tensors, write_tiny
from tests.conftest import REPOSITORY
from tests.integration.convert_kills import FILE_BYTES
from tests.unit.test_convert import sums, to_hf, to_mg

LAYOUTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "tp2": ({"tensor_parallel": 2}, tuple(name for name in TINY if name != "llama_linear")),
    "pp2": ({"pipeline_parallel": 2}, ("qwen2_tied", "llama3", "qwen2_moe", "glm4_moe")),
    "ep2": ({"expert_parallel": 2}, MOE),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_megatron_loads_and_saves_on_every_layout(tmp_path: Path, layout: str) -> None:
    """What we write is what a strict stock load gets; what Megatron saves there becomes the same HF tensors."""
    changes, names = LAYOUTS[layout]
    jobs = []
    for name in names:
        model = write_tiny(name, tmp_path / name)
        checkpoint = to_mg(model, tmp_path / f"{name}-m")
        trainer = {"ranks": 2, "device": "cpu", "dtype": "float32", **changes}
        jobs.append(
            {
                "trainer": trainer,
                "model": str(model),
                "checkpoint": str(checkpoint),
                "save": str(tmp_path / f"{name}-s"),
            }
        )
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run_ranks(tmp_path)
    for name, job in zip(names, jobs, strict=True):
        back = to_hf(Path(job["save"]), tmp_path / f"{name}-h", hf=Path(job["model"]))
        assert sums(back) == sums(Path(job["model"])), name


def run_ranks(folder: Path) -> None:
    """Two ranks of convert_rank; their output is shown when one fails."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    shared["MASTER_PORT"] = str(unclaimed_port("127.0.0.1"))
    command = [sys.executable, "-m", "tests.integration.convert_rank", str(folder / "jobs.json")]
    processes = []
    for rank in range(2):
        with (folder / f"rank-{rank}.log").open("wb") as log:
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(
                subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        for rank, process in enumerate(processes):
            assert process.wait(240) == 0, (folder / f"rank-{rank}.log").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("kind", ["to_megatron", "to_hf"])
def test_killed_at_any_instant_it_ends_in_the_same_bytes(tmp_path: Path, kind: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(to_megatron, "FILE_BYTES", FILE_BYTES)
    hf = write_tiny("qwen3_moe", tmp_path / "hf", shard_bytes=100_000)
    megatron = to_mg(hf, tmp_path / "megatron")
    source, wanted = (hf, megatron) if kind == "to_megatron" else (megatron, hf)
    command = [sys.executable, "-m", "tests.integration.convert_kills", kind, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills, resumed = map(int, done.stdout.split())
    assert kills >= 5 and resumed >= 1
    assert sums(tmp_path / "out") == sums(wanted)


def srpo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megatron_srpo.cli", "convert", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_the_commands(tmp_path: Path) -> None:
    """From the command line: there, compared, back, compared with other weights, refused."""
    hf, megatron = write_tiny("qwen3", tmp_path / "hf", dtype="bfloat16"), tmp_path / "m"
    done = srpo("hf-to-megatron", hf, megatron)
    assert (done.returncode, done.stdout) == (0, f"{megatron}: written\n"), done.stderr
    same = srpo("check", hf, megatron)
    assert same.returncode == 0, same.stderr
    assert float(same.stdout.split("log-probs ")[1].split(",")[0]) < 1e-5
    script = [sys.executable, "tools/convert.py", "megatron-to-hf", str(megatron), str(tmp_path / "back")]
    subprocess.run(script, cwd=REPOSITORY, check=True, capture_output=True)
    assert sums(tmp_path / "back") == sums(hf)

    tensors = load_file(hf / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3] += 2
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    other = srpo("check", hf, megatron)
    assert other.returncode == 1, other.stderr
    assert "first difference: passage 0, position " in other.stdout
    assert "1 tensors differ" in other.stdout and "model.layers.1.mlp.down_proj.weight: " in other.stdout

    refused = srpo("hf-to-megatron", hf, megatron)
    assert refused.returncode == 2
    assert refused.stderr == f"error: {megatron}: is there already and not empty; remove it or give a new name\n"
    wrong = srpo("hf-to-megatron", hf, tmp_path / "x", "--dtype", "fp8")
    assert wrong.returncode == 2 and "--dtype fp8: is none of keep, float32" in wrong.stderr


IMPORTS = """
import sys
import megatron_srpo.convert.to_hf, megatron_srpo.convert.to_megatron
print([name for name in ("megatron.core", "transformers") if name in sys.modules])
"""


def test_conversions_import_neither_megatron_nor_transformers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


MEASURED = """
import sys
from pathlib import Path
from rich.console import Console
from megatron_srpo.convert.options import Options
from megatron_srpo.convert.to_hf import megatron_to_hf
from megatron_srpo.convert.to_megatron import hf_to_megatron
source, megatron, back = map(Path, sys.argv[1:])
hf_to_megatron(source, megatron, Options("keep", 8), Console(quiet=True))
megatron_to_hf(megatron, back, Options("float32", 8), Console(quiet=True))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def test_memory_has_a_bound(tmp_path: Path) -> None:
    """Twice the largest tensor and 500 MB, with eight threads and many tensors of 40 MB."""
    wide: dict[str, Any] = {"hidden_size": 1280, "intermediate_size": 16384, "num_hidden_layers": 8}
    folder = write_tiny("llama2", tmp_path / "hf", dtype="bfloat16", shard_bytes=150_000_000, **wide)
    largest = max(tensor.nbytes for tensor in read_tensors(folder).values())
    command = [sys.executable, "-c", MEASURED, folder, tmp_path / "m", tmp_path / "back"]
    done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 <= 2 * (2 * largest) + 500 * 10**6  # what is written is twice as large
    assert torch.float32 in {tensor.dtype for tensor in read_tensors(tmp_path / "back").values()}
