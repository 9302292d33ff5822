"""What ties the checkpoints of a run to its model, its recipe, its journal and its curriculum."""

from __future__ import annotations

from pathlib import Path

import xxhash

from megatron_srpo.checkpoints.manifest import (
    CurriculumState,
    JournalPosition,
    Manifest,
    RunFacts,
    checkpoint_folder,
    checkpoint_versions,
)
from megatron_srpo.checkpoints.verify import check_journal
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import checksum
from megatron_srpo.recipe.load import resolved_yaml
from megatron_srpo.recipe.model_folder import fingerprint
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rollout.journal import Journal


class Provenance:
    """A run as its checkpoints name it."""

    def __init__(self, recipe: Recipe, journal: Journal) -> None:
        """Reads the ends of the model's weight files; raises SrpoError when they cannot be read."""
        self._journal = journal
        self._checkpoints = recipe.directory / "checkpoints"
        self._can_begin_again = recipe.trainer.experts.can_begin_again
        self._model = recipe.model.path
        self._fingerprint = fingerprint(recipe.model.path)
        self._recipe = xxhash.xxh3_128_hexdigest(resolved_yaml(recipe).encode())

    def facts(self, version: int, curriculum: CurriculumState | None) -> RunFacts:
        """What a checkpoint of this version, whose steps are all in the journal, is to say of the run."""
        last = checksum(self._journal.step_path(version - 1)) if version else None
        return RunFacts(
            model=str(self._model),
            model_fingerprint=self._fingerprint,
            recipe_xxh3_128=self._recipe,
            journal=JournalPosition(steps=version, last_step_xxh3_128=last),
            curriculum=curriculum,
        )

    def check(self) -> None:
        """Raise SrpoError when the newest readable checkpoint was trained on another model or another journal.

        Broken ones are named when a start tries to load them.
        """
        for manifest in reversed(self._manifests()):
            if manifest.run is not None and manifest.run.model_fingerprint != self._fingerprint:
                raise SrpoError(
                    f"model.path {self._model}: its content is not what it was when this run's checkpoint of step "
                    f"{manifest.weight_version} was written; restore the model or give another --run-dir"
                )
            for problem in check_journal(self._journal.root, manifest):
                again = f"remove {self._checkpoints} to train on the recorded steps from the beginning"
                raise SrpoError(
                    f"{problem}; restore it, or {again if self._can_begin_again else 'start a new run'}"
                )
            return

    def curriculum_digests(self) -> dict[int, str]:
        """What the checkpoints say of the curriculum's snapshots, by their number of steps."""
        named = [m.run.curriculum for m in self._manifests() if m.run is not None]
        return {state.steps: state.xxh3_128 for state in named if state is not None}

    def oldest_version(self) -> int:
        """The oldest weights that a start may go on from; 0 without checkpoints."""
        return min(checkpoint_versions(self._checkpoints), default=0)

    def _manifests(self) -> list[Manifest]:
        found = []
        for version in checkpoint_versions(self._checkpoints):
            manifest = readable(checkpoint_folder(self._checkpoints, version))
            if manifest is not None:
                found.append(manifest)
        return found


def readable(folder: Path) -> Manifest | None:
    """A checkpoint's manifest, or none where it is damaged."""
    try:
        return Manifest.read(folder)
    except SrpoError:
        return None
