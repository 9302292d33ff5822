"""What benchmarks work on: random models as Hugging Face folders, and random step files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from common.rows import bench_row
from megatron_srpo.bridge.tables import table_for
from megatron_srpo.recipe.model_config import ModelConfig, read_model_config
from megatron_srpo.rollout.journal import Journal


def write_config(
    folder: Path,
    hidden: int,
    layers: int,
    vocab: int,
    heads: int = 8,
    groups: int | None = None,
    intermediate: int | None = None,
) -> ModelConfig:
    """The config.json of an untied Qwen2 model; `groups` key-value heads, by default half of `heads`."""
    folder.mkdir(parents=True)
    values = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": intermediate or 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups or heads // 2,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": vocab,
        "eos_token_id": 0,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    return read_model_config(folder)


def write_model(folder: Path, hidden: int, layers: int, vocab: int, heads: int = 8) -> ModelConfig:
    """A Qwen2 model with untied random float32 weights."""
    model = write_config(folder, hidden, layers, vocab, heads)
    torch.manual_seed(0)
    tensors = {}
    for rule in table_for(model):
        for hf in rule.hf:
            for layer in range(layers) if "{layer}" in hf else (0,):
                name = hf.replace("{layer}", str(layer))
                tensors[name] = _random(name, model)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return model


def _random(name: str, model: ModelConfig) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(model.hidden_size)
    rows = {
        "q_proj": model.query_size,
        "k_proj": model.key_value_size,
        "v_proj": model.key_value_size,
        "gate_proj": model.intermediate_size,
        "up_proj": model.intermediate_size,
        "embed_tokens": model.vocab_size,
        "lm_head": model.vocab_size,
    }
    module = name.split(".")[-2]
    if name.endswith("bias"):
        return torch.zeros(rows[module])
    columns = {"o_proj": model.query_size, "down_proj": model.intermediate_size}
    shape = (rows.get(module, model.hidden_size), columns.get(module, model.hidden_size))
    return torch.randn(shape) * 0.02


def record_step(folder: Path, prompts: int, samples: int, vocab: int, mean_length: int) -> Path:
    """A step file of random responses of various lengths."""
    rng = np.random.default_rng(0)
    journal = Journal(folder)
    for group in range(prompts):
        prompt = rng.integers(0, vocab, size=mean_length // 4).tolist()
        rows = []
        for sample in range(samples):
            length = int(rng.integers(mean_length // 2, mean_length * 3 // 2))
            tokens, log_probs = rng.integers(0, vocab, size=length).tolist(), [-8.0] * length
            accuracy = float(rng.random() < 0.5)
            rows.append(
                bench_row(
                    group,
                    sample,
                    accuracy,
                    prompt_tokens=prompt,
                    tokens=tokens,
                    log_probs=log_probs,
                    response_length=length,
                )
            )
        journal.append(rows)
    return journal.close(0, prompts, range(prompts))
