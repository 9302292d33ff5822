"""What a conversion moves: every Megatron parameter, the HF tensors it is made of, and which rows go where.

A checkpoint of Megatron holds global tensors: those of a layer have an axis for the layer in front, those of an
expert one for the expert behind it.  Where some layers have experts and others none, the layer's number is in the
key instead.  The layouts of the bridge only ever rearrange rows, so applied to row numbers they tell where each
row of an HF tensor lies, and a conversion becomes copying runs of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megatron_srpo.bridge.tables import Rule, table_for
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.model_config import ModelConfig

_LAYER, _EXPERT = "layers.{layer}.", "local_experts.{expert}."
_FIRST = "embedding."  # what comes before the layers in a model


@dataclass(frozen=True)
class Run:
    """`count` consecutive rows that begin at `start` in the Megatron parameter."""

    start: int
    count: int


@dataclass(frozen=True)
class Part:
    """An HF tensor: its name, its shape, and the runs of Megatron rows that it consists of, in order."""

    name: str
    shape: tuple[int, ...]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Parameter:
    """One Megatron parameter in the global tensor of a checkpoint.

    keys: its possible keys; the first is the one that is written.
    place, extent: its indices along the axes in front (layer, expert) and their sizes.
    shape: without these axes; rows are its first dimension.
    keeps_float32: whether it has that type whatever the others have.
    """

    keys: tuple[str, ...]
    place: tuple[int, ...]
    extent: tuple[int, ...]
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    keeps_float32: bool = False

    @property
    def global_shape(self) -> tuple[int, ...]:
        """Shape of the key's whole tensor, vocabulary not padded."""
        return (*self.extent, *self.shape)

    @property
    def is_vocabulary(self) -> bool:
        """Whether a checkpoint may hold more rows than the model has."""
        return self.keys[0] in ("embedding.word_embeddings.weight", "output_layer.weight")


def parameters(model: ModelConfig) -> list[Parameter]:
    """Every parameter whose HF tensors belong to it, in the order of the model's layers."""
    rules = [rule for rule in table_for(model) if rule.exported]
    outer = [rule for rule in rules if not rule.of_layer]
    inner = [(rule, _part_shapes(rule, model)) for rule in rules if rule.of_layer]
    found = [_whole(rule, model) for rule in outer if rule.megatron[0].startswith(_FIRST)]
    for layer in range(model.num_layers):
        for rule, parts in inner:
            if layer in rule.layers:
                found += _of_layer(rule, parts, model, layer)
    return found + [_whole(rule, model) for rule in outer if not rule.megatron[0].startswith(_FIRST)]


def extra_states(model: ModelConfig) -> list[str]:
    """Keys of the empty objects that Megatron's linear layers ask for; a strict load fails without them."""
    keys = []
    for parameter in parameters(model):
        module, _, kind = parameter.keys[0].rpartition(".")
        if kind == "weight" and ".linear_" in module:
            # Without an axis in front Megatron counts one of length 1.
            axes = (parameter.place or (0,), parameter.extent or (1,))
            place, extent = (".".join(map(str, numbers)) for numbers in axes)
            keys.append(f"{module}._extra_state/shard_{place}_{extent}")
    return keys


def _whole(rule: Rule, model: ModelConfig) -> Parameter:
    shape = _shape(rule, model)
    return Parameter(_keys(rule, model, 0), (), (), shape, _part_shapes(rule, model))


def _of_layer(rule: Rule, parts: tuple[Part, ...], model: ModelConfig, layer: int) -> Iterator[Parameter]:
    """A rule's parameter in a layer, or one for each expert."""
    keys, shape = _keys(rule, model, layer), _shape(rule, model)
    front = () if _is_mixed(model) else ((layer, model.num_layers),)
    for expert in range(_experts(model)) if rule.of_expert else (None,):
        named = tuple(
            Part(
                part.name.replace("{layer}", str(layer)).replace("{expert}", str(expert)),
                part.shape,
                part.runs,
            )
            for part in parts
        )
        axes = front if expert is None else (*front, (expert, _experts(model)))
        place, extent = tuple(at for at, _ in axes), tuple(size for _, size in axes)
        yield Parameter(keys, place, extent, shape, named, rule.keeps_float32)


def _is_mixed(model: ModelConfig) -> bool:
    """Whether some layers have experts and others have none."""
    return model.moe is not None and model.dense_layers > 0


def _keys(rule: Rule, model: ModelConfig, layer: int) -> tuple[str, ...]:
    """Names of a rule's parameter in checkpoints, the one that Megatron writes first.

    Norms have the name of the linear that Transformer Engine fuses them into; it does not fuse any into experts.
    """
    generic = [name for name in rule.megatron if "weight{" not in name]  # not those of grouped linears
    of_layer = f"layers.{layer}." if _is_mixed(model) else "layers."
    names = [name.replace(_LAYER, of_layer).replace(_EXPERT, "experts.") for name in generic]
    fused = [name for name in names if name.endswith("layer_norm_weight")]
    if fused and (layer < model.dense_layers or ".mlp." not in fused[0]):
        names = [*fused, *(name for name in names if name not in fused)]
    return tuple(names)


def _part_shapes(rule: Rule, model: ModelConfig) -> tuple[Part, ...]:
    """The HF tensors of a rule with their generic names: the layout applied to row numbers."""
    shape = _shape(rule, model)
    numbers = torch.arange(shape[0])
    column = numbers if len(shape) == 1 else numbers[:, None]
    merged = rule.layout.merge([column])
    return tuple(
        Part(name, (len(rows), *shape[1:]), _runs(rows.flatten().tolist()))
        for name, rows in zip(rule.hf, merged, strict=True)
    )


def _runs(rows: list[int]) -> tuple[Run, ...]:
    """Consecutive numbers put together."""
    runs: list[Run] = []
    for row in rows:
        if runs and runs[-1].start + runs[-1].count == row:
            runs[-1] = Run(runs[-1].start, runs[-1].count + 1)
        else:
            runs.append(Run(row, 1))
    return tuple(runs)


def _shape(rule: Rule, model: ModelConfig) -> tuple[int, ...]:
    """What config.json says about the shape of a rule's parameter, whole and unpadded."""
    module, _, kind = rule.megatron[0].rpartition(".")
    name = module.rpartition(".")[2]
    hidden = model.hidden_size
    if name in ("word_embeddings", "output_layer"):
        return (model.vocab_size, hidden)
    if name in ("q_layernorm", "k_layernorm"):
        return (model.head_dim,)
    if name.endswith("layernorm"):
        return (hidden,)
    if name == "linear_qkv":
        rows = model.query_size + 2 * model.key_value_size
        return (rows,) if kind == "bias" else (rows, hidden)
    if name == "linear_proj":
        return (hidden, model.query_size)
    if name == "router":
        return (_experts(model),) if rule.keeps_float32 else (_experts(model), hidden)
    if kind == "gate_weight":
        return (1, hidden)
    if name in ("linear_fc1", "linear_fc2"):
        size = _feed_forward(module, model)
        return (2 * size, hidden) if name == "linear_fc1" else (hidden, size)
    raise SrpoError(f"{model.file}: the shape of {rule.megatron[0]} of {model.architecture} is not known")


def _feed_forward(module: str, model: ModelConfig) -> int:
    """Intermediate size of the dense layers, of an expert or of the shared expert."""
    if model.moe is not None and ".shared_experts." in module:
        return model.moe.shared_expert_intermediate_size or 0
    if model.moe is not None and ".experts." in module:
        return model.moe.intermediate_size
    return model.intermediate_size


def _experts(model: ModelConfig) -> int:
    """How many experts a layer has; a model without them has no rule that asks."""
    return model.moe.experts if model.moe is not None else 0
