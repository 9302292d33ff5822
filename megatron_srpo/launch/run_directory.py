"""The run directory: who may use it, which recipe it belongs to, where things lie in it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from megatron_srpo.errors import SrpoError
from megatron_srpo.files import hold, join_files, replace_file
from megatron_srpo.recipe.differences import changed_keys
from megatron_srpo.recipe.load import load_recipe, resolved_yaml
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import Journal, read_step
from megatron_srpo.rollout.routed_experts import SUFFIX, locate, routing_shape

FINISHED = "finished.json"
RECORDING = "recording"
"""What ended a replay that had fewer recorded steps than the recipe asks for."""
# What may change between two starts of one run: nothing that changes what is learned from what is recorded.
_FREE = (
    "name",
    "steps",
    "budget_tokens",
    "resume",
    "run_dir",
    "checkpoint",
    "engine",
    "sync",
    "evaluation",
    "grading",
    "profile",
    "reward.workers",
    "algorithm.mismatch_limit",
    "curriculum.dynamic",
    "rollout.max_concurrent_requests",
    "rollout.request_timeout_seconds",
    "rollout.request_retries",
    "trainer.ranks",
    "trainer.tensor_parallel",
    "trainer.pipeline_parallel",
    "trainer.context_parallel",
    "trainer.data_parallel",
    "trainer.expert_parallel",
    "trainer.virtual_pipeline_parallel",
    "trainer.pipeline_layers",
    "trainer.sequence_parallel",
    "trainer.max_tokens_per_microbatch",
    "trainer.logits_megabytes",
    "trainer.overlap_gradient_reduce",
    "trainer.overlap_parameter_gather",
    "trainer.bucket_parameters",
    "trainer.recompute",
    "trainer.optimizer.offload",
    "trainer.experts.keep_routing",
    "trainer.threads_per_rank",
    "trainer.timeout_seconds",
)


class RunDirectory:
    """A run directory held by this process; a context manager that lets go of it."""

    def __init__(self, recipe: Recipe) -> None:
        """Take the directory, check that the recipe fits what is in it, and write the resolved recipe.

        Raises SrpoError when another process holds it, the recipe's `resume` forbids, or the recipe differs
        from the recorded one in what the run has learned from.
        """
        self.path = recipe.directory
        self.recipe = recipe
        taken = "another srpo train uses this run directory; wait for it, stop it, or give --run-dir"
        self._check_resume()  # before anything is made
        self._lock: IO[str] = hold(self.path, f"{self.path}: {taken}")
        self._check_resume()
        self.changed = self._check_recipe()
        replace_file(self.path / "recipe.yaml", resolved_yaml(recipe).encode())
        self.journal = Journal(self.path / "rollouts")
        self.journal.tidy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    @property
    def has_progress(self) -> bool:
        """Whether any group has been recorded or any checkpoint saved here."""
        patterns = ("rollouts/step-*.parquet", "rollouts/open/*/group-*.parquet", "checkpoints/step-*")
        return any(any(self.path.glob(pattern)) for pattern in patterns)

    def finish(self, weight_version: int, ended_by: str) -> None:
        """Record that everything is trained, saved, measured and exported."""
        record = {
            "weight_version": weight_version,
            "ended_by": ended_by,
            "budget_tokens": self.recipe.budget_tokens,
        }
        replace_file(self.path / FINISHED, json.dumps(record).encode() + b"\n")

    def _check_resume(self) -> None:
        if self.recipe.resume == "never" and self.has_progress:
            raise SrpoError(
                f"{self.path}: holds a run already and resume is never; give another --run-dir or remove it"
            )
        if self.recipe.resume == "must" and not self.has_progress:
            raise SrpoError(f"{self.path}: resume is must, but there is no run in it; check --run-dir")

    def _check_recipe(self) -> dict[str, tuple[Any, Any]]:
        """What has changed since the last start; only what may."""
        if self.has_progress and (self.path / "recipe.yaml").exists():
            return check_recorded(self.recipe)
        return {}

    def copy_steps(self, source: Path) -> int:
        """Take over the recorded steps of another run, to be replayed; returns how many there are.

        Raises SrpoError when one of them is damaged, or when this directory holds steps that are not those of
        `source`: a journal never mixes runs.
        """
        recorded = Journal(source / "rollouts")
        steps = recorded.closed_steps()
        mine = self.journal.closed_steps()
        if len(mine) > len(steps) or any(
            self.journal.step_path(step).read_bytes() != recorded.step_path(step).read_bytes() for step in mine
        ):
            raise SrpoError(
                f"{self.path}: holds steps of its own, which are not those of --replay {source}; give another "
                "--run-dir"
            )
        routing = None
        if self.recipe.trainer.experts.replay_routing:
            routing = routing_shape(self.recipe, read_model_config(self.recipe.model.path))
        for step in steps[len(mine) :]:
            rows = read_step(recorded.step_path(step))  # a damaged one is named before anything is taken over
            if routing is not None:
                locate(recorded.step_path(step), rows, routing)
        for step in steps[len(mine) :]:
            experts = recorded.step_path(step).with_suffix(SUFFIX)
            if experts.exists():
                join_files([experts], self.journal.step_path(step).with_suffix(SUFFIX))
            replace_file(self.journal.step_path(step), recorded.step_path(step).read_bytes())
        for switch in recorded.root.glob("stage-??????.json"):
            replace_file(self.journal.root / switch.name, switch.read_bytes())
        return len(steps)


def check_recorded(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """What differs from the run directory's recipe; raises SrpoError when the run has learned from some of it."""
    changed = differences(load_recipe(recipe.directory / "recipe.yaml"), recipe)
    refused = {key: values for key, values in changed.items() if not _is_free(key)}
    if refused:
        told = "; ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in refused.items())
        raise SrpoError(
            f"{recipe.directory}: the recipe has changed in what this run has learned from ({told}); "
            "undo the change or give another --run-dir"
        )
    return changed


def is_finished(recipe: Recipe) -> bool:
    """Whether the recipe's run has come to an end that still is one: a larger `steps` or token budget goes on."""
    path = recipe.directory / FINISHED
    if not path.exists() or not (recipe.directory / "model" / "config.json").exists():
        return False
    try:
        recorded = json.loads(path.read_text())
        ended_by, version, budget = (recorded[key] for key in ("ended_by", "weight_version", "budget_tokens"))
    except (ValueError, TypeError, KeyError) as error:
        raise SrpoError(f"{path}: does not say how the run ended ({error!r}); remove it to go on") from error
    if ended_by in ("steps", RECORDING):
        return bool(version >= recipe.steps)
    return bool(ended_by == "curriculum" or budget == recipe.budget_tokens)


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in _FREE)


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two recipes differ, with both values."""
    return changed_keys(old.model_dump(mode="json"), new.model_dump(mode="json"))
