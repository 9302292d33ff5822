"""The recipe's grading: how `srpo data grade` measures difficulty."""

from __future__ import annotations

from pydantic import Field, model_validator

from megatron_srpo.recipe.section import Fraction, PositiveInt, Section


class GradingSection(Section):
    """Difficulty by Pass@k; temperature, lengths and concurrency are the rollout's, as in training."""

    samples: PositiveInt = Field(8, description="responses drawn to each problem")
    k: PositiveInt = Field(1, description="Pass@k: the chance that one of k responses is right")
    easy: Fraction = Field(0.75, description="a problem whose Pass@k is this or more is easy")
    hard: Fraction = Field(0.25, description="a problem whose Pass@k is this or less is hard; between: medium")

    @model_validator(mode="after")
    def _possible(self) -> GradingSection:
        if self.hard >= self.easy:
            raise ValueError(f"hard {self.hard} must be below easy {self.easy}")
        if self.k > self.samples:
            raise ValueError(f"k {self.k} is above samples {self.samples}; Pass@k needs k samples at least")
        return self
