"""Things that many tests need: tiny random models in Hugging Face form, and rows of the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from megatron_srpo.rollout.journal import Row

Architecture = Literal["qwen2", "llama"]

BOS_TOKEN_ID = 256
EOS_TOKEN_ID = 257
VOCABULARY_SIZE = 512


def make_tiny_hf(
    folder: Path,
    *,
    architecture: Architecture = "qwen2",
    tied: bool = False,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
) -> Path:
    """Write a random model with a byte-level tokenizer: config.json, model.safetensors, tokenizer.json.

    Four attention heads, two key-value heads, float32.  The same arguments give the same bytes.
    """
    import torch
    import transformers

    shape = {
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tied,
        "bos_token_id": BOS_TOKEN_ID,
        "eos_token_id": EOS_TOKEN_ID,
        # Larger than the usual 0.02: the distribution of the next token must not be flat, or a wrong
        # weight would hardly move a log-prob.
        "initializer_range": 0.1,
        "dtype": "float32",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "qwen2":
            model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape))
        else:
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
        for name, parameter in model.named_parameters():
            # Biases start at zero and norms at one; random values catch their being left out.
            if name.endswith("bias") or "norm" in name:
                torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    model.float().save_pretrained(folder)
    save_byte_tokenizer(folder)
    return folder


def save_byte_tokenizer(folder: Path) -> None:
    """One token a byte (ids 0-255), then beginning and end of sequence."""
    import tokenizers
    import transformers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    vocabulary |= {"<bos>": BOS_TOKEN_ID, "<eos>": EOS_TOKEN_ID}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>"
    )
    fast.save_pretrained(folder)


def journal_row(group: int, sample: int, step: int = 0, **changes: Any) -> Row:
    """A row of the journal that is right when its sample number is not 0; `changes` to any of its fields."""
    values: dict[str, Any] = {
        "step": step,
        "stage": "all",
        "epoch": 0,
        "group": group,
        "sample": sample,
        "prompt_id": f"p{group}",
        "source": "test",
        "weight_version": step,
        "trained": False,
        "response_length": 2,
        "prompt_tokens": [1, 2, 3],
        "tokens": [4, 5 + sample],
        "log_probs": [-0.5, -0.25],
        "text": "hello",
        "finish_reason": "stop",
        "reward": 0.1 * sample,
        "accuracy": float(sample),
        "format_ok": True,
        "extracted": None,
        "components": {},
        "error": None,
    }
    return Row(**values | changes)
