"""The typed recipe: every number of a run, checked before anything starts.

Unknown keys are refused and the objects are frozen, so a resolved recipe is a complete and unchanging
description of a run.  No torch here: `srpo plan` must answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.curriculum import CurriculumSection, StageSection
from megatron_srpo.recipe.data import DataSection, DataSource
from megatron_srpo.recipe.grading import GradingSection
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.recipe.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section
from megatron_srpo.recipe.trainer import TrainerSection


class ModelSection(Section):
    """The policy to train."""

    path: Path = Field(description="Hugging Face folder: config.json, *.safetensors, tokenizer.json")


class RolloutSection(Section):
    """How many responses are drawn for a step, and how."""

    prompts_per_step: PositiveInt = 256
    samples_per_prompt: Annotated[int, Field(ge=2)] = 32
    max_prompt_tokens: PositiveInt = 1024
    max_response_tokens: PositiveInt = 10240
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: int = Field(-1, description="-1: all tokens")
    max_concurrent_requests: PositiveInt = 512
    request_timeout_seconds: PositiveFloat = 1800.0
    request_retries: NonNegativeInt = 3


class EngineSection(Section):
    """The inference servers."""

    backend: Literal["sglang", "deterministic"] = Field(
        "sglang",
        description="deterministic: slow, one request at a time, the same tokens in every run; for tests",
    )
    count: PositiveInt = 1
    tensor_parallel: PositiveInt = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    python: Path = Field(Path(".venv-engine/bin/python"), description="interpreter that has sglang installed")
    host: str = Field("127.0.0.1", description="address the servers bind to")
    port: NonNegativeInt = Field(0, description="first port, engines take port, port+1, ...; 0: free ports")
    max_total_tokens: PositiveInt | None = Field(None, description="key-value cache size; none: SGLang decides")
    mem_fraction_static: Annotated[float, Field(gt=0, lt=1)] = 0.8
    start_timeout_seconds: PositiveFloat = 600.0
    extra_args: tuple[str, ...] = Field((), description="more arguments for sglang.launch_server")


class AlgorithmSection(Section):
    """GRPO with a token-level clipped loss (arXiv 2402.03300, 2503.14476, 2504.14286), and variants of it."""

    advantage: Literal["group_normalized", "mean_centered", "leave_one_out"] = Field(
        "group_normalized",
        description="a reward less its group's mean over the deviation; less the mean; less the others' mean",
    )
    advantage_epsilon: PositiveFloat = Field(1e-6, description="added to the deviation by group_normalized")
    pass_rate_exponent: NonNegativeFloat = Field(
        0.0, description="k: a group's advantages times (1 - share of correct samples)^k; 0: off"
    )
    overlong: Literal["zero_advantage", "soft_penalty", "none"] = Field(
        "zero_advantage", description="what responses at the length limit get; soft_penalty: part of the reward"
    )
    overlong_buffer: PositiveInt | None = Field(
        None, description="tokens before max_response_tokens over which soft_penalty grows from 0 to -1"
    )
    loss_over: Literal["tokens", "samples"] = Field(
        "tokens", description="mean over the update's response tokens, or over its samples of each one's mean"
    )
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.28
    kl_coefficient: NonNegativeFloat = Field(
        0.0, description="weight of the KL with the recipe's initial model; 0: no reference model is built"
    )
    importance_cap: PositiveFloat | None = Field(
        None, description="truncated importance sampling against the engine's log-probs; none: off"
    )
    mismatch_limit: PositiveFloat = Field(
        0.05, description="step 0 stops when mean |trainer - engine| log-prob is above it"
    )

    @model_validator(mode="after")
    def _soft_penalty_has_buffer(self) -> AlgorithmSection:
        if self.overlong == "soft_penalty" and self.overlong_buffer is None:
            raise ValueError("overlong soft_penalty needs overlong_buffer, the tokens over which it grows")
        return self


class SyncSection(Section):
    """How weights travel from the trainer to the engines."""

    path: Literal["distributed", "disk"] = "distributed"
    bucket_megabytes: PositiveFloat = 512.0
    timeout_seconds: PositiveFloat = 600.0


class CheckpointSection(Section):
    """Training checkpoints in the run directory."""

    every: PositiveInt = Field(20, description="steps between checkpoints; the last step is always saved")
    keep: PositiveInt = Field(2, description="the newest ones stay")
    keep_every: PositiveInt | None = Field(None, description="and those of every so many steps, for ever")
    fall_back: bool = Field(
        False, description="whether a start may pass over a broken newest checkpoint for the one before it"
    )
    timeout_seconds: PositiveFloat = Field(3600, description="a save that is not whole after so long ends the run")


class EvaluationSection(Section):
    """Held-out accuracy, sampled with the rollout's temperature, before the first step and after the last."""

    every: PositiveInt | None = Field(
        None, description="steps between measurements on the way; none: only the two"
    )
    samples_per_prompt: PositiveInt = 4
    max_prompts: PositiveInt | None = None


class ProfileSection(Section):
    """Steps of which every trainer rank writes a trace, for chrome://tracing or Perfetto."""

    steps: tuple[NonNegativeInt, NonNegativeInt] = Field(description="the first and the last of them, from 0")

    @property
    def first(self) -> int:
        """The first step that is traced."""
        return self.steps[0]

    @property
    def last(self) -> int:
        """The last step that is traced."""
        return self.steps[1]


class Recipe(Section):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: NonNegativeInt = 0
    steps: PositiveInt
    budget_tokens: PositiveInt | None = Field(
        None, description="the run also ends with the step that reaches this many response tokens"
    )
    run_dir: Path | None = Field(None, description="none: runs/<name>")
    resume: Literal["auto", "never", "must"] = "auto"
    model: ModelSection
    data: DataSection
    curriculum: CurriculumSection = CurriculumSection()
    rollout: RolloutSection = RolloutSection()
    engine: EngineSection = EngineSection()
    trainer: TrainerSection = TrainerSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    reward: RewardSection = RewardSection()
    sync: SyncSection = SyncSection()
    checkpoint: CheckpointSection = CheckpointSection()
    evaluation: EvaluationSection = EvaluationSection()
    grading: GradingSection = GradingSection()
    profile: ProfileSection | None = Field(None, description="none: no traces")

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.run_dir if self.run_dir is not None else Path("runs") / self.name

    @property
    def data_parallel(self) -> int:
        """Data-parallel size, derived where the recipe leaves it out."""
        return self.trainer.data_parallel or self.trainer.ranks // self.trainer.model_parallel

    def mixture(self, stage: StageSection) -> dict[str, float]:
        """The weights of a stage's sources, sorted by name: the order in which a file names them means nothing."""
        return dict(sorted((stage.mixture or dict.fromkeys(self.data.train, 1.0)).items()))

    def at_stage(self, name: str) -> Recipe:
        """The recipe as it holds in a stage; raises SrpoError when there is none of that name."""
        stage = next((stage for stage in self.curriculum.stages if stage.name == name), None)
        if stage is None:
            names = ", ".join(stage.name for stage in self.curriculum.stages)
            raise SrpoError(f"stage {name}: the recipe has only the stages {names}; use the run's own recipe")
        values = stage.overrides.model_dump(exclude_none=True)
        if not values:
            return self
        trainer = self.trainer
        if "learning_rate" in values:
            optimizer = trainer.optimizer.model_copy(update={"learning_rate": values.pop("learning_rate")})
            trainer = trainer.model_copy(update={"optimizer": optimizer})
        return self.model_copy(update={"rollout": self.rollout.model_copy(update=values), "trainer": trainer})

    @property
    def train_sources(self) -> dict[str, DataSource]:
        """The sources that any stage draws from."""
        used = {source for stage in self.curriculum.stages for source in self.mixture(stage)}
        return {name: source for name, source in self.data.train.items() if name in used}

    @property
    def samples_per_step(self) -> int:
        """Samples in one step."""
        return self.rollout.prompts_per_step * self.rollout.samples_per_prompt

    @model_validator(mode="after")
    def _delayed_scaling_has_one_pass(self) -> Recipe:
        fp8 = self.trainer.fp8
        other_passes = {
            "trainer.updates_per_step above 1": self.trainer.updates_per_step > 1,
            "algorithm.kl_coefficient": self.algorithm.kl_coefficient > 0,
        }
        for key, wanted in other_passes.items():
            if fp8 is not None and fp8.recipe == "delayed" and wanted:
                raise ValueError(
                    f"trainer: fp8 delayed takes scales from the training passes before, which {key} has passes "
                    "beside; use tensorwise or blockwise"
                )
        return self

    @model_validator(mode="after")
    def _profiled_steps_exist(self) -> Recipe:
        if self.profile is not None and not self.profile.first <= self.profile.last < self.steps:
            raise ValueError(
                f"profile.steps {list(self.profile.steps)}: expected the first and the last of the steps "
                f"0 to {self.steps - 1}"
            )
        return self

    @model_validator(mode="after")
    def _updates_divide_every_stage(self) -> Recipe:
        updates = self.trainer.updates_per_step
        for stage in self.curriculum.stages:
            prompts = self.at_stage(stage.name).rollout.prompts_per_step
            if prompts % updates:
                where = f" in stage {stage.name}" if stage.overrides.prompts_per_step else ""
                raise ValueError(
                    f"trainer: updates_per_step {updates} does not divide rollout.prompts_per_step {prompts}"
                    f"{where}; an update takes whole groups"
                )
        return self

    @model_validator(mode="after")
    def _mixtures_name_sources(self) -> Recipe:
        for stage in self.curriculum.stages:
            unknown = [name for name in stage.mixture if name not in self.data.train]
            if unknown:
                raise ValueError(
                    f"curriculum: stage {stage.name} draws from {unknown[0]}, which is none of data.train's "
                    f"sources {', '.join(self.data.train)}"
                )
        return self
