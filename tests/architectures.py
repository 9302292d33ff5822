"""Tiny random checkpoints of every architecture, with the tensor names that published checkpoints have on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support import BOS_TOKEN_ID, EOS_TOKEN_ID, save_byte_tokenizer

# What all have in common: laid under TINY's entries.  Four layers are enough for two stages of two chunks.
COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "bos_token_id": BOS_TOKEN_ID,
    "eos_token_id": EOS_TOKEN_ID,
    # Larger than the usual 0.02: the distribution of the next token must not be flat, or a wrong weight would
    # hardly move a log-prob.
    "initializer_range": 0.1,
    "dtype": "float32",
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

# Name -> (transformers' class without ForCausalLM, what differs from COMMON).
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {"vocab_size": 511}),
    "qwen2_tied": ("Qwen2", {"vocab_size": 511, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "llama2": ("Llama", {"num_key_value_heads": 4}),
    "llama3": ("Llama", {"max_position_embeddings": 16384, "rope_parameters": LLAMA3_ROPE, "vocab_size": 513}),
    "llama_linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "mistral": ("Mistral", {"head_dim": 32, "sliding_window": 1024}),
    "qwen2_moe": (
        "Qwen2Moe",
        {
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 48,
            "norm_topk_prob": False,
        },
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            "head_dim": 32,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "vocab_size": 511,
        },
    ),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    # As GLM-4.5: biases and norms in the attention, which is half rotary; a choice by a bias.
    "glm4_moe": (
        "Glm4Moe",
        {
            "head_dim": 24,
            "attention_bias": True,
            "use_qk_norm": True,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 2.5,
            "num_nextn_predict_layers": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
        },
    ),
    # As GLM-4.5-Air but for what its config leaves open: neither biases nor norms, and a larger shared expert.
    "glm4_moe_air": (
        "Glm4Moe",
        {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_shared_experts": 2,
            "first_k_dense_replace": 2,
            "num_nextn_predict_layers": 0,
            "vocab_size": 511,
        },
    ),
}
MOE = ("qwen2_moe", "qwen3_moe", "mixtral", "glm4_moe", "glm4_moe_air")


def write_tiny(
    architecture: str, folder: Path, *, seed: int = 0, shard_bytes: int | None = None, **changes: Any
) -> Path:
    """Write a random model of an entry of TINY and a byte-level tokenizer into `folder`; returns it.

    `changes` are laid over the entry's configuration.  With `shard_bytes` the weights are spread over files of
    at most that size with an index, else they are one model.safetensors.  `dtype` (a change) is that of the
    stored weights.  The same arguments give the same bytes.
    """
    import torch
    import transformers

    name, differences = TINY[architecture]
    values = COMMON | differences | changes
    config = getattr(transformers, f"{name}Config")(**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
        for parameter_name, parameter in model.named_parameters():
            # Biases start at zero and norms at one; random values catch their being left out.
            if parameter_name.endswith("bias") or "norm" in parameter_name:
                torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                torch.nn.init.normal_(buffer, std=0.1)
    size = 10**12 if shard_bytes is None else shard_bytes
    # Its own float32 parts stay float32, as in what is published.
    kept = {name: buffer for name, buffer in model.named_buffers() if name.endswith("e_score_correction_bias")}
    model.to(getattr(torch, values["dtype"]))
    for name, buffer in kept.items():
        model.get_submodule(name.rpartition(".")[0]).e_score_correction_bias = buffer
    model.save_pretrained(folder, max_shard_size=size)
    _published_keys(folder / "config.json")
    save_byte_tokenizer(folder)
    return folder


def _published_keys(file: Path) -> None:
    """Qwen3-MoE's published configs say num_experts where transformers 5 writes num_local_experts."""
    config = json.loads(file.read_text())
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
        file.write_text(json.dumps(config, indent=2) + "\n")


def read_tensors(folder: Path) -> dict[str, Any]:
    """Every tensor of a folder's safetensors files by name."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def reference_log_probs(folder: Path, samples: list[list[int]]) -> list[list[float]]:
    """Log-probs of each sample's tokens behind the first by transformers in float32, one sample at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for sample in samples:
        with torch.no_grad():
            log_probs = model(torch.tensor([sample])).logits[0].log_softmax(-1)
        found.append(log_probs[:-1].gather(1, torch.tensor(sample[1:])[:, None])[:, 0].tolist())
    return found
