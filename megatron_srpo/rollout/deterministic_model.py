"""The model of the deterministic engine: one request at a time, always the same tokens.

Tokens and log-probs are a pure function of (weights, weight version, seed, prompt, sampling settings):
float32, one thread, no batching, a random generator made anew for each request.  For tiny models.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DynamicCache


class RefusedError(Exception):
    """A request that cannot be served; its text is the answer's message."""


@dataclass(frozen=True)
class Settings:
    """The `sampling_params` that this engine understands, with SGLang's defaults."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    sampling_seed: int | None = None
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    n: int = 1

    def __post_init__(self) -> None:
        if self.n != 1:
            raise RefusedError("the deterministic engine draws one sample a request: n must be 1")
        if self.temperature > 0 and self.sampling_seed is None:
            raise RefusedError("the deterministic engine needs sampling_seed where temperature is above 0")
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise RefusedError(f"sampling_params are out of range: {self}")


@dataclass
class Result:
    """Tokens drawn so far, their log-probs and, at the end, why it ended (in SGLang's form).

    `experts`: what the routers chose for the tokens read so far, [tokens, layers, experts per token] each.
    """

    weight_version: str
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: dict[str, Any] = field(default_factory=dict)
    experts: list[torch.Tensor] = field(default_factory=list)


class DeterministicModel:
    """A Hugging Face causal language model with replaceable weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weight_version = "0"
        loader: Any = AutoModelForCausalLM  # without type hints of its own
        self._model = loader.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
        self.context_length = int(self._model.config.max_position_embeddings)
        self._vocabulary_size = int(self._model.config.vocab_size)
        eos = self._model.generation_config.eos_token_id or self._model.config.eos_token_id
        self._eos_token_ids = set(eos if isinstance(eos, list) else [eos]) - {None}
        self._tied = bool(self._model.config.tie_word_embeddings)
        self._chosen = _record_experts(self._model)
        saved = self._model.state_dict().keys()
        buffers = {name: buffer for name, buffer in self._model.named_buffers() if name in saved}
        weights = {**dict(self._model.named_parameters()), **buffers}
        self._weights = published(weights, self._model.config.model_type)

    # Generation

    @torch.inference_mode()
    def generate(self, input_ids: Sequence[int], settings: Settings, aborted: threading.Event) -> Result:
        """Draw one response.  Raises RefusedError for a prompt that the model cannot take."""
        self._check_prompt(input_ids, settings)
        result = Result(self.weight_version)
        generator = self._generator(settings)
        stops = set(settings.stop_token_ids) | (set() if settings.ignore_eos else self._eos_token_ids)
        cache = DynamicCache(config=self._model.config)
        unread = list(input_ids)
        while not result.finish_reason:
            if aborted.is_set():
                result.finish_reason = {"type": "abort", "message": "Abort in decode"}
                break
            logits = self._model(torch.tensor([unread]), past_key_values=cache, use_cache=True).logits[0, -1]
            if self._chosen:
                result.experts.append(_by_layer(self._chosen, self._model.config.num_hidden_layers))
            token, log_prob = _draw(logits, settings, generator)
            result.tokens.append(token)
            result.log_probs.append(log_prob)
            unread = [token]
            # As SGLang: an end token in the last place is an end, not a cut.
            if token in stops:
                result.finish_reason = {"type": "stop", "matched": token}
            elif len(result.tokens) >= settings.max_new_tokens:
                result.finish_reason = {"type": "length", "length": settings.max_new_tokens}
        return result

    def _check_prompt(self, input_ids: Sequence[int], settings: Settings) -> None:
        if not input_ids or not all(type(token) is int for token in input_ids):
            raise RefusedError("input_ids must be a list of integers, at least one")
        if not all(0 <= token < self._vocabulary_size for token in input_ids):
            raise RefusedError(f"input_ids must be below the vocabulary's size {self._vocabulary_size}")
        if len(input_ids) + settings.max_new_tokens > self.context_length:
            raise RefusedError(
                f"{len(input_ids)} prompt tokens and {settings.max_new_tokens} new ones exceed the context "
                f"length {self.context_length}"
            )

    def _generator(self, settings: Settings) -> torch.Generator:
        key = f"{settings.sampling_seed}/{self.weight_version}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(seed)

    # Weights

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace some parameters, by the names that they have in a folder's files.

        Raises RefusedError, and changes nothing, when a name or shape is not the model's.
        """
        parameters = self._weights
        if self._tied:
            # Some trainers send the output layer although it is the embedding; SGLang skips it as well.
            tensors = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
        for name, tensor in tensors.items():
            if name not in parameters:
                raise RefusedError(f"the model has no parameter {name}")
            if parameters[name].shape != tensor.shape:
                expected = tuple(parameters[name].shape)
                raise RefusedError(f"{name} has shape {tuple(tensor.shape)}, the model's is {expected}")
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)

    def load_folder(self, folder: Path) -> None:
        """Replace all parameters by a Hugging Face folder's.  Raises RefusedError when some are missing."""
        files = sorted(folder.glob("*.safetensors"))
        tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
        missing = set(self._weights) - set(tensors)
        if missing:
            raise RefusedError(f"{folder} lacks {len(missing)} parameters, one is {min(missing)}")
        self.load(tensors)
        self.folder = folder

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every parameter's bytes, by Hugging Face name."""
        return {
            name: hashlib.sha256(parameter.detach().numpy().tobytes()).hexdigest()
            for name, parameter in self._weights.items()
        }


def _record_experts(model: torch.nn.Module) -> dict[int, torch.Tensor]:
    """Where the model's routers leave what they have just chosen: [tokens, experts per token], by layer."""
    chosen: dict[int, torch.Tensor] = {}

    def record(module: torch.nn.Module, _input: Any, output: tuple[torch.Tensor, ...]) -> None:
        chosen[layers[module]] = output[2]

    layers = {
        module: int(name.split(".")[2])  # model.layers.N.
        for name, module in model.named_modules()
        if type(module).__name__.lower().endswith("topkrouter")  # each of transformers' families has its own
    }
    for module in layers:
        module.register_forward_hook(record)
    return chosen


def _by_layer(chosen: Mapping[int, torch.Tensor], layers: int) -> torch.Tensor:
    """[tokens, layers, experts per token]; zeros, as SGLang has them, in layers without experts."""
    nothing = torch.zeros_like(next(iter(chosen.values())))
    return torch.stack([chosen.get(layer, nothing) for layer in range(layers)], dim=1)


def published(parameters: Mapping[str, torch.Tensor], model_type: str) -> dict[str, torch.Tensor]:
    """The parameters by the names that they have on disk, as views where transformers 5 stacks experts.

    In memory all experts of a layer are one tensor `mlp.experts.gate_up_proj` [experts, 2 * intermediate, hidden]
    and one `mlp.experts.down_proj` [experts, hidden, intermediate].
    """
    mixtral = model_type == "mixtral"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    views: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        published = name.replace(".mlp.", ".block_sparse_moe.") if mixtral else name
        prefix, stacked, kind = published.rpartition(".experts.")
        if not stacked:
            views[published] = parameter
            continue
        for number, expert in enumerate(parameter.detach()):
            parts = zip((gate, up), expert.chunk(2), strict=True) if kind == "gate_up_proj" else [(down, expert)]
            views |= {f"{prefix}.experts.{number}.{part}.weight": view for part, view in parts}
    return views


def _draw(logits: torch.Tensor, settings: Settings, generator: torch.Generator) -> tuple[int, float]:
    """One token and its log-prob: after temperature, before top_k and top_p, as SGLang reports it."""
    if settings.temperature == 0:
        log_probs = torch.log_softmax(logits, dim=-1)
        token = int(log_probs.argmax())
    else:
        log_probs = torch.log_softmax(logits / settings.temperature, dim=-1)
        token = int(torch.multinomial(_kept_probabilities(log_probs.exp(), settings), 1, generator=generator))
    return token, float(log_probs[token])


def _kept_probabilities(probabilities: torch.Tensor, settings: Settings) -> torch.Tensor:
    """The probabilities with those outside top_k and top_p set to zero, not renormalised."""
    ordered, tokens = probabilities.sort(descending=True, stable=True)
    dropped = ordered.cumsum(0) - ordered > settings.top_p
    if settings.top_k > 0:
        dropped[settings.top_k :] = True
    return torch.zeros_like(probabilities).scatter(0, tokens, ordered.masked_fill(dropped, 0.0))
