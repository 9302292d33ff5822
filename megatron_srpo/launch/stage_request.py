"""`srpo stage next RUN`: a person ends a stage."""

from __future__ import annotations

from pathlib import Path

from megatron_srpo.curriculum.restore import CurriculumStore, request_next_stage
from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.run_directory import is_finished
from megatron_srpo.recipe.load import load_recipe
from megatron_srpo.rollout.journal import Journal, read_table


def request_next(run: Path) -> tuple[str, str | None]:
    """Ask for the end of the stage that the run is in; returns its name and that of the stage behind it, if any.

    Raises SrpoError when the directory holds no run, or the run has ended already.
    """
    recipe_file = run / "recipe.yaml"
    if not recipe_file.exists() or not (run / "rollouts").is_dir():
        raise SrpoError(f"{run}: is no run directory (it has no recipe.yaml and rollouts); give that of a run")
    recipe = load_recipe(recipe_file)
    if is_finished(recipe.model_copy(update={"run_dir": run})):
        raise SrpoError(f"{run}: the run is finished; there is no next step")
    names = [stage.name for stage in recipe.curriculum.stages]
    journal = Journal(run / "rollouts")
    stage = _present_stage(run, journal, names[0])
    if stage is None:
        raise SrpoError(f"{run}: its last stage has ended already; there is nothing to go on to")
    behind = names[names.index(stage) + 1 :]
    request_next_stage(run, stage)
    return stage, behind[0] if behind else None


def _present_stage(run: Path, journal: Journal, first: str) -> str | None:
    """The stage of the next step as the journal has it; none when the last one has ended."""
    closed = len(journal.closed_steps())
    switch = CurriculumStore(run, journal).recorded_switch(closed)
    if switch is not None:
        return switch.to
    if not closed:
        return first
    stage: str = read_table(journal.step_path(closed - 1), ["stage"])["stage"][0].as_py()
    return stage
