"""The recipe's curriculum: stages, and how each epoch's prompts are chosen from what is known of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from megatron_srpo.recipe.section import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)


class PlateauSection(Section):
    """A stage's end: the metric's mean over `window` steps has stopped to rise.

    The stage is cut into windows one after another; it ends when `patience` windows in a row have not brought
    the metric `minimum_gain` above the best window before them.  The metric is that of the prompts drawn: where
    resampling makes these harder, it rises less than the policy's ability; take a window of several epochs.
    """

    metric: Literal["reward", "accuracy"] = "reward"
    window: PositiveInt = 20
    minimum_gain: NonNegativeFloat = 0.01
    patience: PositiveInt = 2


class StageEndSection(Section):
    """When a stage ends: at whichever of these comes first."""

    steps: PositiveInt | None = Field(None, description="steps in this stage")
    epochs: PositiveInt | None = Field(None, description="epochs of each of its sources that end in it")
    plateau: PlateauSection | None = None

    @property
    def is_open(self) -> bool:
        """Whether nothing ends the stage but the end of the run."""
        return self.steps is None and self.epochs is None and self.plateau is None


class StageOverrides(Section):
    """What differs in a stage from the rest of the recipe; none: as there."""

    prompts_per_step: PositiveInt | None = None
    samples_per_prompt: Annotated[int, Field(ge=2)] | None = None
    max_response_tokens: PositiveInt | None = None
    temperature: PositiveFloat | None = None
    learning_rate: PositiveFloat | None = None


class StageSection(Section):
    """One stage: what it draws from, and how long."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    mixture: dict[str, PositiveFloat] = Field(
        {}, description="share of the prompts by source, in any unit; empty: all of data.train alike"
    )
    end: StageEndSection = StageEndSection()
    overrides: StageOverrides = StageOverrides()


class HistorySection(Section):
    """Strategy `history`: prompts whose samples were all correct leave the next epochs (arXiv 2504.14286)."""

    readmit_after: NonNegativeInt | None = Field(
        None, description="epochs that a prompt stays out; none: for good"
    )
    easy_pool: Fraction = Field(0.0, description="probability with which a prompt that is out is drawn anyway")


class DynamicSection(Section):
    """Strategy `dynamic`: groups all right or all wrong are replaced within the step (arXiv 2503.14476)."""

    max_draws: Annotated[float, Field(ge=1)] = Field(
        4.0, description="a step samples at most this many times its prompts_per_step"
    )
    at_cap: Literal["fill", "stop"] = Field(
        "fill", description="fill: train on groups without a gradient too; stop: end the run with an error"
    )


class PredictiveSection(Section):
    """Strategy `predictive`: prompts are drawn by their probability of a mixed group."""

    prior: PositiveFloat = Field(0.5, description="both parameters of the Beta prior of a prompt's pass rate")
    forgetting: Fraction = Field(0.5, description="what is left of the evidence after an epoch")
    exploration: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="least probability of being drawn in an epoch"
    )


class CurriculumSection(Section):
    """Which prompts are drawn, and when."""

    strategy: Literal["none", "dynamic", "history", "predictive"] = "none"
    history: HistorySection = HistorySection()
    dynamic: DynamicSection = DynamicSection()
    predictive: PredictiveSection = PredictiveSection()
    min_pool: PositiveInt | None = Field(
        None,
        description="least prompts of an epoch; none: prompts_per_step, at most half of the source",
    )
    at_min_pool: Literal["readmit", "end_stage"] = Field(
        "readmit",
        description="readmit: an epoch with fewer takes all prompts; end_stage: and the stage ends with the step",
    )
    stages: tuple[StageSection, ...] = (StageSection(name="all"),)

    @model_validator(mode="after")
    def _stages_follow(self) -> CurriculumSection:
        if not self.stages:
            raise ValueError("stages must name at least one stage")
        names = [stage.name for stage in self.stages]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two stages are named {twice}; give each a name of its own")
        endless = next((stage.name for stage in self.stages[:-1] if stage.end.is_open), None)
        if endless is not None:
            raise ValueError(
                f"stage {endless} has no end, so {names[names.index(endless) + 1]} would never begin; give it "
                "end.steps, end.epochs or end.plateau"
            )
        return self
