"""Weights between Hugging Face tensors and the Megatron model of this rank, one parameter at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel

from megatron_srpo.bridge.layouts import Whole
from megatron_srpo.bridge.quantized import fill, plain
from megatron_srpo.bridge.reader import CheckpointReader
from megatron_srpo.bridge.tables import Rule, expand, hf_names, table_for
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.model_config import ModelConfig

_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.")
# An expert's number: of SequentialMLP's modules, or of Transformer Engine's grouped linear's weights.
_EXPERT = re.compile(r"(?<=\.local_experts\.)\d+(?=\.)|(?<=\.experts\.linear_fc[12]\.weight)\d+$")
# Old exports carry tensors that are recomputed from the config.
_DERIVED = re.compile(r"\.rotary_emb\.inv_freq$")


@dataclass(frozen=True)
class Binding:
    """A parameter of this rank, or a router's bias, with the rule that makes it and the HF names it stands for."""

    name: str
    parameter: torch.Tensor
    rule: Rule
    hf: tuple[str, ...]

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The type in which its HF tensors leave this rank where others do so in `dtype`."""
        return torch.float32 if self.rule.keeps_float32 else dtype


def bind(chunks: Sequence[GPTModel], model: ModelConfig) -> list[Binding]:
    """Match every parameter of this rank's chunks with a rule, layers and experts by their global numbers.

    Raises SrpoError for a parameter without a rule.
    """
    rules = {name: rule for rule in table_for(model) for name in rule.megatron}
    first_expert = 0
    if model.moe is not None:
        size = parallel_state.get_expert_model_parallel_world_size()
        first_expert = parallel_state.get_expert_model_parallel_rank() * (model.moe.experts // size)
    bindings = []
    for chunk in chunks:
        for name, parameter in (*chunk.named_parameters(), *_saved_buffers(chunk)):
            generic = _EXPERT.sub("{expert}", _LAYER.sub("decoder.layers.{layer}.", name))
            if generic not in rules:
                raise SrpoError(f"no rule for Megatron's parameter {name} in the table of {model.architecture}")
            match = _EXPERT.search(name)
            expert = first_expert + int(match.group()) if match else 0
            rule = rules[generic]
            bindings.append(Binding(name, parameter, rule, expand(rule, _global_layer(chunk, name), expert)))
    return bindings


def _saved_buffers(chunk: GPTModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The routers' biases: no gradient, but as much of the model as its weights."""
    return ((name, buffer) for name, buffer in chunk.named_buffers() if name.endswith(".router.expert_bias"))


def _global_layer(chunk: GPTModel, name: str) -> int:
    match = _LAYER.match(name)
    return int(chunk.decoder.layers[int(match.group(1))].layer_number) - 1 if match else 0


@torch.no_grad()
def load_weights(chunks: Sequence[GPTModel], model: ModelConfig) -> None:
    """Fill this rank's parameters from the model folder, converting to their dtype.

    Raises SrpoError when a tensor is missing, has another shape, or the folder holds weights that no rule
    uses (they would be lost on export).
    """
    reader = CheckpointReader(model.folder)
    _refuse_unused(reader, model)
    rank = parallel_state.get_tensor_model_parallel_rank()
    size = parallel_state.get_tensor_model_parallel_world_size()
    for binding in bind(chunks, model):
        sources = [reader.slice(name) for name in binding.hf]
        shard = binding.rule.layout.shard(sources, *((0, 1) if binding.rule.of_expert else (rank, size)))
        if shard.shape != binding.parameter.shape:
            shapes = ", ".join(
                f"{name} {list(s.get_shape())}" for name, s in zip(binding.hf, sources, strict=True)
            )
            raise SrpoError(
                f"{model.folder}: {shapes} gives a shard of shape {list(shard.shape)}, but config.json asks for "
                f"{list(binding.parameter.shape)} ({binding.name}); config and weights belong to different models"
            )
        fill(binding.parameter, shard)


def _refuse_unused(reader: CheckpointReader, model: ModelConfig) -> None:
    used = hf_names(model)
    if model.tie_word_embeddings:
        used.add("lm_head.weight")
    unused = sorted(name for name in reader.names - used if not (_DERIVED.search(name) or model.is_extra(name)))
    if unused:
        raise SrpoError(
            f"{model.folder}: {len(unused)} tensors such as {unused[0]} are not part of {model.architecture} as "
            "config.json describes it; correct the config or the weights"
        )


def merged_shapes(binding: Binding, tensor_parallel: int) -> list[list[int]]:
    """Shapes of the HF tensors of a binding, without touching data."""
    size = 1 if binding.rule.of_expert else tensor_parallel
    shards = [torch.empty(binding.parameter.shape, device="meta")] * size
    return [list(tensor.shape) for tensor in binding.rule.layout.merge(shards)]


@torch.no_grad()
def gather(binding: Binding, dtype: torch.dtype) -> list[torch.Tensor] | None:
    """The binding's HF tensors in `Binding.dtype` on tensor-parallel rank 0, none on the others.

    Every rank of the tensor-parallel group must call it; the conversion happens before the transfer.  Experts are
    whole on the ranks that hold them: each gets its own, and nobody else needs to call it.
    """
    shard = plain(binding.parameter).to(binding.dtype(dtype))
    if binding.rule.of_expert:
        return binding.rule.layout.merge([shard])
    group = parallel_state.get_tensor_model_parallel_group()
    rank, size = group.rank(), group.size()
    if size == 1 or isinstance(binding.rule.layout, Whole):
        return binding.rule.layout.merge([shard] * size) if rank == 0 else None
    shards = [torch.empty_like(shard) for _ in range(size)] if rank == 0 else None
    dist.gather(shard.contiguous(), shards, dst=dist.get_global_rank(group, 0), group=group)
    return binding.rule.layout.merge(shards) if shards is not None else None


def shared_and_experts(bindings: Sequence[Binding]) -> tuple[list[Binding], list[Binding]]:
    """The bindings whose HF tensors belong to this rank: those that tensor parallelism splits, and experts'."""
    present = [binding for binding in bindings if binding.rule.exported]
    shared = [binding for binding in present if not binding.rule.of_expert]
    return shared, [binding for binding in present if binding.rule.of_expert]
