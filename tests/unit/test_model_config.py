"""Model folders: what is read, and what is refused with file and key."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.model_config import RopeScaling, read_model_config
from megatron_srpo.recipe.model_folder import (
    check_engine_parallel,
    check_model_folder,
    check_parallel,
    check_tokenizer,
    read_header,
)
from megatron_srpo.recipe.schema import EngineSection, TrainerSection
from tests.unit.folders import CONFIG, shapes, write_model, write_safetensors, write_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_every_field_is_read(tmp_path: Path) -> None:
    model = check_model_folder(write_model(tmp_path, head_dim=8, eos_token_id=[256, 257]))
    assert model.architecture == "Qwen2ForCausalLM"
    assert (model.vocab_size, model.hidden_size, model.intermediate_size, model.num_layers) == (
        260,
        16,
        24,
        2,
    )
    assert (model.num_attention_heads, model.num_key_value_heads, model.head_dim) == (4, 2, 8)
    assert (model.query_size, model.key_value_size) == (32, 16)
    assert (model.rms_norm_eps, model.rope_theta, model.rope_scaling) == (1e-6, 10000.0, None)
    assert (model.tie_word_embeddings, model.qkv_bias) == (True, True)
    assert (model.max_position_embeddings, model.dtype) == (512, "float32")
    assert model.eos_token_ids == (256, 257)


def test_a_config_of_older_transformers_is_read_alike(tmp_path: Path) -> None:
    old = {"rope_parameters": None, "rope_theta": 5e5, "rope_scaling": LLAMA3, "dtype": None}
    model = read_model_config(
        write_model(tmp_path, architectures=["LlamaForCausalLM"], torch_dtype="bfloat16", **old)
    )
    assert (model.rope_theta, model.rope_scaling) == (5e5, RopeScaling("llama3", 8.0))
    assert (model.dtype, model.qkv_bias, model.head_dim) == ("bfloat16", False, 4)


def test_stop_tokens_of_both_config_files_count(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [259, 256]}')
    assert read_model_config(tmp_path).eos_token_ids == (256, 259)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures is ['GPT2LMHeadModel']"),
        ({"use_sliding_window": True, "sliding_window": "all"}, "sliding_window is 'all'"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}},
            "rope_parameters.rope_type is 'yarn'",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1.0}},
            "rope_parameters.factor is missing",
        ),
        ({"rope_parameters": LLAMA3 | {"low_freq_factor": 2}}, "rope_parameters.low_freq_factor is 2"),
        ({"architectures": ["LlamaForCausalLM"], "attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ({"vocab_size": "many"}, "vocab_size is 'many', expected a positive integer"),
        ({"max_position_embeddings": None}, "max_position_embeddings is missing"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"eos_token_id": 260}, "eos_token_id is 260, expected ids from 0 to 259"),
        ({"eos_token_id": None}, "eos_token_id is missing"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_what_the_trainer_would_not_reproduce_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write_model(tmp_path)
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SrpoError) as caught:
        read_model_config(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)


def refused_folder(folder: Path) -> str:
    with pytest.raises(SrpoError) as caught:
        check_model_folder(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_incomplete_folders_are_refused(tmp_path: Path) -> None:
    assert "no such folder" in refused_folder(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert "config.json: cannot read it" in refused_folder(tmp_path / "empty")
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled weights can run any code" in refused_folder(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "no weights" in refused_folder(folder)
    write_model(folder)
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json: missing" in refused_folder(folder)


def test_a_truncated_file_is_named_with_both_sizes(tmp_path: Path) -> None:
    file = write_model(tmp_path) / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    said = refused_folder(tmp_path)
    assert f"{file}: truncated, expected {len(content)} bytes, found {len(content) - 10}" in said
    file.write_bytes(content + b"x")
    assert "longer than its header says" in refused_folder(tmp_path)
    file.write_bytes(content[:100])
    assert "truncated, its header alone needs" in refused_folder(tmp_path)


def with_header(header: str, data_bytes: int) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + bytes(data_bytes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a safetensors file (0 bytes"),
        (b"\xff" * 40, "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (struct.pack("<Q", 3) + b"[1]", "header cannot be read"),
        (with_header('{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', 8), "a needs 12 bytes"),
        (struct.pack("<Q", 11) + b'{"a": "bc"}', "header cannot be read"),
    ],
)
def test_what_is_not_safetensors_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(SrpoError, match=r"x\.safetensors") as caught:
        read_header(tmp_path / "x.safetensors")
    assert said in str(caught.value)


def split_in_two(folder: Path) -> dict[str, str]:
    """Spread the tensors over two files with an index; returns its table."""
    (folder / "model.safetensors").unlink()
    tensors = shapes(CONFIG)
    table = {name: f"part-{at % 2}.safetensors" for at, name in enumerate(tensors)}
    for part in set(table.values()):
        write_safetensors(folder / part, {n: s for n, s in tensors.items() if table[n] == part})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return table


def test_an_index_must_agree_with_its_files(tmp_path: Path) -> None:
    table = split_in_two(write_model(tmp_path))
    index = tmp_path / "model.safetensors.index.json"
    check_model_folder(tmp_path)
    index.write_text(json.dumps({"weight_map": table | {"new.weight": "part-0.safetensors"}}))
    assert "tensor new.weight should be in part-0.safetensors" in refused_folder(tmp_path)
    index.write_text(json.dumps({"weight_map": {k: v for k, v in table.items() if k != "model.norm.weight"}}))
    assert "holds tensor model.norm.weight, which the index leaves out" in refused_folder(tmp_path)
    index.write_text(json.dumps({"weight_map": table | {"new.weight": "part-2.safetensors"}}))
    assert "part-2.safetensors: cannot read the weights" in refused_folder(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", shapes(CONFIG | {"vocab_size": 300}))
    assert "is [300, 16], but" in refused_folder(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    model = check_model_folder(write_model(tmp_path))
    write_tokenizer(tmp_path / "tokenizer.json", extra=3)  # ids up to 259 = vocab_size - 1
    check_tokenizer(model)
    write_tokenizer(tmp_path / "tokenizer.json", extra=4)
    with pytest.raises(SrpoError, match=r"tokenizer\.json.*size 261.*config\.json says vocab_size 260"):
        check_tokenizer(model)


def test_shapes_must_divide_over_the_ranks(tmp_path: Path) -> None:
    model = read_model_config(write_model(tmp_path))
    check_parallel(model, TrainerSection(ranks=4, tensor_parallel=2, pipeline_parallel=2))
    with pytest.raises(SrpoError, match=r"tensor_parallel 4 does not divide num_key_value_heads 2 .* 1 or 2\."):
        check_parallel(model, TrainerSection(ranks=4, tensor_parallel=4))
    with pytest.raises(SrpoError, match=r"pipeline_parallel 4 .* num_hidden_layers 2 .* 1 or 2, or name"):
        check_parallel(model, TrainerSection(ranks=4, pipeline_parallel=4))
    check_engine_parallel(model, EngineSection(tensor_parallel=4))  # SGLang copies key-value heads
    with pytest.raises(SrpoError, match=r"engine\.tensor_parallel 3 .* 1, 2 or 4\."):
        check_engine_parallel(model, EngineSection(tensor_parallel=3))
