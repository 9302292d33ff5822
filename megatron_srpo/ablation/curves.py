"""What one run of an ablation shows, folded out of its journal and its evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from megatron_srpo.curriculum.history import journal_groups
from megatron_srpo.curriculum.restore import switches
from megatron_srpo.rollout.evaluate import accuracies_of, measured_versions
from megatron_srpo.rollout.journal import Journal


@dataclass(frozen=True)
class RunCurve:
    """A run by step.

    tokens: [steps + 1] int64, response tokens sampled before each step, and in all; effective, wasted: [steps]
    float64, share of the sampled groups that are trained on and whose rewards differ, and share of the tokens in
    all other groups;
    evaluations: held-out accuracies ("accuracy", "accuracy/SOURCE") by weight version; switches: first steps of
    the stages after the first.
    """

    arm: str
    seed: int
    tokens: NDArray[np.int64]
    effective: NDArray[np.float64]
    wasted: NDArray[np.float64]
    evaluations: dict[int, dict[str, float]]
    switches: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return len(self.tokens) - 1

    @property
    def last(self) -> dict[str, float]:
        """Held-out accuracies of the last version measured."""
        return self.evaluations[max(self.evaluations)]

    def effective_share(self) -> float:
        """Share of effective groups, averaged over the steps."""
        return float(self.effective.mean())

    def wasted_share(self) -> float:
        """Share of all tokens that were sampled in groups that do not move the policy."""
        return float(np.average(self.wasted, weights=np.diff(self.tokens)))

    def points(self, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Tokens sampled and held-out accuracy at every evaluation, in order."""
        versions = sorted(self.evaluations)
        return self.tokens[versions], np.array([self.evaluations[v][key] for v in versions])

    def reaches(self, key: str, threshold: float) -> tuple[float, float] | None:
        """Tokens and steps at which the accuracy first reaches the threshold, straight between evaluations.

        None when it never does.
        """
        versions = sorted(self.evaluations)
        values = [self.evaluations[v][key] for v in versions]
        above = next((i for i, value in enumerate(values) if value >= threshold), None)
        if above is None:
            return None
        if above == 0:
            return float(self.tokens[versions[0]]), float(versions[0])
        part = (threshold - values[above - 1]) / (values[above] - values[above - 1])
        before, after = versions[above - 1], versions[above]
        tokens = self.tokens[before] + part * (self.tokens[after] - self.tokens[before])
        return float(tokens), before + part * (after - before)


def read_curve(arm: str, seed: int, run: Path) -> RunCurve:
    """Fold a run directory; raises SrpoError when a file of it cannot be read."""
    groups = journal_groups(Journal(run / "rollouts"))
    steps = groups["step"].to_numpy()
    last = int(steps.max()) + 1
    lengths, moving = _totals(groups)
    generated = np.bincount(steps, weights=lengths, minlength=last)
    wasted = np.bincount(steps, weights=lengths * ~moving, minlength=last)
    effective = np.bincount(steps, weights=moving, minlength=last) / np.bincount(steps, minlength=last)
    evaluations = run / "evaluation"
    return RunCurve(
        arm,
        seed,
        np.concatenate([[0], np.cumsum(generated)]).astype(np.int64),
        effective,
        wasted / generated,
        {version: accuracies_of(evaluations, version) for version in measured_versions(evaluations)},
        tuple(switch.step for switch in switches(run / "rollouts") if switch.to is not None),
    )


def _totals(groups: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Response tokens of every group, and whether it moves the policy: trained on, and its rewards differ."""
    lengths = groups["lengths"].combine_chunks()
    rewards = groups["rewards"].combine_chunks()
    offsets = lengths.offsets.to_numpy()[:-1]
    values = rewards.values.to_numpy()
    tokens = np.add.reduceat(lengths.values.to_numpy().astype(np.int64), offsets)
    differ = np.maximum.reduceat(values, offsets) > np.minimum.reduceat(values, offsets)
    return tokens, differ & np.array(groups["trained"].to_pylist(), np.bool_)
