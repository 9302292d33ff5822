"""The recipe's trainer: Megatron-Core's ranks, their layout, memory, number formats and optimizer.  No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from megatron_srpo.recipe.section import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)


class OptimizerSection(Section):
    """AdamW and its learning-rate schedule, counted in optimizer updates."""

    learning_rate: PositiveFloat = 1e-6
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    clip_grad: NonNegativeFloat = Field(1.0, description="global gradient norm; 0: no clipping")
    warmup_updates: NonNegativeInt = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    decay_updates: PositiveInt | None = Field(None, description="length of linear and cosine schedules")
    min_learning_rate: NonNegativeFloat = 0.0
    offload: bool = Field(
        False, description="keep master weights and moments in the host's memory but for the updates"
    )

    @model_validator(mode="after")
    def _decay_has_length(self) -> OptimizerSection:
        if self.schedule != "constant" and self.decay_updates is None:
            raise ValueError(f"schedule {self.schedule} needs decay_updates")
        if self.decay_updates is not None and self.decay_updates <= self.warmup_updates:
            raise ValueError("decay_updates must be larger than warmup_updates")
        return self


class RecomputeSection(Section):
    """Activations that the backward pass computes again instead of keeping them."""

    granularity: Literal["none", "selective", "full"] = Field(
        "none", description="selective: parts of every layer; full: whole layers, of which the input alone is kept"
    )
    modules: tuple[Literal["core_attn", "mlp", "layernorm", "moe", "moe_act"], ...] = Field(
        ("mlp",), description="the parts for selective"
    )
    layers: PositiveInt | None = Field(
        None, description="for full: layers of every chunk that are recomputed, the first ones; none: all"
    )

    @model_validator(mode="after")
    def _keys_belong_together(self) -> RecomputeSection:
        if self.granularity == "selective" and not self.modules:
            raise ValueError("recompute selective needs modules, the parts of a layer to compute again")
        if self.layers is not None and self.granularity != "full":
            raise ValueError(f"recompute.layers is for granularity full, not {self.granularity}")
        return self


class Fp8Section(Section):
    """Matrix products in 8 bits through Transformer Engine; needs GPUs from Hopper on (arXiv 2209.05433)."""

    recipe: Literal["delayed", "tensorwise", "blockwise"] = Field(
        "blockwise",
        description="scale of a tensor from its past (delayed) or present values, or of each block of it",
    )
    format: Literal["e4m3", "hybrid"] = Field("e4m3", description="hybrid: gradients in e5m2")
    first_layers_bf16: NonNegativeInt = Field(0, description="layers at the beginning that stay in bfloat16")
    last_layers_bf16: NonNegativeInt = Field(0, description="layers at the end that stay in bfloat16")
    amax_history: PositiveInt = Field(1024, description="microbatches whose largest values delayed scaling knows")
    parameters: bool = Field(
        False,
        description="keep the layers' weights themselves in 8 bits, and gather them so; masters stay float32",
    )

    @model_validator(mode="after")
    def _delayed_has_no_exceptions(self) -> Fp8Section:
        if self.recipe == "delayed" and (self.first_layers_bf16 or self.last_layers_bf16):
            raise ValueError(
                "fp8 delayed cannot keep first or last layers in bfloat16, Megatron-Core has no such mixture; use "
                "tensorwise or blockwise, or set first_layers_bf16 and last_layers_bf16 to 0"
            )
        return self

    @model_validator(mode="after")
    def _delayed_has_no_parameters(self) -> Fp8Section:
        if self.recipe == "delayed" and self.parameters:
            raise ValueError(
                "fp8 delayed cannot keep parameters in 8 bits, a run that goes on would not have the history that "
                "their scales depend on; use tensorwise or blockwise, or set parameters to false"
            )
        return self


class ExpertsSection(Section):
    """Mixtures of experts: how tokens are spread over them."""

    balancing: Literal["none", "aux_loss", "bias"] = Field(
        "none",
        description="aux_loss: a loss against uneven use of experts is added (arXiv 2101.03961); bias: the "
        "routers' bias on the choice follows the use, in models that have one (arXiv 2408.15664)",
    )
    aux_loss_coefficient: PositiveFloat = Field(1e-3, description="weight of that loss")
    bias_update_rate: PositiveFloat = Field(1e-3, description="what an update moves that bias by, up or down")
    replay_routing: bool = Field(
        False, description="send tokens to the experts that the engine chose for them (arXiv 2510.11370)"
    )
    keep_routing: bool = Field(
        False,
        description="keep the choices of steps before the oldest checkpoint, which only training from the "
        "beginning would need: layers x experts per token bytes a token",
    )

    @property
    def can_begin_again(self) -> bool:
        """Whether a run with checkpoints still has all that training on its first steps needs."""
        return self.keep_routing or not self.replay_routing


class TrainerSection(Section):
    """The Megatron-Core ranks."""

    ranks: PositiveInt = 1
    tensor_parallel: PositiveInt = 1
    pipeline_parallel: PositiveInt = 1
    virtual_pipeline_parallel: PositiveInt = Field(1, description="chunks of layers that a pipeline stage holds")
    pipeline_layers: tuple[PositiveInt, ...] | None = Field(
        None, description="layers of every chunk, in model order (pipeline x virtual); none: equal ones"
    )
    expert_parallel: PositiveInt = Field(1, description="shares of the experts, over a stage's ranks")
    data_parallel: PositiveInt | None = Field(None, description="none: ranks / (tensor x pipeline x context)")
    sequence_parallel: bool = False
    context_parallel: PositiveInt = Field(1, description="ranks that share each sequence's tokens")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    threads_per_rank: PositiveInt = Field(1, description="CPU threads of torch in each rank")
    max_tokens_per_microbatch: PositiveInt = 16384
    logits_megabytes: PositiveFloat = Field(
        256.0,
        description="a block of float32 logits; a rank holds about three such, whatever the vocabulary",
    )
    updates_per_step: PositiveInt = 1
    overlap_gradient_reduce: bool = Field(False, description="sum gradients over ranks during the backward pass")
    overlap_parameter_gather: bool = Field(
        False, description="collect updated parameters during the next forward pass"
    )
    bucket_parameters: PositiveInt | None = Field(
        None, description="parameters that travel together when collectives overlap; none: Megatron's choice"
    )
    recompute: RecomputeSection = RecomputeSection()
    fp8: Fp8Section | None = Field(None, description="none: matrix products in `dtype`")
    experts: ExpertsSection = ExpertsSection()
    optimizer: OptimizerSection = OptimizerSection()
    timeout_seconds: PositiveFloat = Field(1800.0, description="limit of one collective between ranks")

    @property
    def model_parallel(self) -> int:
        """Ranks that hold one copy of the model and work on the same samples."""
        return self.tensor_parallel * self.pipeline_parallel * self.context_parallel

    @model_validator(mode="after")
    def _layout_fits(self) -> TrainerSection:
        size = self.model_parallel
        shape = f"tensor_parallel {self.tensor_parallel} x pipeline_parallel {self.pipeline_parallel}"
        if self.context_parallel > 1:
            shape += f" x context_parallel {self.context_parallel}"
        if self.data_parallel is not None and size * self.data_parallel != self.ranks:
            raise ValueError(
                f"{shape} x data_parallel {self.data_parallel} = {size * self.data_parallel}, but trainer.ranks "
                f"is {self.ranks}; make the two equal, or leave data_parallel out"
            )
        if self.ranks % size:
            below = self.ranks // size * size
            nearest = f"{below} or {below + size}" if below else f"{size}"
            raise ValueError(f"ranks {self.ranks} is not a multiple of {shape} = {size}; set ranks to {nearest}")
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise ValueError(
                "sequence_parallel needs tensor_parallel of 2 or more; set it to false or raise tensor_parallel"
            )
        stage_ranks = self.ranks // self.pipeline_parallel
        if stage_ranks % self.expert_parallel:
            raise ValueError(
                f"expert_parallel {self.expert_parallel} does not divide the {stage_ranks} ranks of a pipeline "
                "stage (tensor x context x data); lower it to a divisor of them"
            )
        return self

    @model_validator(mode="after")
    def _pipeline_fits(self) -> TrainerSection:
        stages, virtual, layers = self.pipeline_parallel, self.virtual_pipeline_parallel, self.pipeline_layers
        if virtual > 1 and stages == 1:
            raise ValueError(
                "virtual_pipeline_parallel needs pipeline_parallel of 2 or more; set it to 1 or raise "
                "pipeline_parallel"
            )
        if layers is not None and len(layers) != stages * virtual:
            raise ValueError(
                f"pipeline_layers has {len(layers)} entries, but pipeline_parallel {stages} x "
                f"virtual_pipeline_parallel {virtual} = {stages * virtual} chunks; give each "
                "chunk its number of layers"
            )
        return self

    @model_validator(mode="after")
    def _formats_fit(self) -> TrainerSection:
        if self.fp8 is not None and self.dtype != "bfloat16":
            raise ValueError(f"fp8 computes beside bfloat16, but dtype is {self.dtype}; set dtype to bfloat16")
        fragile = {"moe_act", "layernorm"} & set(self.recompute.modules)
        if fragile and self.recompute.granularity == "selective" and self.fp8 and self.fp8.recipe == "delayed":
            raise ValueError(
                f"fp8 delayed cannot recompute {' and '.join(sorted(fragile))}; use tensorwise or blockwise, or "
                "leave them out of recompute.modules"
            )
        if self.fp8 is not None and self.device == "cpu":
            raise ValueError("fp8 needs GPUs, but device is cpu; set device to cuda or leave fp8 out")
        if self.overlap_parameter_gather and not self.overlap_gradient_reduce:
            raise ValueError("overlap_parameter_gather needs overlap_gradient_reduce; set it to true too")
        return self
