"""Stages: where the run is, and when it goes on to the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_srpo.recipe.curriculum import PlateauSection, StageEndSection, StageSection


@dataclass(frozen=True)
class Switch:
    """The end of a stage: step `step` is the first of stage `to`; `to` none means that the run ends before it.

    `cause` is steps, epochs, plateau, min_pool or request; `numbers` are what it was decided by.
    """

    step: int
    stage: str
    to: str | None
    cause: str
    numbers: Mapping[str, float]


class StageProgress:
    """What has happened in the present stage, and whether that ends it."""

    def __init__(self, stage: StageSection, epochs_done: Mapping[str, int]) -> None:
        """Enter a stage; `epochs_done` says how many epochs each of its sources has behind it."""
        self.stage = stage
        self.metrics: dict[str, list[float]] = {"reward": [], "accuracy": []}
        self.epochs_before = dict(epochs_done)
        self.pool_ran_out = False

    @property
    def steps(self) -> int:
        """Closed steps of the stage."""
        return len(self.metrics["reward"])

    def close_step(self, reward: float, accuracy: float) -> None:
        """Take in a closed step's mean total reward and mean accuracy."""
        self.metrics["reward"].append(reward)
        self.metrics["accuracy"].append(accuracy)

    def ended_by(self, epochs_done: Mapping[str, int]) -> tuple[str, dict[str, float]] | None:
        """The cause that ends the stage after the steps so far, with its numbers; none: it goes on."""
        end: StageEndSection = self.stage.end
        if not self.steps:
            return None
        if end.steps is not None and self.steps >= end.steps:
            return "steps", {"steps": self.steps, "limit": end.steps}
        whole = min(epochs_done[source] - before for source, before in self.epochs_before.items())
        if end.epochs is not None and whole >= end.epochs:
            return "epochs", {"epochs": whole, "limit": end.epochs}
        if self.pool_ran_out:
            return "min_pool", {f"epochs_{source}": done for source, done in epochs_done.items()}
        if end.plateau is not None:
            numbers = plateau(self.metrics[end.plateau.metric], end.plateau)
            return None if numbers is None else ("plateau", numbers)
        return None


def plateau(values: Sequence[float], section: PlateauSection) -> dict[str, float] | None:
    """The numbers that show that a metric has stopped to rise, or none while it rises.

    The values are cut into whole windows from the first on.  It is a plateau when the last `patience` windows
    all stay below the best window before them plus `minimum_gain`.
    """
    whole = len(values) // section.window
    if whole <= section.patience:
        return None
    means = np.asarray(values[: whole * section.window]).reshape(whole, section.window).mean(axis=1)
    before, recent = float(means[: -section.patience].max()), float(means[-section.patience :].max())
    if recent >= before + section.minimum_gain:
        return None
    return {
        "best_before": before,
        "best_recent": recent,
        "minimum_gain": section.minimum_gain,
        "windows": whole,
        "window": section.window,
        "patience": section.patience,
    }
