"""What a Hugging Face model folder says about its model, read without torch or transformers.

Only what the trainer can build is let through: a config that asks for something else is refused with the
file and the key, instead of being trained as a slightly different model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.architectures import ARCHITECTURES, COMMON_MUST_BE, Architecture

DTYPES = ("float32", "bfloat16", "float16")
# Megatron-Core's rotary embedding has these three numbers of Llama 3.1 built in and takes only the factor.
LLAMA3_FIXED = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class RopeScaling:
    """Stretched rotary positions: `linear` divides every position, `llama3` rescales the low frequencies."""

    kind: Literal["linear", "llama3"]
    factor: float


@dataclass(frozen=True)
class MoEConfig:
    """A layer's mixture of experts.

    normalize_top_k: whether the weights of a token's experts sum to 1, or are their shares among all experts.
    shared_expert_intermediate_size: size of the expert that every token passes; none without one.
    aux_loss_coefficient: the load balancing loss of pre-training, as recorded; not part of the RL loss.
    dense_layers: how many layers, the first ones, have no experts.
    shared_gate: whether a gate weighs the shared expert.
    router_bias: whether the router scores with a sigmoid and chooses by the scores and a bias, not with a softmax.
    scaling: factor of the weights of a token's experts.
    """

    experts: int
    experts_per_token: int
    intermediate_size: int
    shared_expert_intermediate_size: int | None
    normalize_top_k: bool
    aux_loss_coefficient: float
    dense_layers: int = 0
    shared_gate: bool = True
    router_bias: bool = False
    scaling: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder-only model, as its config.json states it.

    `intermediate_size` is that of the dense layers, of which a model with experts (`moe`) may have none.
    `rotary_share`: the share of a head that is rotated, its front.
    `sliding_window`: how many tokens attention sees; none: all of them.
    `extra_layers`: layers behind the model's for predicting further tokens, which are not trained.
    """

    folder: Path
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    rotary_share: float
    tie_word_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    sliding_window: int | None
    moe: MoEConfig | None
    extra_layers: int
    max_position_embeddings: int
    dtype: str
    eos_token_ids: tuple[int, ...]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def file(self) -> Path:
        """The config.json that this was read from."""
        return self.folder / "config.json"

    @property
    def query_size(self) -> int:
        """Width of all query heads together; equals `hidden_size` in most models."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """Width of all key heads together, which is that of the value heads too."""
        return self.num_key_value_heads * self.head_dim

    @property
    def dense_layers(self) -> int:
        """How many layers, the first ones, have no experts."""
        return self.num_layers if self.moe is None else self.moe.dense_layers

    def like(self, layer: int) -> ModelConfig:
        """A model whose layers are all as this one's `layer` is: with experts, or without."""
        if self.moe is None or not self.dense_layers:
            return self
        return replace(self, moe=None if layer < self.dense_layers else replace(self.moe, dense_layers=0))

    def is_extra(self, tensor: str) -> bool:
        """Whether an HF tensor belongs to a layer that is not trained (`extra_layers`)."""
        numbers = range(self.num_layers, self.num_layers + self.extra_layers)
        return tensor.startswith(tuple(f"model.layers.{number}." for number in numbers))


class _Keys:
    """Typed look-ups in a JSON object that name file and key when something is off."""

    def __init__(self, file: Path, values: Mapping[str, Any], prefix: str = "") -> None:
        self.file, self.values, self.prefix = file, values, prefix

    def refuse(self, key: str, why: str) -> NoReturn:
        raise SrpoError(f"{self.file}: {self.prefix}{key} {why}.")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            self.refuse(key, "is missing; a positive integer is expected")
        if type(value) is not int or value <= 0:
            self.refuse(key, f"is {value!r}, expected a positive integer")
        return value

    def count(self, key: str, default: int) -> int:
        """An integer that may be zero."""
        value = self.values.get(key, default)
        if type(value) is not int or value < 0:
            self.refuse(key, f"is {value!r}, expected zero or a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            self.refuse(key, "is missing; a positive number is expected")
        if type(value) not in (int, float) or value <= 0:
            self.refuse(key, f"is {value!r}, expected a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, f"is {value!r}, expected true or false")
        return value

    def share(self, key: str) -> float:
        """A number that may be zero, which it also is where the key is missing."""
        value = self.values.get(key) or 0.0
        if type(value) not in (int, float) or value < 0:
            self.refuse(key, f"is {value!r}, expected zero or a positive number")
        return float(value)

    def first(self, names: tuple[str, ...]) -> str:
        """The first of several spellings of a key that is there; the first of all where none is."""
        return next((name for name in names if self.values.get(name) is not None), names[0])

    def must_be(self, key: str, wanted: Any, default: Any) -> None:
        value = self.values.get(key)
        if value is None:
            value = default
        if value != wanted:
            self.refuse(key, f"is {value!r}, but only {wanted!r} is supported")


def read_model_config(folder: Path) -> ModelConfig:
    """Read `config.json` and, for the stop tokens, `generation_config.json`.

    Raises:
        SrpoError: naming the file and the key, for a missing value and for every feature that the trainer
            would not reproduce (unknown rotary scaling, other activations, extra biases, dense layers between
            those with experts).
    """
    if not folder.is_dir():
        raise SrpoError(
            f"{folder}: there is no such folder (looked for {folder.absolute()}); "
            "give the Hugging Face folder of a model (model.path in a recipe)."
        )
    file = folder / "config.json"
    raw = read_json(file)
    keys = _Keys(file, raw)
    architecture = _architecture(keys)
    _refuse_unsupported(keys, architecture)
    window = _sliding_window(keys, architecture)
    heads, hidden = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    groups = keys.integer("num_key_value_heads", heads)
    if heads % groups:
        keys.refuse("num_key_value_heads", f"is {groups}, which does not divide num_attention_heads {heads}")
    if raw.get("head_dim") is None and architecture.head_dim is None and hidden % heads:
        keys.refuse("hidden_size", f"is {hidden}, which num_attention_heads {heads} does not divide")
    head_dim = keys.integer("head_dim", architecture.head_dim or hidden // heads)
    theta, scaling = _rope(keys, architecture.rope_theta)
    vocabulary, layers = keys.integer("vocab_size"), keys.integer("num_hidden_layers")
    return ModelConfig(
        folder=folder,
        architecture=architecture.name,
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=keys.integer("intermediate_size"),
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim,
        rms_norm_eps=keys.number("rms_norm_eps", architecture.rms_norm_eps),
        rope_theta=theta,
        rope_scaling=scaling,
        rotary_share=_rotary_share(keys, architecture, head_dim),
        tie_word_embeddings=keys.flag("tie_word_embeddings", False),
        qkv_bias=_switch(keys, architecture.qkv_bias),
        qk_norm=_switch(keys, architecture.qk_norm),
        sliding_window=window,
        moe=_moe(keys, architecture, layers),
        extra_layers=keys.count(architecture.extra_layers, 0) if architecture.extra_layers else 0,
        max_position_embeddings=keys.integer("max_position_embeddings"),
        dtype=_dtype(keys),
        eos_token_ids=_stop_tokens(keys, vocabulary),
        raw=raw,
    )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        SrpoError: when the file is missing, unreadable or not a JSON object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SrpoError(
            f"{file}: cannot read it ({error.strerror}); looked for {file.absolute()}, "
            "a Hugging Face model folder has this file."
        ) from None
    except ValueError as error:
        raise SrpoError(f"{file}: not valid JSON ({error}); copy the model folder again.") from None
    if not isinstance(values, dict):
        raise SrpoError(f"{file}: expected a JSON object, found {type(values).__name__}.")
    return values


def _architecture(keys: _Keys) -> Architecture:
    """The row of the one architecture that the config names."""
    named = keys.values.get("architectures")
    if isinstance(named, list) and len(named) == 1 and named[0] in ARCHITECTURES:
        return ARCHITECTURES[named[0]]
    keys.refuse("architectures", f"is {named!r}, but only {', '.join(ARCHITECTURES)} are supported")


def _refuse_unsupported(keys: _Keys, architecture: Architecture) -> None:
    """Stop at every setting that would make another model of it than the one that is built."""
    for key, wanted in {**COMMON_MUST_BE, **architecture.must_be}.items():
        keys.must_be(key, wanted, wanted)
    if keys.values.get("quantization_config") is not None:
        keys.refuse("quantization_config", "is set; train from weights that are not quantized")


def _sliding_window(keys: _Keys, architecture: Architecture) -> int | None:
    """The window if it is in use in any layer; Qwen's configs carry one that their switch leaves out."""
    switch = architecture.window
    used = switch == "always" or (switch != "never" and keys.flag(switch, False))
    known = {"full_attention"} | ({"sliding_attention"} if used else set())
    if not set(keys.values.get("layer_types") or []) <= known:
        keys.refuse("layer_types", f"names layers other than {' and '.join(sorted(known))}, the only ones here")
    return keys.integer("sliding_window") if used and keys.values.get("sliding_window") is not None else None


def _switch(keys: _Keys, switch: bool | str) -> bool:
    """What a row says, or the key that it names; false where the key is missing."""
    return keys.flag(switch, False) if isinstance(switch, str) else switch


def _moe(keys: _Keys, architecture: Architecture, layers: int) -> MoEConfig | None:
    """The experts of a layer; none for a dense model."""
    names = architecture.experts
    if names is None:
        return None
    experts, chosen = keys.integer(keys.first(names.count)), keys.integer("num_experts_per_tok")
    if chosen > experts:
        keys.refuse("num_experts_per_tok", f"is {chosen}, more than the {experts} experts that there are")
    normalize = names.normalize is None or keys.flag(names.normalize, False)
    if normalize and chosen == 1:
        keys.refuse("num_experts_per_tok", "is 1 with weights that sum to 1: the router could not learn anything")
    size = keys.integer(keys.first(names.size))
    shared = keys.integer(names.shared_size) if names.shared_size else None
    if names.shared_count:
        shared = size * keys.integer(names.shared_count, 1)
    # Where the key is missing the first layer alone has none.
    dense = keys.count(names.dense_layers, 1) if names.dense_layers else 0
    if dense >= layers:
        keys.refuse(str(names.dense_layers), f"is {dense}, which leaves none of the {layers} layers any experts")
    return MoEConfig(
        experts=experts,
        experts_per_token=chosen,
        intermediate_size=size,
        shared_expert_intermediate_size=shared,
        normalize_top_k=normalize,
        aux_loss_coefficient=keys.share("router_aux_loss_coef"),
        dense_layers=dense,
        shared_gate=names.shared_gate,
        router_bias=names.bias is not None,
        scaling=keys.number(names.scaling, 1.0) if names.scaling else 1.0,
    )


def _rope(keys: _Keys, default: float) -> tuple[float, RopeScaling | None]:
    """Rotary base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`."""
    name = "rope_parameters" if keys.values.get("rope_parameters") is not None else "rope_scaling"
    values = keys.values.get(name)
    if values is None:
        return keys.number("rope_theta", default), None
    if not isinstance(values, dict):
        keys.refuse(name, f"is {values!r}, expected an object")
    rope = _Keys(keys.file, values, f"{name}.")
    theta = rope.number("rope_theta") if "rope_theta" in values else keys.number("rope_theta", default)
    kind = values.get("rope_type", values.get("type"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", rope.number("factor"))
    if kind == "llama3":
        for key, wanted in LLAMA3_FIXED.items():
            rope.must_be(key, wanted, None)
        return theta, RopeScaling("llama3", rope.number("factor"))
    rope.refuse("rope_type", f"is {kind!r}, but only 'default', 'linear' and 'llama3' are supported")


def _rotary_share(keys: _Keys, architecture: Architecture, head_dim: int) -> float:
    """The share of a head that is rotated, from `rope_parameters` (transformers 5) or `partial_rotary_factor`."""
    if architecture.rotary_share is None:
        return 1.0
    key, values = "partial_rotary_factor", keys.values.get("rope_parameters")
    if isinstance(values, dict) and key in values:
        keys = _Keys(keys.file, values, "rope_parameters.")
    share = keys.number(key, architecture.rotary_share)
    if share > 1 or int(head_dim * share) % 2 or not int(head_dim * share):
        keys.refuse(key, f"is {share:g}, which is no even part of a head of size {head_dim}")
    return share


def _dtype(keys: _Keys) -> str:
    """The data type the weights were saved in; `dtype` in transformers 5, `torch_dtype` before."""
    name = "dtype" if keys.values.get("dtype") is not None else "torch_dtype"
    value = keys.values.get(name) or "float32"
    if value not in DTYPES:
        keys.refuse(name, f"is {value!r}, expected one of {', '.join(DTYPES)}")
    return str(value)


def _stop_tokens(keys: _Keys, vocabulary: int) -> tuple[int, ...]:
    """Every end-of-text id of both config files, sorted."""
    found: set[int] = set()
    generation = keys.file.with_name("generation_config.json")
    sources = [keys, _Keys(generation, read_json(generation))] if generation.exists() else [keys]
    for source in sources:
        value = source.values.get("eos_token_id")
        for token in value if isinstance(value, list) else [] if value is None else [value]:
            if type(token) is not int or not 0 <= token < vocabulary:
                source.refuse("eos_token_id", f"is {value!r}, expected ids from 0 to {vocabulary - 1}")
            found.add(token)
    if not found:
        keys.refuse("eos_token_id", "is missing; without a stop token no response would ever end")
    return tuple(sorted(found))
