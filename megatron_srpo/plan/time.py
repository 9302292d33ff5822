"""How long a training step takes, by a simple model; every number is an estimate.  No torch.

A microbatch on a pipeline stage takes its matrix products, attention and element-wise work at stated shares of the
GPU's peaks (`gpus.py`), plus the collectives of tensor, context and expert parallelism, which overlap with nothing
but context parallelism's with attention.  An update takes the slowest stage's microbatches and the bubble, of
(p - 1) / v more (arXiv 2104.04473); then gradients are summed, weights updated and collected.  Offloaded optimizer
state comes from the host before each update and goes back behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from megatron_srpo.plan import gpus
from megatron_srpo.plan.activations import WIDTH, layer_terms
from megatron_srpo.plan.gpus import Gpu
from megatron_srpo.plan.memory import GRADIENT_BYTES, gathered_bytes, optimizer_bytes
from megatron_srpo.plan.parameters import is_in_8_bits, rank_parameters, stage_layers
from megatron_srpo.plan.workload import Workload
from megatron_srpo.recipe.flops import BACKWARD, model_flops
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.recipe.trainer import TrainerSection

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Pass:
    """Seconds of a microbatch in one direction: at work, and waiting for collectives."""

    compute: float = 0.0
    communication: float = 0.0

    @property
    def total(self) -> float:
        """Both."""
        return self.compute + self.communication

    def __add__(self, other: Pass) -> Pass:
        return Pass(self.compute + other.compute, self.communication + other.communication)


@dataclass(frozen=True)
class Microbatch:
    """Of the slowest pipeline stage; `again`: what the backward pass computes once more."""

    forward: Pass
    backward: Pass
    again: Pass

    @property
    def training(self) -> float:
        """Seconds of forward and backward."""
        return self.forward.total + self.backward.total + self.again.total


@dataclass(frozen=True)
class TrainingTime:
    """Seconds of a step on the trainer's ranks, by what they go to, and what that amounts to.

    log_probs: forward passes before the first update.  gradients: summing them, and collecting weights, as far as
    nothing hides it.  offload: copies of the optimizer's state to the update and back.
    tokens_per_second_and_gpu: prompts count.  mfu: of the peak of bfloat16, also in fp8, and without recomputation
    and passes for log-probs.
    """

    compute: float
    recompute: float
    communication: float
    bubble: float
    log_probs: float
    gradients: float
    optimizer: float
    offload: float
    microbatches: int
    model_flops: float
    tokens_per_second_and_gpu: float
    mfu: float

    @property
    def total(self) -> float:
        """All parts."""
        work = self.compute + self.recompute + self.communication + self.bubble
        return work + self.log_probs + self.gradients + self.optimizer + self.offload


@dataclass(frozen=True)
class _Tokens:
    """Of one microbatch of a data-parallel rank: all of them, pairs of query and key, and targets."""

    tokens: float
    pairs: float
    targets: float


def training_time(recipe: Recipe, model: ModelConfig, gpu: Gpu, workload: Workload) -> TrainingTime:
    """Of one step of the workload."""
    trainer = recipe.trainer
    count, per_microbatch = _microbatches(recipe, workload)
    stages = [
        _microbatch(model, trainer, gpu, per_microbatch, stage) for stage in range(trainer.pipeline_parallel)
    ]
    slowest = max(stages, key=lambda stage: stage.training)
    updates = trainer.updates_per_step
    bubble = (trainer.pipeline_parallel - 1) / trainer.virtual_pipeline_parallel
    # Old log-probs of all updates but the first, and the reference's of all.
    passes = updates - 1 + (updates if recipe.algorithm.kl_coefficient else 0)
    gradients, optimizer, offload = _update(recipe, model, gpu, slowest)
    both = slowest.forward + slowest.backward
    flops = workload.forward_flops(model_flops(model)) * (1 + BACKWARD)
    time = TrainingTime(
        compute=updates * count * both.compute,
        recompute=updates * count * slowest.again.total,
        communication=updates * count * both.communication,
        bubble=updates * bubble * slowest.training,
        log_probs=passes * (count + bubble) * slowest.forward.total,
        gradients=updates * gradients,
        optimizer=updates * optimizer,
        offload=updates * offload,
        microbatches=count,
        model_flops=flops,
        tokens_per_second_and_gpu=0.0,
        mfu=0.0,
    )
    gpu_seconds = time.total * trainer.ranks
    return replace(
        time,
        tokens_per_second_and_gpu=workload.tokens / gpu_seconds,
        mfu=flops / (gpu_seconds * gpu.bf16_tflops * TERA),
    )


def _microbatches(recipe: Recipe, workload: Workload) -> tuple[int, _Tokens]:
    """How many an update has on a data-parallel rank, and what is in one."""
    trainer = recipe.trainer
    shares = trainer.updates_per_step * recipe.data_parallel
    fill = trainer.max_tokens_per_microbatch * gpus.PACKING_FILL
    count = max(1, math.ceil(workload.tokens / shares / fill))
    if trainer.virtual_pipeline_parallel > 1:
        count = math.ceil(count / trainer.pipeline_parallel) * trainer.pipeline_parallel
    parts = shares * count
    return count, _Tokens(workload.tokens / parts, workload.pairs / parts, workload.response_tokens / parts)


def _microbatch(model: ModelConfig, trainer: TrainerSection, gpu: Gpu, micro: _Tokens, stage: int) -> Microbatch:
    """One microbatch on one stage: its layers, the output projection on the last, and sending between stages."""
    forward = backward = again = Pass()
    for layers in stage_layers(model, trainer, stage):
        limit = len(layers) if trainer.recompute.layers is None else trainer.recompute.layers
        for place, layer in enumerate(layers):
            of_layer = _layer(model.like(layer), trainer, gpu, micro, is_in_8_bits(model, trainer, layer))
            forward, backward = forward + of_layer.forward, backward + of_layer.backward
            if trainer.recompute.granularity != "full":
                again += of_layer.again
            elif place < limit:
                again += of_layer.forward
    if stage == trainer.pipeline_parallel - 1:
        head = _head(model, trainer, gpu, micro)
        forward, backward = forward + Pass(head), backward + Pass((BACKWARD + 1) * head)  # its logits once more
    if trainer.pipeline_parallel > 1:
        sent = _send(model, trainer, gpu, micro)
        forward, backward = forward + Pass(0.0, sent), backward + Pass(0.0, sent)
    return Microbatch(forward, backward, again)


def _layer(model: ModelConfig, trainer: TrainerSection, gpu: Gpu, micro: _Tokens, in_8_bits: bool) -> Microbatch:
    """A layer where all are of one kind.  Element-wise work is told by what is kept: a third of it is forward."""
    flops, ranks = model_flops(model), trainer.tensor_parallel * trainer.context_parallel
    per_token = flops.per_token / model.num_layers
    of_experts = 0.0
    if model.moe is not None:
        of_experts = 6.0 * model.moe.experts_per_token * model.hidden_size * model.moe.intermediate_size
    dense = (per_token - of_experts) * micro.tokens / ranks / product_speed(gpu, in_8_bits)
    imbalance = gpus.EXPERT_IMBALANCE if trainer.expert_parallel > 1 else 1.0
    experts_speed = gpu.bf16_tflops * TERA * gpus.GEMM_EXPERTS_SHARE
    experts = imbalance * of_experts * micro.tokens / ranks / experts_speed
    pairs = flops.per_pair / model.num_layers * micro.pairs / ranks
    attention = pairs / (gpu.bf16_tflops * TERA * gpus.ATTENTION_SHARE)
    kept = sum(layer_terms(model, trainer, in_8_bits).values()) * micro.tokens / trainer.context_parallel
    moved = gpus.ELEMENTWISE_PASSES / (1 + BACKWARD) * kept / memory_speed(gpu)
    tensor = _tensor(model, trainer, gpu, micro)
    between_experts = _between_experts(model, trainer, gpu, micro)
    around = _context(model, trainer, gpu, micro)
    waiting = 2 * tensor * _blocks(model)
    forward = Pass(dense + experts + attention + moved, waiting + between_experts + max(0.0, around - attention))
    # Under sequence parallelism the backward pass gathers the inputs of both products once more.
    more = 3 if trainer.sequence_parallel else 2
    backward = Pass(
        BACKWARD * (dense + experts + attention + moved),
        more * tensor * _blocks(model) + between_experts + BACKWARD * max(0.0, around - attention),
    )
    again = Pass()
    if trainer.recompute.granularity == "selective":
        modules = trainer.recompute.modules
        feed_forward = 6.0 * model.hidden_size * model.intermediate_size / per_token
        if "core_attn" in modules:
            again += Pass(attention)
        if "mlp" in modules and model.moe is None:
            again += Pass(dense * feed_forward, 2 * tensor)
        if "moe" in modules:
            again += Pass(experts, between_experts)
    return Microbatch(forward, backward, again)


def product_speed(gpu: Gpu, in_8_bits: bool) -> float:
    """Operations a second of matrix products."""
    if in_8_bits and gpu.fp8_tflops is not None:
        return gpu.fp8_tflops * TERA * gpus.GEMM_FP8_SHARE
    return gpu.bf16_tflops * TERA * gpus.GEMM_SHARE


def memory_speed(gpu: Gpu) -> float:
    """Bytes a second of the GPU's memory."""
    return gpu.memory_gbps * GIGA * gpus.MEMORY_SHARE


def link_speed(gpu: Gpu, span: int) -> float:
    """Bytes a second, in one direction, among ranks that lie within `span` consecutive ones."""
    return (gpu.nvlink_gbps if span <= gpus.GPUS_PER_NODE else gpu.network_gbps) * GIGA * gpus.LINK_SHARE


def _blocks(model: ModelConfig) -> int:
    """Parts of a layer that tensor parallelism splits: attention, and a feed-forward layer without experts."""
    return 2 if model.moe is None else 1


def _tensor(model: ModelConfig, trainer: TrainerSection, gpu: Gpu, micro: _Tokens) -> float:
    """Seconds to gather, or to sum and scatter, the hidden rows over the tensor-parallel ranks once."""
    size = trainer.tensor_parallel
    rows = micro.tokens / trainer.context_parallel * model.hidden_size * WIDTH[trainer.dtype]
    return rows * (size - 1) / size / link_speed(gpu, size)


def _context(model: ModelConfig, trainer: TrainerSection, gpu: Gpu, micro: _Tokens) -> float:
    """Seconds in which a layer's keys and values go around the context-parallel ranks once."""
    size = trainer.context_parallel
    both = 2 * micro.tokens * model.key_value_size * WIDTH[trainer.dtype] / trainer.tensor_parallel
    return both * (size - 1) / size / link_speed(gpu, trainer.tensor_parallel * size)


def _between_experts(model: ModelConfig, trainer: TrainerSection, gpu: Gpu, micro: _Tokens) -> float:
    """Seconds in which a layer's tokens go to their experts and back."""
    size = trainer.expert_parallel
    if model.moe is None or size == 1:
        return 0.0
    tokens = micro.tokens / trainer.tensor_parallel / trainer.context_parallel * model.moe.experts_per_token
    rows = tokens * gpus.EXPERT_IMBALANCE * model.hidden_size * WIDTH[trainer.dtype]
    return 2 * rows * (size - 1) / size / link_speed(gpu, size)


def _send(model: ModelConfig, trainer: TrainerSection, gpu: Gpu, micro: _Tokens) -> float:
    """Seconds in which a stage's chunks hand a microbatch on, in one direction."""
    sequence = trainer.tensor_parallel if trainer.sequence_parallel else 1
    tokens = micro.tokens / trainer.context_parallel / sequence
    rows = tokens * model.hidden_size * WIDTH[trainer.dtype] * trainer.virtual_pipeline_parallel
    return rows / link_speed(gpu, trainer.ranks)


def _head(model: ModelConfig, trainer: TrainerSection, gpu: Gpu, micro: _Tokens) -> float:
    """Seconds of the output projection, forward."""
    ranks = trainer.tensor_parallel * trainer.context_parallel
    products = model_flops(model).per_target * micro.targets / ranks / product_speed(gpu, in_8_bits=False)
    logits = 4.0 * micro.targets * model.vocab_size / ranks
    return products + gpus.LOGITS_PASSES / (2 + BACKWARD) * logits / memory_speed(gpu)


def _update(recipe: Recipe, model: ModelConfig, gpu: Gpu, slowest: Microbatch) -> tuple[float, float, float]:
    """Seconds of an update's sums over data-parallel ranks that nothing hides, of the optimizer, of its copies."""
    trainer = recipe.trainer
    copies = recipe.data_parallel * trainer.context_parallel
    of_experts = trainer.tensor_parallel * copies // trainer.expert_parallel
    speed = link_speed(gpu, trainer.tensor_parallel * copies)
    longest = (0.0, 0.0, 0.0)
    for stage in range(trainer.pipeline_parallel):
        parameters = rank_parameters(model, trainer, stage)
        moved = parameters.dense * (copies - 1) / copies + parameters.experts * (of_experts - 1) / of_experts
        width = gathered_bytes(trainer, parameters) / parameters.total
        scatter, gather = moved * GRADIENT_BYTES / speed, moved * width / speed
        if trainer.overlap_gradient_reduce:
            scatter = max(0.0, scatter - slowest.backward.total)
        if trainer.overlap_parameter_gather:
            gather = max(0.0, gather - slowest.forward.total)
        share = gpus.OPTIMIZER_BYTES_MOVED * (parameters.dense / copies + parameters.experts / of_experts)
        moved = 2 * optimizer_bytes(recipe, parameters) if trainer.optimizer.offload else 0
        transfers = moved / (gpu.host_gbps * GIGA * gpus.HOST_SHARE)
        longest = max(longest, (scatter + gather, share / memory_speed(gpu), transfers))
    return longest
