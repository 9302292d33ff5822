"""What belongs to a model besides its weights: configuration, tokenizer, chat template, index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from megatron_srpo.bridge.hf_files import NAMES, STORED, FileLayout
from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.files import replace_file
from megatron_srpo.recipe.model_folder import INDEX, is_weight_file

# The folder in a checkpoint that holds them, and the file in it that says how the weights were laid out.
FOLDER, LAYOUT = "hf", "tensors.json"
CONFIG = "config.json"
_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")


def side_files(folder: Path, with_index: bool) -> dict[str, bytes]:
    """Contents of a model folder's files other than weights, those of sub-folders of templates included.

    Raises SrpoError when one cannot be read.
    """
    names = [path for path in folder.iterdir() if path.is_file() and path.suffix in _SUFFIXES]
    names += (folder / "additional_chat_templates").glob("*.jinja")
    found = {str(path.relative_to(folder)): _read(path) for path in sorted(names)}
    found.pop(LAYOUT, None)
    if not with_index:
        found.pop(INDEX, None)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SrpoError(f"{path}: cannot be read ({error.strerror}); copy it again") from None


def write_side_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Write them, synced."""
    for name, content in contents.items():
        replace_file(folder / name, content)


def with_dtype(config: bytes, dtype: str) -> bytes:
    """A config.json that names `dtype`; as it is where it does so already."""
    values = json.loads(config)
    keys = [key for key in ("dtype", "torch_dtype") if values.get(key) is not None] or ["dtype"]
    if all(values.get(key) == dtype for key in keys):
        return config
    return as_json(values | dict.fromkeys(keys, dtype))


def as_json(values: dict[str, Any]) -> bytes:
    """In the form of Hugging Face's files."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def layout_to_json(layout: list[FileLayout]) -> bytes:
    """`tensors.json`: for every safetensors file its metadata, and names and types in order."""
    files = {
        file.name: {"metadata": file.metadata, "tensors": {name: NAMES[dtype] for name, dtype in file.tensors}}
        for file in layout
    }
    return (json.dumps(files, indent=1, ensure_ascii=False) + "\n").encode()


def layout_from_json(file: Path) -> list[FileLayout]:
    """What `layout_to_json` wrote; raises SrpoError when it is not that."""
    try:
        entries = json.loads(file.read_bytes())
        if strange := [name for name in entries if not is_weight_file(name)]:
            raise ValueError(f"{strange[0]!r} is no name of a safetensors file")
        return [
            FileLayout(name, entry["metadata"], tuple((n, STORED[t]) for n, t in entry["tensors"].items()))
            for name, entry in entries.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SrpoError(f"{file}: cannot be read ({one_line(error)}); convert the model again") from None


def dtype_name(dtype: torch.dtype) -> str:
    """As config.json spells it."""
    return str(dtype).removeprefix("torch.")
