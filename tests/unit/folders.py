"""Small model folders, data files and recipes for tests that must not need torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from megatron_srpo.data.problem_set import PROBLEM_SCHEMA, PROBLEMS, Manifest, PartWriter, commit

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 260,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
    "dtype": "float32",
    "eos_token_id": 256,
}


def shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes of every tensor of a Qwen2 or Llama checkpoint with tied or untied embeddings."""
    hidden, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    query, groups = heads * head, config["num_key_value_heads"] * head
    found = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, width in (("q", query), ("k", groups), ("v", groups)):
            found[f"{at}self_attn.{name}_proj.weight"] = [width, hidden]
            if config["architectures"] == ["Qwen2ForCausalLM"]:
                found[f"{at}self_attn.{name}_proj.bias"] = [width]
        found[f"{at}self_attn.o_proj.weight"] = [hidden, query]
        found[f"{at}mlp.gate_proj.weight"] = found[f"{at}mlp.up_proj.weight"] = [ffn, hidden]
        found[f"{at}mlp.down_proj.weight"] = [hidden, ffn]
        found[f"{at}input_layernorm.weight"] = found[f"{at}post_attention_layernorm.weight"] = [hidden]
    return found


def write_safetensors(file: Path, tensors: dict[str, list[int]]) -> None:
    """A safetensors file of float32 zeros, written by hand."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def write_tokenizer(file: Path, *, extra: int = 0) -> None:
    """One token a byte, the end of text as id 256, and `extra` more entries behind it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: at for at, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", *(f"<|extra_{n}|>" for n in range(extra))])
    tokenizer.save(str(file))


def write_model(folder: Path, **changes: Any) -> Path:
    """A complete model folder; `changes` are laid over CONFIG, and None removes a key."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", shapes(config))
    write_tokenizer(folder / "tokenizer.json")
    return folder


def write_problems(file: Path, prompts: list[str], **columns: list[Any]) -> Path:
    """A parquet file of problems whose answers are 1."""
    table: dict[str, list[Any]] = {
        "id": [f"p{number}" for number in range(len(prompts))],
        "prompt": prompts,
        "answer": ["1"] * len(prompts),
    }
    pq.write_table(pa.table(table | columns), file)
    return file


def write_set(folder: Path, rows: list[dict[str, Any]], *, rows_per_part: int = 100, **manifest: Any) -> Path:
    """A set of problems whose rows have an id, a prompt and the answer 1, unless they say otherwise."""
    plain = {"domain": "math", "source": "", "answer": "1", "meta": "{}"}
    with PartWriter(folder, PROBLEMS, PROBLEM_SCHEMA, rows_per_part) as writer:
        writer.write(
            plain | {"id": f"p{number}", "prompt": f"Problem {number}?"} | row for number, row in enumerate(rows)
        )
    commit(folder, Manifest(name=folder.name, problems=tuple(writer.parts), **manifest))
    return folder


def write_recipe(folder: Path, **model: Any) -> Path:
    """A recipe with its model, data and engine interpreter, all inside `folder`."""
    write_model(folder / "model", **model)
    write_problems(folder / "train.parquet", ["What is 1 + 0?", "What is 3 - 2?"])
    python = folder / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""\
name: small
steps: 3
model: {{path: {folder / "model"}}}
data: {{train: {{math: {folder / "train.parquet"}}}, prompt_template: "Q: {{question}} A:"}}
engine: {{python: {python}, device: cpu, dtype: float32}}
rollout: {{prompts_per_step: 4, samples_per_prompt: 2, max_prompt_tokens: 30, max_response_tokens: 64}}
trainer: {{device: cpu, dtype: float32, ranks: 4, tensor_parallel: 2, max_tokens_per_microbatch: 256}}
"""
    )
    return recipe
