"""Lazy reading of Hugging Face safetensors folders: only the asked-for slices leave the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from megatron_srpo.bridge.hf_files import STORED
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.model_folder import INDEX, SINGLE


class CheckpointReader:
    """Tensors of an HF folder by name; files are opened when first needed and mapped, not loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, Any] = {}
        self._where = self._locate()

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._where)

    def slice(self, name: str) -> Any:
        """A lazy tensor that reads what is sliced from it; raises SrpoError when the folder lacks it."""
        if name not in self._where:
            raise SrpoError(f"{self.folder}: tensor {name} is missing; the model's config.json asks for it")
        return self._open(self._where[name]).get_slice(name)

    def dtype(self, name: str) -> torch.dtype:
        """The type that it is stored in."""
        return STORED[str(self.slice(name).get_dtype())]

    def _locate(self) -> dict[str, Path]:
        index = self.folder / INDEX
        if index.exists():
            weight_map = json.loads(index.read_text())["weight_map"]
            return {name: self.folder / file for name, file in weight_map.items()}
        single = self.folder / SINGLE
        return {name: single for name in self._open(single).keys()}  # noqa: SIM118 (not a mapping)

    def _open(self, path: Path) -> Any:
        if path not in self._files:
            try:
                self._files[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise SrpoError(f"{path}: cannot be read as safetensors ({error}); download it again") from error
        return self._files[path]
