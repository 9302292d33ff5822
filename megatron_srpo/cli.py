"""The `srpo` command.  Commands import what they need when they run, so that `srpo plan` answers at once."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import megatron_srpo
from megatron_srpo.convert.commands import conversions
from megatron_srpo.errors import EXIT_BAD_INPUT, SrpoError, StoppedError
from megatron_srpo.plain import plain

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Reinforcement learning for reasoning on Megatron-Core and SGLang.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values to change, such as rollout.prompts_per_step=8."),
]


PIPE_WIDTH = 160  # of what is not read on a terminal: no table is folded


class GpuName(StrEnum):
    """What `srpo plan` knows the data sheet of; the keys of `plan.gpus.GPUS`."""

    H100 = "h100"
    H200 = "h200"
    A100 = "a100"


RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.")]

stages = typer.Typer(help="Stages of a run.", no_args_is_help=True)
app.add_typer(stages, name="stage")
rewards = typer.Typer(help="Rewards.", no_args_is_help=True)
app.add_typer(rewards, name="reward")
data_commands = typer.Typer(help="Sets of problems.", no_args_is_help=True)
app.add_typer(data_commands, name="data")
checkpoints = typer.Typer(help="Checkpoints of a run.", no_args_is_help=True)
app.add_typer(checkpoints, name="checkpoint")
app.add_typer(conversions, name="convert")


def _console() -> Console:
    """Standard output, wide where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"megatron_srpo {megatron_srpo.__version__}")
        raise typer.Exit()


@app.callback()
def _commands(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `srpo` itself."""


@app.command()
def doctor(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="YAML file of the run.")] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what this machine has for training, or for a recipe, and what is missing; exit code 2 for errors."""
    from megatron_srpo.doctor.examine import examine
    from megatron_srpo.doctor.show import show as show_report
    from megatron_srpo.recipe.load import load_recipe

    report = examine(None if recipe is None else load_recipe(recipe, overrides or ()))
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        show_report(report, _console())
    if report.errors:
        raise typer.Exit(EXIT_BAD_INPUT)


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    replay: Annotated[
        Path | None, typer.Option(help="Run directory whose recorded steps to train on, without engines.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Run directory, instead of the recipe's.")] = None,
) -> None:
    """Train on this machine."""
    from megatron_srpo.recipe.load import load_recipe
    from megatron_srpo.recipe.preflight import preflight

    resolved = load_recipe(recipe, overrides or ())
    if run_dir is not None:
        resolved = resolved.model_copy(update={"run_dir": run_dir})
    preflight(resolved, replay=replay)

    from megatron_srpo.launch import local

    local.train(resolved, replay)


@app.command()
def plan(
    recipe: RecipeFile,
    overrides: Overrides = None,
    *,
    gpu: Annotated[
        GpuName | None,
        typer.Option(help="GPU to plan for; h100, or none for a recipe on CPUs.", case_sensitive=False),
    ] = None,
    layouts: Annotated[
        int, typer.Option(min=0, metavar="N", help="Try all layouts of the ranks and show the N best.")
    ] = 0,
    response_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Mean length of a response, instead of an assumed one.")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Compare with what this run directory has measured.")
    ] = None,
    show_recipe: Annotated[
        bool, typer.Option("--recipe", help="Also print the whole resolved recipe, with all defaults.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell whether a recipe fits, how long a step takes and what it starts; exit code 2 when it does not fit."""
    from megatron_srpo.plan.checks import check_what_is_there
    from megatron_srpo.plan.plan import Asked, make_plan
    from megatron_srpo.plan.report import print_plan
    from megatron_srpo.recipe.load import load_recipe, resolved_yaml

    resolved = load_recipe(recipe, overrides or ())
    model, not_checked = check_what_is_there(resolved)
    asked = Asked(gpu and gpu.value, response_tokens, layouts > 0, measured)
    planned = make_plan(resolved, model, asked, tuple(map(str, not_checked)))
    if as_json:
        typer.echo(json.dumps(planned.as_json()))
    else:
        print_plan(planned, _console(), layouts)
    if show_recipe and not as_json:
        typer.echo(f"\n{resolved_yaml(resolved)}", nl=False)
    if planned.problem is not None:
        raise typer.Exit(EXIT_BAD_INPUT)


@app.command()
def history(
    run: RunDirectory,
    prompt: Annotated[str | None, typer.Option(help="Only this prompt, group by group.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Also write the groups, a row each, to a file.")] = None,
) -> None:
    """Show what became of the prompts of a run, by stage and epoch or one by one."""
    from rich.console import Console

    from megatron_srpo.observe import history_report

    groups = history_report.select(run, prompt, stage)
    show = history_report.print_epochs if prompt is None else history_report.print_prompt
    show(groups, Console())
    if parquet is not None:
        history_report.write(groups, parquet)
        typer.echo(f"{groups.num_rows} groups written to {parquet}")


@app.command()
def ablate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the ablation.")],
    report_only: Annotated[bool, typer.Option("--report-only", help="Only report what has run.")] = False,
) -> None:
    """Compare ways to train: run every arm with every seed, then write a table and plots."""
    from megatron_srpo.ablation import run

    run.ablate(config, report_only)


@stages.command("next")
def next_stage(run: RunDirectory) -> None:
    """End the present stage of a run, going on or stopped, after the step in hand; a stage has one at least."""
    from megatron_srpo.launch.stage_request import request_next

    stage, to = request_next(run)
    typer.echo(f"{run}: stage {stage} ends after the step in hand; then {f'stage {to}' if to else 'the run ends'}")


@rewards.command("check")
def check_rewards(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Parquet or JSON lines: response, and answer or tests of its problem."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Values to change, such as reward.answer_format=boxed."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe whose reward section to use.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show what responses in a file earn, and why."""
    from rich.console import Console

    from megatron_srpo.recipe.load import load_recipe, load_reward_section
    from megatron_srpo.rewards.check import check

    changes = overrides or ()
    section = load_reward_section(changes) if recipe is None else load_recipe(recipe, changes).reward
    check(file, section, limit, as_json, Console())


@data_commands.command()
def curate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the curation.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Values to change, such as workers=8."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin again, whatever is there.")] = False,
) -> None:
    """Make a verified set of problems out of public ones; see docs/data.md."""
    from rich.console import Console

    from megatron_srpo.data.curate.config import load_config
    from megatron_srpo.data.curate.run import curate as run

    run(load_config(config, tuple(overrides or ())), fresh, Console())


@data_commands.command("grade")
def grade_set(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="Folder of a set of problems.")],
    overrides: Overrides = None,
    *,
    recipe: Annotated[Path, typer.Option(help="Recipe whose model, sampling, rewards and grading to use.")],
    url: Annotated[
        list[str] | None, typer.Option(help="Running SGLang server, instead of engines of our own; may repeat.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure all problems anew.")] = False,
) -> None:
    """Measure how often a model solves each problem, and write its difficulty into the set."""
    from megatron_srpo.launch.grade import grade
    from megatron_srpo.recipe.load import load_recipe

    grade(folder, load_recipe(recipe, overrides or ()), url or (), fresh)


@data_commands.command()
def show(
    path: Annotated[
        Path, typer.Argument(metavar="SET", help="Folder of a set, or a parquet or JSON file of problems.")
    ],
    examples: Annotated[int, typer.Option(min=0, help="Random rows to show of each status.")] = 3,
    seed: Annotated[int, typer.Option(help="Which random rows; the same seed shows the same ones.")] = 0,
    rule: Annotated[str | None, typer.Option(help="Only rows that this rule repaired or refused.")] = None,
    status: Annotated[str | None, typer.Option(help="Only kept, refused or quarantined rows.")] = None,
    source: Annotated[str | None, typer.Option(help="Only rows of this source.")] = None,
    domain: Annotated[str | None, typer.Option(help="Only math or code.")] = None,
    difficulty: Annotated[str | None, typer.Option(help="Only problems graded like this.")] = None,
    row_id: Annotated[str | None, typer.Option("--id", help="One row whole, kept or not.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Also write plots, PNG and SVG, to a folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is in a set of problems, and what is not and why."""
    from rich.console import Console

    from megatron_srpo.data.show import show as shown
    from megatron_srpo.data.show.choose import Filter

    wanted = Filter(rule, status, source, domain, difficulty)
    options = shown.Options(examples, seed, plots, as_json)
    if row_id is None:
        shown.show(path, wanted, options, Console())
        return
    if wanted.given() or plots is not None:
        raise SrpoError("--id shows one row, whatever became of it; leave out the filters and --plots.")
    shown.show_row(path, row_id, options, Console())


@checkpoints.command("list")
def list_checkpoints(run: RunDirectory) -> None:
    """Show the checkpoints of a run."""
    from rich.console import Console

    from megatron_srpo.checkpoints import show

    show.list_checkpoints(run, Console())


@checkpoints.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Directory of a run, or of one checkpoint.")],
) -> None:
    """Compare every byte of checkpoints with the checksums that were written with them."""
    from rich.console import Console

    from megatron_srpo.checkpoints import show

    show.verify(path, Console())


def main(commands: typer.Typer | None = None) -> None:
    """Run the command line; what the user can mend ends in one sentence and exit code 2."""
    try:
        (app if commands is None else commands)()
    except SrpoError as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except StoppedError as stopped:
        print(f"stopped by {stopped}: everything recorded is kept, the same command goes on", file=sys.stderr)
        sys.exit(128 + stopped.number)


if __name__ == "__main__":
    main()
