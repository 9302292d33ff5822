"""What `srpo ablate` compares: arms that change one recipe, each run with several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from megatron_srpo.errors import SrpoError
from megatron_srpo.files import replace_file
from megatron_srpo.recipe import yaml_form
from megatron_srpo.recipe.explain import explain
from megatron_srpo.recipe.load import load_recipe
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.recipe.section import NonNegativeInt, PositiveInt, Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Arm(Section):
    """One way to train: what it changes in the recipe, and how tables and plots call it."""

    label: str
    set: dict[str, Any] = Field({}, description="keys of the recipe, as in a recipe that has it as its base")

    @model_validator(mode="after")
    def _leaves_alone_what_is_given(self) -> Arm:
        given = next((key for key in ("base", "name", "seed", "run_dir") if key in self.set), None)
        if given is not None:
            raise ValueError(f"set names {given}, which srpo ablate gives every run itself; leave it out")
        return self


class Ablation(Section):
    """The whole comparison."""

    recipe: Path = Field(description="what all arms start from, beside this file")
    out: Path = Field(description="folder of the runs and the report")
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    baseline: Name = Field(description="the arm that the others are compared with")
    threshold: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        {}, description="held-out accuracies to reach: accuracy, of all, or accuracy/SOURCE"
    )
    parallel_runs: PositiveInt = Field(1, description="runs at the same time on this machine")
    arms: dict[Name, Arm] = Field(min_length=1)

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> Ablation:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline} is none of the arms {', '.join(self.arms)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} name one twice; each run needs its own")
        return self


@dataclass(frozen=True)
class PlannedRun:
    """One run: its recipe file, checked, and its directory."""

    arm: str
    seed: int
    file: Path
    recipe: Recipe

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.recipe.directory


def load_ablation(path: Path) -> Ablation:
    """Read and check the file; raises SrpoError naming it and the key."""
    try:
        values = yaml_form.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SrpoError(
            f"{path}: cannot read the ablation ({error.strerror}); looked for {path.absolute()}"
        ) from None
    except UnicodeDecodeError as error:
        raise SrpoError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise SrpoError(f"{path}: {yaml_form.describe(error)}") from None
    if not isinstance(values, dict):
        raise SrpoError(f"{path}: an ablation is a mapping of keys to values, found {type(values).__name__}")
    try:
        return Ablation.model_validate(values)
    except ValidationError as error:
        raise SrpoError(explain(error, str(path), lambda _: str(path), Ablation)) from None


def plan_runs(path: Path, ablation: Ablation) -> list[PlannedRun]:
    """Write the recipe of every run to `out/recipes` and check it; all arms of a seed, then the next seed.

    Raises SrpoError when an arm's recipe is not valid.
    """
    base = (path.parent / ablation.recipe).resolve()
    runs = []
    for seed in ablation.seeds:
        for name, arm in ablation.arms.items():
            values = {
                **arm.set,
                "base": str(base),
                "name": f"{name}-seed{seed}",
                "seed": seed,
                "run_dir": str(ablation.out / "runs" / f"{name}-seed{seed}"),
            }
            file = ablation.out / "recipes" / f"{name}-seed{seed}.yaml"
            replace_file(file, yaml_form.dump(values).encode())
            runs.append(PlannedRun(name, seed, file, load_recipe(file)))
            _check_thresholds(path, ablation, runs[-1].recipe)
    return runs


def _check_thresholds(path: Path, ablation: Ablation, recipe: Recipe) -> None:
    measured = ["accuracy", *(f"accuracy/{source}" for source in recipe.data.heldout)]
    if len(measured) == 1:
        raise SrpoError(f"{path}: the recipe has no data.heldout, which arms are compared by; name a file there")
    unknown = next((key for key in ablation.threshold if key not in measured), None)
    if unknown is not None:
        raise SrpoError(f"{path}: threshold {unknown} is not measured; there are {', '.join(measured)}")
