"""Conversions between Hugging Face folders and Megatron checkpoints against a plain copy of the same files.

    python tools/bench/convert.py [--quick] [--folder FOLDER]

The model is Llama-like, random, bfloat16, in several safetensors files.  A conversion runs in a process of its
own, which reports its peak of resident memory and the seconds of the conversion: from reading headers to the
renamed folder, without the start of Python and the import of torch (some seconds, reported apart).  The baseline
is shutil.copyfile of the same model's files, one after another.  Both sync every file and folder that they write
before their time ends, and read from the page cache.  Bytes a second are those of the safetensors files.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common.report import Result, compare, progress, report
from rich.console import Console
from safetensors.torch import save_file

from megatron_srpo.convert.options import Options
from megatron_srpo.convert.threads import default_threads
from megatron_srpo.convert.to_hf import megatron_to_hf
from megatron_srpo.convert.to_megatron import hf_to_megatron
from megatron_srpo.files import sync

HIDDEN, FEED_FORWARD, HEADS, GROUPS, VOCABULARY = 2048, 8192, 32, 8, 32000
ALLOWED = 500 * 10**6  # bytes of memory beside twice the largest tensor


def write_llama(folder: Path, layers: int, files: int) -> dict[str, int]:
    """A random model in about `files` safetensors files; returns bytes of each tensor."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
        "eos_token_id": 0,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    shapes = _shapes(layers)
    sizes = {name: 2 * torch.Size(shape).numel() for name, shape in shapes.items()}
    limit = sum(sizes.values()) / files
    groups: list[list[str]] = [[]]
    for name in shapes:
        if sum(sizes[n] for n in groups[-1]) >= limit:
            groups.append([])
        groups[-1].append(name)
    torch.manual_seed(0)
    noise = torch.randn(HIDDEN * VOCABULARY).mul_(0.02).to(torch.bfloat16)
    weight_map = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {name: noise[: sizes[name] // 2].view(shapes[name]).clone() for name in group}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        sync(folder / file)
        weight_map |= dict.fromkeys(group, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sizes


def _shapes(layers: int) -> dict[str, tuple[int, ...]]:
    small = HIDDEN * GROUPS // HEADS
    of_layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (small, HIDDEN),
        "self_attn.v_proj": (small, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (FEED_FORWARD, HIDDEN),
        "mlp.up_proj": (FEED_FORWARD, HIDDEN),
        "mlp.down_proj": (HIDDEN, FEED_FORWARD),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def copy(source: Path, target: Path) -> float:
    """Seconds of copying a folder's files and syncing the copies."""
    started = time.perf_counter()
    target.mkdir()
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, target / path.name)
        sync(target / path.name)
    sync(target)
    return time.perf_counter() - started


def convert(kind: str, source: Path, target: Path, threads: int) -> None:
    """What the child process does: a conversion, and its seconds and peak memory as JSON."""
    started = time.perf_counter()
    options, console = Options("keep", threads), Console(stderr=True)
    (hf_to_megatron if kind == "to_megatron" else megatron_to_hf)(source, target, options, console)
    seconds = time.perf_counter() - started
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    print(json.dumps({"seconds": seconds, "peak": 1024 * int(peak)}))


def converted(kind: str, source: Path, target: Path, threads: int) -> dict[str, Any]:
    """Run a conversion in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "--child", kind, str(source), str(target), str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"wall": time.perf_counter() - started}


def main(
    arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    quick: bool = False,
    folder: Annotated[Path, typer.Option(help="Where to put up to 12 GB of files, removed in the end.")] = Path(
        "/tmp"
    ),
    threads: Annotated[int, typer.Option(help="0: the default.")] = 0,
    child: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure and report."""
    if child:
        kind, source, target, count = arguments or ()
        convert(kind, Path(source), Path(target), int(count))
        return
    layers, files, runs = (5, 3, 3) if quick else (24, 6, 5)
    threads = threads or default_threads()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        sizes = write_llama(root / "hf", layers, files)
        total = sum(sizes.values())
        progress(f"{total / 1e9:.2f} GB in {files} files, largest tensor {max(sizes.values()) / 1e6:.0f} MB")
        found: dict[str, list[dict[str, Any]]] = {"to_megatron": [], "to_hf": []}
        copies: dict[str, list[float]] = {"to_megatron": [], "to_hf": []}
        for run in range(runs):
            for kind, source, target in (
                ("to_megatron", root / "hf", root / "megatron"),
                ("to_hf", root / "megatron", root / "back"),
            ):
                copies[kind].append(copy(root / "hf", root / "copy"))
                shutil.rmtree(root / "copy")
                found[kind].append(converted(kind, source, target, threads))
                last = found[kind][-1]
                progress(
                    f"run {run}, {kind}: {last['seconds']:.2f} s, copy {copies[kind][-1]:.2f} s, peak "
                    f"{last['peak'] / 1e6:.0f} MB, process {last['wall']:.2f} s"
                )
            shutil.rmtree(root / "megatron")
            shutil.rmtree(root / "back")
        results = [
            compare(
                kind,
                [total / entry["seconds"] for entry in found[kind]],
                "bytes/second",
                "shutil.copyfile of the safetensors files, synced",
                [total / seconds for seconds in copies[kind]],
                ">= 0.6",
            )
            for kind in found
        ]
        limit = 2 * max(sizes.values()) + ALLOWED
        for kind in found:
            peak = max(entry["peak"] for entry in found[kind])
            baseline = "twice the largest tensor and 500 MB"
            ratio = round(peak / limit, 4)
            results.append(Result(f"{kind}_peak", peak, "bytes", baseline, limit, ratio, "<= 1.0", peak <= limit))
        walls = {kind: statistics.median(entry["wall"] for entry in found[kind]) for kind in found}
        report("convert", results, bytes=total, files=files, threads=threads, process_seconds=walls)


if __name__ == "__main__":
    typer.run(main)
