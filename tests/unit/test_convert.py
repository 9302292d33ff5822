"""Conversions in both directions: the same bytes come back, and everything that is off is named."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from megatron_srpo.bridge import side_files
from megatron_srpo.bridge.fp8 import is_quantized
from megatron_srpo.bridge.reader import CheckpointReader
from megatron_srpo.bridge.tables import expand, table_for
from megatron_srpo.bridge.torch_dist import PieceWriter, read_index, write_index
from megatron_srpo.bridge.weights import _refuse_unused
from megatron_srpo.checkpoints.manifest import sealed
from megatron_srpo.convert import to_megatron, work
from megatron_srpo.convert.compare import load_stock
from megatron_srpo.convert.options import Options
from megatron_srpo.convert.parameters import parameters
from megatron_srpo.convert.to_hf import megatron_to_hf
from megatron_srpo.convert.to_megatron import hf_to_megatron
from megatron_srpo.convert.work import Work
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import checksum, hold
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.model_folder import extra_layers_notice
from tests.architectures import TINY, read_tensors, write_tiny
from tests.stored import dequantized

SHARD = 200_000  # bytes: several files
Tiny = Callable[..., Path]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Folder of a tiny model by name and changes; not to be written to."""
    made: dict[str, Path] = {}

    def get(name: str = "qwen2", **changes: Any) -> Path:
        key = f"{name}{changes}"
        if key not in made:
            made[key] = write_tiny(name, tmp_path_factory.mktemp(name), **changes)
        return made[key]

    return get


def to_mg(source: Path, target: Path, dtype: str = "keep", threads: int = 2) -> Path:
    hf_to_megatron(source, target, Options(dtype, threads), Console(quiet=True))
    return target


def to_hf(source: Path, target: Path, dtype: str = "keep", hf: Path | None = None, **options: Any) -> Path:
    megatron_to_hf(source, target, Options(dtype, 2, **options), Console(quiet=True), hf)
    return target


def sums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", list(TINY))
@pytest.mark.parametrize("shard", [None, SHARD])
def test_there_and_back_is_file_by_file_the_same(tiny: Tiny, tmp_path: Path, name: str, shard: int | None) -> None:
    source = tiny(name, shard_bytes=shard, dtype="bfloat16")
    to_mg(source, tmp_path / "m")
    assert sums(to_hf(tmp_path / "m", tmp_path / "h")) == sums(source)
    assert not list(tmp_path.glob("*.converting"))
    assert os.listdir(tmp_path / "m" / "hf")


def test_threads_and_small_files_change_no_byte(tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(to_megatron, "FILE_BYTES", SHARD)
    one, eight = (to_mg(tiny(), tmp_path / str(n), threads=n) for n in (1, 8))
    assert len(list(one.glob("*.distcp"))) > 3
    assert sums(one) == sums(eight)
    assert sums(to_hf(one, tmp_path / "h")) == sums(tiny())


def test_parameters_are_what_the_layouts_make(tiny: Tiny) -> None:
    """The rows that conversions copy are those of the bridge's own layouts."""
    for name in TINY:
        model = read_model_config(tiny(name))
        tensors = read_tensors(model.folder)
        for rule in table_for(model):
            if not rule.exported:
                continue
            names = expand(rule, rule.layers[-1], 2)
            made = rule.layout.shard([tensors[n] for n in names], 0, 1)
            [parameter] = [p for p in parameters(model) if p.parts[0].name == names[0]]
            assert tuple(made.shape) == parameter.shape
            for part in parameter.parts:
                rows = torch.cat([made[run.start : run.start + run.count] for run in part.runs])
                assert torch.equal(rows, tensors[part.name])


def test_manifest(tiny: Tiny, tmp_path: Path) -> None:
    folder = to_mg(tiny(), tmp_path / "m")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == "weights" and manifest["source"] == str(tiny())
    assert set(manifest["files"]) == set(sums(folder)) - {"manifest.json"}
    assert {"hf/config.json", ".metadata", "__0_0.distcp"} <= set(manifest["files"])


def test_types_are_kept_one_by_one(tiny: Tiny, tmp_path: Path) -> None:
    """Megatron's global tensors have one type each; a tensor of another keeps its values and gets it back."""
    source = shutil.copytree(tiny(), tmp_path / "s")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(source / "model.safetensors").items()}
    odd = {
        "model.layers.2.mlp.gate_proj.weight": torch.float32,
        "model.layers.0.self_attn.k_proj.weight": torch.float16,
    }
    for name, dtype in odd.items():
        tensors[name] = torch.randn(tensors[name].shape).to(dtype)
    save_file(tensors, source / "model.safetensors")
    back = to_hf(to_mg(source, tmp_path / "m"), tmp_path / "h")
    assert sums(back) == sums(source)
    # Laid out anew it is what the library would have written.
    anew = to_hf(tmp_path / "m", tmp_path / "h2", file_bytes=10**9)
    save_file(tensors, tmp_path / "library", metadata={"format": "pt"})
    assert (anew / "model.safetensors").read_bytes() == (tmp_path / "library").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype(tiny: Tiny, tmp_path: Path, dtype: str) -> None:
    wanted = getattr(torch, dtype)
    original = read_tensors(tiny())
    there = to_hf(to_mg(tiny(), tmp_path / "m", dtype), tmp_path / "h")
    here = to_hf(to_mg(tiny(), tmp_path / "m2"), tmp_path / "h2", dtype)
    for folder in (there, here):
        found = read_tensors(folder)
        assert found.keys() == original.keys()
        assert all(torch.equal(found[n], original[n].to(wanted)) for n in original)
        assert json.loads((folder / "config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_router_s_bias_stays_float32(tiny: Tiny, tmp_path: Path, dtype: str) -> None:
    original = read_tensors(tiny("glm4_moe"))
    there = to_hf(to_mg(tiny("glm4_moe"), tmp_path / "m", dtype), tmp_path / "h")
    here = to_hf(to_mg(tiny("glm4_moe"), tmp_path / "m2"), tmp_path / "h2", dtype)
    for folder in (there, here):
        for name, tensor in read_tensors(folder).items():
            wanted = torch.float32 if name.endswith("e_score_correction_bias") else getattr(torch, dtype)
            assert tensor.equal(original[name].to(wanted)) and tensor.dtype == wanted
        assert json.loads((folder / "config.json").read_text())["dtype"] == dtype


def test_layers_that_predict_further_tokens_are_left_out_and_named(tiny: Tiny, tmp_path: Path) -> None:
    """As published: in files between and behind those of the model."""
    source = shutil.copytree(tiny("glm4_moe"), tmp_path / "s")
    original = read_tensors(source)
    extra = {f"model.layers.4.{name}": torch.ones(2, 2) for name in ("eh_proj.weight", "mlp.gate.weight")}
    names = sorted(original)
    parts = [names[:40], names[40:]]
    (source / "model.safetensors").unlink()
    files = [{n: original[n] for n in parts[0]}, {n: original[n] for n in parts[1]} | extra]
    files.append({"model.layers.4.enorm.weight": torch.ones(2)})
    table = {}
    for number, tensors in enumerate(files):
        save_file(tensors, source / f"model-{number}.safetensors", metadata={"format": "pt"})
        table |= dict.fromkeys(tensors, f"model-{number}.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    model = read_model_config(source)
    told = extra_layers_notice(model)
    assert told is not None and "3 tensors from layer 4 on" in told and "neither trained nor exported" in told
    assert extra_layers_notice(read_model_config(tiny("glm4_moe"))) is None
    console = Console(record=True, quiet=False, width=400, file=io.StringIO())
    hf_to_megatron(source, tmp_path / "m", Options("keep", 2), console)
    assert told in console.export_text()
    back = to_hf(tmp_path / "m", tmp_path / "h")
    assert sorted(path.name for path in back.glob("*.safetensors")) == [
        "model-0.safetensors",
        "model-1.safetensors",
    ]
    found = read_tensors(back)
    assert set(found) == set(original) and all(found[name].equal(original[name]) for name in found)
    index = json.loads((back / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(original)
    _refuse_unused(CheckpointReader(source), model)
    with pytest.raises(SrpoError, match=r"3 tensors such as model\.layers\.4\.eh_proj"):
        _refuse_unused(CheckpointReader(source), replace(model, extra_layers=0))


def test_file_size(tiny: Tiny, tmp_path: Path) -> None:
    megatron = to_mg(tiny(shard_bytes=SHARD), tmp_path / "m")
    folder = to_hf(megatron, tmp_path / "h", file_bytes=100_000)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(names) > 4 and names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = read_tensors(folder)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert all(name in load_file(folder / file) for name, file in index["weight_map"].items())
    one = to_hf(megatron, tmp_path / "one", file_bytes=10**9)
    assert not (one / "model.safetensors.index.json").exists()
    assert all(torch.equal(t, tensors[n]) for n, t in load_file(one / "model.safetensors").items())


@pytest.mark.parametrize("name", ["qwen2", "qwen2_moe", "mixtral", "glm4_moe"])
def test_fp8_folder(tiny: Tiny, tmp_path: Path, name: str) -> None:
    folder = to_hf(to_mg(tiny(name, dtype="bfloat16"), tmp_path / "m"), tmp_path / "h", "fp8")
    original, found = read_tensors(tiny(name, dtype="bfloat16")), read_tensors(folder)
    for key, tensor in original.items():
        if is_quantized(key):
            back = dequantized(found[key], found[key + "_scale_inv"])
            assert (back - tensor.float()).abs().max() <= tensor.abs().max().float() * 2**-4
        else:
            assert torch.equal(found[key], tensor)
    quantized = {key + "_scale_inv" for key in original if is_quantized(key)}
    assert set(found) == set(original) | quantized
    config = json.loads((folder / "config.json").read_text())
    kept = config["quantization_config"].pop("modules_to_not_convert")
    assert config["quantization_config"] == {
        "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]
    }  # fmt: skip
    assert "lm_head" in kept and all(f"{module}.weight" in original for module in kept)


@pytest.mark.parametrize("name", ["qwen2_tied", "qwen3_moe"])
def test_transformers_reads_the_fp8_folder(tiny: Tiny, tmp_path: Path, name: str) -> None:
    """Without a GPU it dequantizes what it reads, into bfloat16: to the values that we mean."""
    pytest.importorskip("accelerate", reason="transformers asks for it; see tools/setup/real-model.txt")
    from transformers import AutoModelForCausalLM

    shape = {"hidden_size": 256, "intermediate_size": 384, "head_dim": 128, "num_hidden_layers": 1}
    source = tiny(name, dtype="bfloat16", **shape, **({"moe_intermediate_size": 128} if "moe" in name else {}))
    folder = to_hf(to_mg(source, tmp_path / "m"), tmp_path / "h", "fp8")
    loader: Any = AutoModelForCausalLM
    found = loader.from_pretrained(folder).state_dict()
    stored = read_tensors(folder)
    for key, tensor in read_tensors(source).items():
        scales = stored.get(key + "_scale_inv")
        expected = tensor if scales is None else dequantized(stored[key], scales).bfloat16()
        assert torch.equal(_loaded(found, key), expected), key


def _loaded(state: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    """A tensor as transformers holds it: experts are one tensor, gate and up projection one above the other."""
    if ".experts." not in key:
        return state[key]
    block, _, rest = key.partition(".experts.")
    expert, projection, _ = rest.split(".")
    if projection == "down_proj":
        return state[f"{block}.experts.down_proj"][int(expert)]
    return state[f"{block}.experts.gate_up_proj"][int(expert)].chunk(2)[projection == "up_proj"]


def test_tied_output_weights_in_the_file(tiny: Tiny, tmp_path: Path) -> None:
    source = shutil.copytree(tiny("qwen2_tied"), tmp_path / "s")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    assert sums(to_hf(to_mg(source, tmp_path / "m"), tmp_path / "h")) == sums(source)
    tensors["lm_head.weight"][300, 5] += 1
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SrpoError, match="says tie_word_embeddings, but lm_head.weight differs"):
        to_mg(source, tmp_path / "m2")


def damaged(tiny: Tiny, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of the tiny model with other tensors."""
    source = shutil.copytree(tiny(), tmp_path / "s")
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors")
    return source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"tensor model\.norm\.weight is missing"),
        (lambda t: t.update({"extra.weight": torch.ones(2)}), r"1 tensors such as extra\.weight are not part"),
        (
            lambda t: t.update({"model.layers.1.mlp.up_proj.weight": torch.ones(96, 63)}),
            r"up_proj\.weight is \[96, 63\], but .*config\.json asks for \[96, 64\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int64)}),
            r"model\.norm\.weight is stored as I64",
        ),
    ],
)
def test_wrong_tensors(tiny: Tiny, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(SrpoError, match=message):
        to_mg(damaged(tiny, tmp_path, change), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_pickled_and_truncated_weights(tiny: Tiny, tmp_path: Path) -> None:
    source = shutil.copytree(tiny(), tmp_path / "s")
    weights = source / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 7)
    with pytest.raises(SrpoError, match=r"model\.safetensors: truncated"):
        to_mg(source, tmp_path / "m")
    weights.rename(source / "pytorch_model.bin")
    with pytest.raises(SrpoError, match=r"pytorch_model\.bin: pickled weights"):
        to_mg(source, tmp_path / "m")


def test_an_existing_target_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").touch()
    with pytest.raises(SrpoError, match="is there already and not empty"):
        to_mg(tiny(), tmp_path / "m")
    assert os.listdir(tmp_path) == ["m"]
    (tmp_path / "m" / "mine").unlink()
    to_mg(tiny(), tmp_path / "m")


def test_a_damaged_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    folder = to_mg(tiny(), tmp_path / "m")
    chunk = folder / "__0_0.distcp"
    content = bytearray(chunk.read_bytes())
    piece = read_index(folder)["decoder.final_layernorm.weight"][0]
    content[piece.start + piece.length // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(SrpoError, match=r"__0_0\.distcp: is damaged, its content does not fit the manifest"):
        to_hf(folder, tmp_path / "h")
    assert not (tmp_path / "h").exists()
    os.truncate(chunk, len(content) - 1)
    with pytest.raises(SrpoError, match=r"__0_0\.distcp: has \d+ bytes, the manifest says"):
        to_hf(folder, tmp_path / "h2")
    chunk.unlink()
    with pytest.raises(SrpoError, match=r"__0_0\.distcp: is missing"):
        to_hf(folder, tmp_path / "h3")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(SrpoError, match=r"run: is a run; give one of its checkpoints, .*/checkpoints/step-\*"):
        to_hf(tmp_path / "run", tmp_path / "h4")
    with pytest.raises(SrpoError, match="there is no such folder"):
        to_hf(tmp_path / "none", tmp_path / "h4")
    with pytest.raises(SrpoError, match=r"metadata\.json: cannot be read .*give a Megatron checkpoint"):
        to_hf(tiny(), tmp_path / "h5")


@pytest.mark.parametrize("name", ["../evil.safetensors", "/tmp/evil.safetensors", "config.json", ".", ""])
def test_names_of_files_do_not_leave_the_folder(tiny: Tiny, tmp_path: Path, name: str) -> None:
    """What a foreign checkpoint calls its files is where they would be written."""
    folder = to_mg(tiny(), tmp_path / "m")
    (folder / "manifest.json").unlink()
    layout = folder / "hf" / side_files.LAYOUT
    [entry] = json.loads(layout.read_text()).values()
    layout.write_text(json.dumps({name: entry}))
    with pytest.raises(SrpoError, match=r"tensors\.json: cannot be read .* is no name of a safetensors file"):
        to_hf(folder, tmp_path / "h")
    source = tmp_path / "hf"
    shutil.copytree(tiny(), source)
    index = {"weight_map": dict.fromkeys(read_tensors(source), name)}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SrpoError, match="weight_map must name a safetensors file of the folder"):
        to_mg(source, tmp_path / "m2")
    assert sorted(os.listdir(tmp_path)) == ["hf", "m"]


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_a_checkpoint_that_would_run_code_is_not_given_to_megatron(
    tiny: Tiny, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = to_mg(tiny(), tmp_path / "m")
    pieces = [piece for found in read_index(folder).values() for piece in found]
    key = next(piece.key for piece in pieces if piece.dtype is None)
    with PieceWriter(folder, "__1_0.distcp") as writer:
        writer.add_object(key, Bomb())
    write_index(folder, [*(piece for piece in pieces if piece.key != key), *writer.pieces], {})
    (folder / "manifest.json").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SrpoError, match=r"__1_0\.distcp: .*_extra_state.* is more than plain values .*mkdir"):
        load_stock([], folder)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_model(tiny: Tiny, tmp_path: Path) -> None:
    folder = to_mg(tiny("qwen2"), tmp_path / "m")
    with pytest.raises(
        SrpoError, match=r"\[4, 128\]|is missing; config\.json asks|asks for|are not part of the model"
    ):
        to_hf(folder, tmp_path / "h", hf=tiny("llama2"))
    without_bias = tiny("llama2", num_key_value_heads=2, vocab_size=511)
    with pytest.raises(SrpoError, match=r"1 tensors such as .*linear_qkv\.bias are not part of the model"):
        to_hf(folder, tmp_path / "h2", hf=without_bias)


def test_a_run_s_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    """Optimizer state is left alone; side files come from the model that the manifest names, or from --hf."""
    folder = to_mg(tiny("qwen2"), tmp_path / "m")
    shutil.rmtree(folder / "hf")
    with PieceWriter(folder, "__1_0.distcp") as writer:
        writer.add("optimizer.state.exp_avg.decoder.final_layernorm.weight", (64,), (0,), torch.ones(64))
    pieces = [piece for found in read_index(folder).values() for piece in found]
    write_index(folder, [*pieces, *writer.pieces], {"version": 40})
    files = {
        path.name: {"size": path.stat().st_size, "xxh3_128": checksum(path)}
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    manifest: dict[str, Any] = {"weight_version": 40, "run": {"model": str(tiny("qwen2"))}, "files": files}
    (folder / "manifest.json").write_bytes(sealed(manifest))
    assert sums(to_hf(folder, tmp_path / "h")) == sums(tiny("qwen2"))
    (folder / "manifest.json").write_bytes(sealed(manifest | {"run": {"model": "gone/model"}}))
    with pytest.raises(SrpoError, match=r"the model gone/model is not there .* give its folder with --hf"):
        to_hf(folder, tmp_path / "h2")
    assert sums(to_hf(folder, tmp_path / "h3", hf=tiny("qwen2"))) == sums(tiny("qwen2"))
    (folder / "manifest.json").unlink()
    with pytest.raises(SrpoError, match=r"does not say which model it is of; give its folder with --hf"):
        to_hf(folder, tmp_path / "h4")


@pytest.mark.parametrize("direction", ["to Megatron", "to Hugging Face"])
def test_numbers_too_large_for_the_type_are_refused(tiny: Tiny, tmp_path: Path, direction: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny(), source)
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = -1e5
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    told = rf"{name}: has numbers that float16 cannot hold, the largest is 1e\+05; give another --dtype"
    with pytest.raises(SrpoError, match=told):
        if direction == "to Megatron":
            to_mg(source, tmp_path / "m", "float16")
        else:
            to_hf(to_mg(source, tmp_path / "m"), tmp_path / "h", "float16")
    tensors[name][3, 5] = float("inf")  # which every type has
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    back = to_hf(to_mg(source, tmp_path / "m2", "float16"), tmp_path / "h2")
    assert read_tensors(back)[name][3, 5] == float("inf")


def test_a_full_disk(tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(SrpoError, match=r"m\.converting: needs \d+ bytes, and 1000 are free"):
            to_mg(tiny(), tmp_path / "m")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(PieceWriter, "add", full)
        with pytest.raises(
            SrpoError, match=r"__0_0\.distcp: cannot be written \(No space left on device\); free some space"
        ):
            to_mg(tiny(), tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert sums(to_hf(to_mg(tiny(), tmp_path / "m"), tmp_path / "h")) == sums(tiny())


def test_other_arguments_start_anew(tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    said: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "print", lambda text, **_: said.append(text))
    monkeypatch.setattr(to_megatron, "FILE_BYTES", SHARD)

    def interrupted(dtype: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(to_megatron, "write_index", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                hf_to_megatron(tiny(), tmp_path / "m", Options(dtype, 1), console)

    interrupted("keep")
    interrupted("keep")
    assert len(said) == 1 and "going on; 4 files are whole already" in said[0]
    interrupted("bfloat16")
    assert len(said) == 2 and "was begun with other arguments or another source; starting anew" in said[1]
    hf_to_megatron(tiny(), tmp_path / "m", Options("keep", 1), console)
    assert "starting anew" in said[2]
    assert not (tmp_path / "m.converting").exists()
    assert sums(tmp_path / "m") == sums(to_mg(tiny(), tmp_path / "m2"))


def test_a_finished_file_that_was_changed_is_written_again(tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(to_megatron, "write_index", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            to_mg(tiny(), tmp_path / "m")
    file = tmp_path / "m.converting" / "files" / "__0_0.distcp"
    file.write_bytes(bytes(file.stat().st_size))
    assert sums(to_hf(to_mg(tiny(), tmp_path / "m"), tmp_path / "h")) == sums(tiny())


def test_another_layout_of_the_same_size_starts_anew(tiny: Tiny, tmp_path: Path, monkeypatch: Any) -> None:
    folder, other = to_mg(tiny(), tmp_path / "m"), tmp_path / "other"
    shutil.copytree(tiny(), other)
    save_file(load_file(other / "model.safetensors"), other / "model.safetensors", {"format": "np"})
    (other / "generation_config.json").write_text('{"temperature": 0.5}')
    with monkeypatch.context() as patch:
        patch.setattr(side_files, "write_side_files", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            to_hf(folder, tmp_path / "h")
    assert (tmp_path / "h.converting" / "journal" / "model.safetensors.done").exists()
    assert sums(to_hf(folder, tmp_path / "h", hf=other)) == sums(other)


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: Any) -> None:
    """Also when the first one ends while the second one begins."""
    first = Work(tmp_path / "t", {})
    with pytest.raises(SrpoError, match=r"t\.converting: another process converts to it"):
        Work(tmp_path / "t", {})
    (first.folder / "content").touch()

    def hold_late(*arguments: Any) -> Any:
        first.commit()
        return hold(*arguments)

    monkeypatch.setattr(work, "hold", hold_late)
    with pytest.raises(SrpoError, match="t: is there already and not empty"):
        Work(tmp_path / "t", {})
    assert os.listdir(tmp_path / "t") == ["content"]


def test_a_damaged_journal_costs_a_file(tmp_path: Path) -> None:
    begun = Work(tmp_path / "t", {"a": 1})
    for name in ("one", "two"):
        (begun.folder / name).write_bytes(b"x")
        begun.finish(name, 1, checksum(begun.folder / name))
    begun.close()
    (tmp_path / "t.converting" / "journal" / "one.done").write_bytes(b"{")
    again = Work(tmp_path / "t", {"a": 1})
    assert set(again.done) == {"two"} and "1 files are whole already" in again.notice
