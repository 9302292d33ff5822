"""Model folders: what is read, and what is refused with file and key."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.model_config import ModelConfig, MoEConfig, RopeScaling, read_model_config
from megatron_srpo.recipe.model_folder import (
    check_engine_parallel,
    check_model_folder,
    check_parallel,
    check_tokenizer,
    read_header,
)
from megatron_srpo.recipe.schema import EngineSection
from megatron_srpo.recipe.trainer import ExpertsSection, RecomputeSection, TrainerSection
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


MOE = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "router_aux_loss_coef": 0.001,
}
QWEN3_MOE = {**MOE, "architectures": ["Qwen3MoeForCausalLM"], "shared_expert_intermediate_size": None}
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "rope_parameters": None,
}


# As GLM-4.5's published config says it, before transformers 5.
GLM4_MOE: dict[str, Any] = {
    "architectures": ["Glm4MoeForCausalLM"],
    "rope_parameters": None,
    "rope_theta": 1e6,
    "rope_scaling": None,
    "partial_rotary_factor": 0.5,
    "attention_bias": True,
    "use_qk_norm": True,
    "head_dim": 8,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 1,
}


def read(folder: Path, **changes: Any) -> ModelConfig:
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return read_model_config(folder)


def test_experts_are_read(tmp_path: Path) -> None:
    model = read(tmp_path, **MOE)
    assert model.moe == MoEConfig(6, 2, 12, 20, normalize_top_k=False, aux_loss_coefficient=0.001)
    assert (model.qkv_bias, model.qk_norm) == (True, False)
    published = read(tmp_path, **QWEN3_MOE, norm_topk_prob=True)
    written = read(tmp_path, **QWEN3_MOE | {"num_experts": None, "num_local_experts": 6}, norm_topk_prob=True)
    assert published == written
    assert published.moe == MoEConfig(6, 2, 12, None, normalize_top_k=True, aux_loss_coefficient=0.001)
    assert (published.qkv_bias, published.qk_norm) == (False, True)
    mixtral = read(tmp_path, **MIXTRAL)
    assert mixtral.moe == MoEConfig(6, 2, 24, None, normalize_top_k=True, aux_loss_coefficient=0.0)
    assert mixtral.rope_theta == 1e6


def test_layers_without_experts_and_a_biased_router_are_read(tmp_path: Path) -> None:
    model = read(tmp_path, **GLM4_MOE)
    assert model.moe == MoEConfig(
        6, 2, 12, 24, normalize_top_k=True, aux_loss_coefficient=0.0, dense_layers=1, shared_gate=False,
        router_bias=True, scaling=2.5,
    )  # fmt: skip
    assert (model.qkv_bias, model.qk_norm, model.rotary_share, model.rope_theta) == (True, True, 0.5, 1e6)
    assert (model.dense_layers, read(tmp_path).dense_layers) == (1, 2)
    assert model.like(0).moe is None and model.like(0).num_layers == 2
    assert model.like(1).dense_layers == 0 and model.like(1).moe is not None
    assert model.is_extra("model.layers.2.mlp.gate.weight") and not model.is_extra(
        "model.layers.1.mlp.gate.weight"
    )
    # What transformers takes where the key is missing.
    keys = ("attention_bias", "use_qk_norm", "partial_rotary_factor", "first_k_dense_replace", "n_shared_experts")
    bare = read(tmp_path, **GLM4_MOE | dict.fromkeys((*keys, "routed_scaling_factor")))
    assert (bare.qkv_bias, bare.qk_norm, bare.rotary_share, bare.dense_layers) == (False, False, 0.5, 1)
    assert bare.moe is not None and (bare.moe.scaling, bare.moe.shared_expert_intermediate_size) == (1.0, 12)
    new = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    assert read(tmp_path, **GLM4_MOE | {"rope_parameters": new}).rotary_share == 0.25


def test_a_head_size_that_is_left_out_is_the_architectures(tmp_path: Path) -> None:
    assert read(tmp_path, architectures=["Qwen3ForCausalLM"]).head_dim == 128
    assert read(tmp_path, architectures=["MistralForCausalLM"]).head_dim == 4


def test_a_sliding_window_counts_where_it_is_in_use(tmp_path: Path) -> None:
    window = {"sliding_window": 64}
    assert read(tmp_path, **window, use_sliding_window=False).sliding_window is None
    assert read(tmp_path, **window, use_sliding_window=True).sliding_window == 64
    layers = ["full_attention", "sliding_attention"]
    assert read(tmp_path, **window, use_sliding_window=True, layer_types=layers).sliding_window == 64
    assert read(tmp_path, **window, architectures=["MistralForCausalLM"]).sliding_window == 64
    assert read(tmp_path, architectures=["MistralForCausalLM"]).sliding_window is None
    assert read(tmp_path, **window, architectures=["LlamaForCausalLM"]).sliding_window is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (MOE | {"decoder_sparse_step": 2}, "decoder_sparse_step is 2, but only 1 is supported"),
        (QWEN3_MOE | {"mlp_only_layers": [0]}, "mlp_only_layers is [0], but only [] is supported"),
        (MOE | {"num_experts": None}, "num_experts is missing"),
        (MOE | {"num_experts_per_tok": 7}, "num_experts_per_tok is 7, more than the 6 experts"),
        (MOE | {"norm_topk_prob": True, "num_experts_per_tok": 1}, "num_experts_per_tok is 1 with weights"),
        (MOE | {"shared_expert_intermediate_size": None}, "shared_expert_intermediate_size is missing"),
        (MOE | {"qkv_bias": False}, "qkv_bias is False"),
        (MOE | {"router_aux_loss_coef": -1}, "router_aux_loss_coef is -1"),
        (MIXTRAL | {"router_jitter_noise": 0.1}, "router_jitter_noise is 0.1"),
        (GLM4_MOE | {"n_group": 2, "topk_group": 1}, "n_group is 2, but only 1 is supported"),
        (GLM4_MOE | {"norm_topk_prob": False}, "norm_topk_prob is False, but only True is supported"),
        (GLM4_MOE | {"first_k_dense_replace": 2}, "first_k_dense_replace is 2, which leaves none of the 2 layers"),
        (GLM4_MOE | {"first_k_dense_replace": -1}, "first_k_dense_replace is -1, expected zero or a positive"),
        (GLM4_MOE | {"use_qk_norm": "yes"}, "use_qk_norm is 'yes', expected true or false"),
        (
            GLM4_MOE | {"partial_rotary_factor": 0.4},
            "partial_rotary_factor is 0.4, which is no even part of a head",
        ),
        (GLM4_MOE | {"num_experts_per_tok": 1}, "num_experts_per_tok is 1 with weights that sum to 1"),
        ({"architectures": ["Qwen3ForCausalLM"], "attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters.rope_type is 'dynamic'"),
    ],
)
def test_variants_of_architectures_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SrpoError) as caught:
        read(tmp_path, **changes)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"expert_parallel": 4}, r"expert_parallel 4 does not divide the 6 experts of .* 1, 2, 3 or 6\."),
        ({"tensor_parallel": 2}, r"tensor_parallel 2 with the experts of .* needs trainer\.sequence_parallel"),
        (
            {"tensor_parallel": 8, "sequence_parallel": True},
            r"tensor_parallel 8 does not divide num_attention_heads 4 .* 1 or 2\.",
        ),
        ({"pipeline_parallel": 2, "pipeline_layers": (1, 2)}, r"\[1, 2\] adds up to 3, .* num_hidden_layers 2;"),
        (
            {"pipeline_parallel": 2, "virtual_pipeline_parallel": 2},
            r"2 x virtual_pipeline_parallel 2 does not divide num_hidden_layers 2 .*pipeline_layers",
        ),
    ],
)
def test_experts_and_chunks_must_divide(tmp_path: Path, trainer: dict[str, Any], said: str) -> None:
    model = read(tmp_path, **MOE)
    with pytest.raises(SrpoError, match=said):
        check_parallel(model, TrainerSection(ranks=8, **trainer))


def test_layouts_with_experts_are_accepted(tmp_path: Path) -> None:
    model = read(tmp_path, **MOE)
    check_parallel(model, TrainerSection(ranks=6, tensor_parallel=2, sequence_parallel=True, expert_parallel=3))
    check_parallel(model, TrainerSection(ranks=2, pipeline_parallel=2, pipeline_layers=(1, 1)))
    with pytest.raises(SrpoError, match=r"expert_parallel is 2, but .*config\.json has no experts"):
        check_parallel(read(tmp_path), TrainerSection(ranks=8, expert_parallel=2))
    with pytest.raises(SrpoError, match=r"experts.balancing is aux_loss, but .*config\.json has no experts"):
        check_parallel(read(tmp_path), TrainerSection(experts=ExpertsSection(balancing="aux_loss")))
    with pytest.raises(SrpoError, match=r"experts.replay_routing is true, but .*config\.json has no experts"):
        check_parallel(read(tmp_path), TrainerSection(experts=ExpertsSection(replay_routing=True)))
    biased = TrainerSection(experts=ExpertsSection(balancing="bias"))
    with pytest.raises(
        SrpoError, match=r"experts.balancing is bias, but the routers of .*config\.json have none; se"
    ):
        check_parallel(model, biased)
    check_parallel(read(tmp_path, **GLM4_MOE), biased)


def selective(*modules: str, **trainer: Any) -> TrainerSection:
    return TrainerSection.model_validate(
        {"recompute": {"granularity": "selective", "modules": modules}, "device": "cuda", **trainer}
    )


def test_what_is_recomputed_must_be_there(tmp_path: Path) -> None:
    dense = read(tmp_path)
    for module in ("core_attn", "mlp", "layernorm"):
        check_parallel(dense, selective(module))
    for module in ("moe", "moe_act"):
        with pytest.raises(SrpoError, match=rf"modules names {module}, but .*config\.json has no experts; it can"):
            check_parallel(dense, selective("mlp", module))
    experts = read(tmp_path, **MOE)
    check_parallel(experts, selective("core_attn", "layernorm", "moe", "moe_act"))
    check_parallel(experts, selective("moe", device="cpu"))
    with pytest.raises(SrpoError, match=r"names mlp, but .* has experts in all layers; it can name core_attn, la"):
        check_parallel(experts, selective("mlp"))
    check_parallel(read(tmp_path, **GLM4_MOE), selective("mlp", "moe"))
    with pytest.raises(SrpoError, match=r"names moe_act, which needs .* trainer\.device is cpu; name moe instead"):
        check_parallel(experts, selective("moe_act", device="cpu"))


def test_a_chunk_has_the_layers_that_are_recomputed(tmp_path: Path) -> None:
    model = read(tmp_path, num_hidden_layers=4)
    shape: dict[str, Any] = {"ranks": 2, "pipeline_parallel": 2, "pipeline_layers": (1, 3)}
    check_parallel(model, TrainerSection(**shape, recompute=RecomputeSection(granularity="full", layers=3)))
    with pytest.raises(SrpoError, match=r"recompute\.layers 4 is more than the 3 layers of the largest chunk"):
        check_parallel(model, TrainerSection(**shape, recompute=RecomputeSection(granularity="full", layers=4)))


def test_an_engine_splits_experts(tmp_path: Path) -> None:
    model = read(tmp_path, **MOE | {"moe_intermediate_size": 10})
    with pytest.raises(SrpoError, match=r"the shared expert's intermediate size 20 and .* 10 of .* 1 or 2\."):
        check_engine_parallel(model, EngineSection(tensor_parallel=4))
    check_engine_parallel(model, EngineSection(tensor_parallel=2))
    dense_first = read(tmp_path, **GLM4_MOE | {"intermediate_size": 26})
    with pytest.raises(SrpoError, match=r"intermediate_size 26 and the shared .* 24 and .* 12 of .* 1 or 2\."):
        check_engine_parallel(dense_first, EngineSection(tensor_parallel=4))


def test_a_gated_shared_expert_needs_a_gpu_or_the_deterministic_engine(tmp_path: Path) -> None:
    model = read(tmp_path, **MOE)
    with pytest.raises(SrpoError, match=r"engine\.device cpu: .* gated shared expert of .*config\.json"):
        check_engine_parallel(model, EngineSection(device="cpu"))
    check_engine_parallel(model, EngineSection(device="cpu", backend="deterministic"))
    for served in (QWEN3_MOE, GLM4_MOE):
        check_engine_parallel(read(tmp_path, **served), EngineSection(device="cpu"))
