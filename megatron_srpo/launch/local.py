"""`srpo train` on this machine: starts trainer and engines, runs the controller, stops everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from megatron_srpo.checkpoints.provenance import Provenance
from megatron_srpo.controller import Controller, Observers, Rollouts
from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.restore import CurriculumStore
from megatron_srpo.data.problem import Problem
from megatron_srpo.data.problems import PromptEncoder
from megatron_srpo.data.sources import load_source
from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.run_directory import RECORDING, RunDirectory, is_finished
from megatron_srpo.launch.stop import run_with_guards
from megatron_srpo.launch.supervise import supervise
from megatron_srpo.launch.trainer import Trainer, start_trainer
from megatron_srpo.observe.metrics import JsonLines, RunMetrics
from megatron_srpo.observe.progress import Progress
from megatron_srpo.recipe.model_config import read_model_config
from megatron_srpo.recipe.model_folder import extra_layers_notice
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rewards.pool import RewardPool
from megatron_srpo.rewards.sandbox.choice import describe_sandbox
from megatron_srpo.rollout.collect import RolloutCollector
from megatron_srpo.rollout.engine import Engines, start_engines
from megatron_srpo.rollout.engine_command import engine_device, gpus_of_engines
from megatron_srpo.rollout.evaluate import HeldOut
from megatron_srpo.rollout.fleet import EngineFleet
from megatron_srpo.sync.announce import DiskPath, DistributedPath, WeightPath
from megatron_srpo.tasks import gather_or_cancel


def train(recipe: Recipe, replay: Path | None) -> None:
    """Run a recipe to its end; with `replay`, only train on the steps recorded in that run directory.

    Raises SrpoError for what the user can mend and StoppedError after SIGINT or SIGTERM; in every case no process
    is left.
    """
    if replay is not None and recipe.directory.resolve() == replay.resolve():
        directory = recipe.directory.with_name(recipe.directory.name + "-replay")
        recipe = recipe.model_copy(update={"run_dir": directory})
    with RunDirectory(recipe) as run:
        if replay is None and is_finished(recipe):
            print(f"{run.path}: the run is finished; the trained model is in {run.path / 'model'}")
            return
        run_with_guards(_train(run, replay))


async def _train(run: RunDirectory, replay: Path | None) -> None:
    recipe, console = run.recipe, Console()
    steps = min(recipe.steps, run.copy_steps(replay)) if replay is not None else recipe.steps
    provenance = Provenance(recipe, run.journal)
    provenance.check()
    events, metrics = JsonLines(run.path / "events.jsonl"), RunMetrics(run.path)
    with Progress(steps, console) as progress:
        progress.say(f"run directory {run.path}, logs in {run.path / 'logs'}")
        for key, (old, new) in run.changed.items():
            events.write({"event": "recipe_changed", "key": key, "old": old, "new": new})
            progress.say(f"the recipe has changed since this run's last start: {key} was {old!r} and is {new!r}")
        if notice := extra_layers_notice(read_model_config(recipe.model.path)):
            progress.say(notice)
        progress.phase("starting trainer ranks and engines, about half a minute")
        async with AsyncExitStack() as stack:
            stack.callback(metrics.close)
            trainer, engines = await _start(recipe, run.path, stack, with_engines=replay is None)
            rollouts = await _rollouts(run, provenance, trainer, engines, stack) if engines is not None else None
            observers = Observers(metrics, events, progress)
            if rollouts is not None:
                _tell_isolation(recipe, rollouts, observers)
            controller = Controller(recipe, run.journal, trainer, rollouts, observers, provenance)
            watchers = [trainer.watch(), *([engines.watch()] if engines is not None else [])]
            ended = await supervise(controller.run(steps), watchers)
            if ended == "steps" and steps < recipe.steps:
                ended = RECORDING
                progress.say(f"the recording ends with step {steps - 1}; the recipe has {recipe.steps} steps")
            await supervise(trainer.export(run.path / "model"), [trainer.watch()])
            run.finish(trainer.version, ended)
            progress.say(f"trained weights, as a Hugging Face folder: {run.path / 'model'}")


def _tell_isolation(recipe: Recipe, rollouts: Rollouts, observers: Observers) -> None:
    """Where there are programs to run, say behind which walls."""
    trained_on = any(problem.tests is not None for of in rollouts.problems.values() for problem in of)
    if trained_on or (rollouts.held_out is not None and rollouts.held_out.has_programs):
        level, meaning = describe_sandbox(recipe.reward.sandbox)
        observers.events.write({"event": "sandbox", "level": level})
        observers.progress.say(f"programs run in a sandbox of level {level}: {meaning}")


async def _start(
    recipe: Recipe, path: Path, stack: AsyncExitStack, with_engines: bool
) -> tuple[Trainer, Engines | None]:
    """Start both kinds of processes at the same time; when one fails the other is stopped too."""

    async def trainer_ranks() -> Trainer:
        return await stack.enter_async_context(await start_trainer(recipe, path))

    async def engine_servers() -> Engines | None:
        if not with_engines:
            return None
        gpus = gpus_of_engines(recipe.engine, recipe.trainer)
        record_experts = recipe.trainer.experts.replay_routing
        engines = await start_engines(recipe.engine, recipe.model.path, path / "logs", gpus, record_experts)
        return await stack.enter_async_context(engines)

    trainer, engines = await gather_or_cancel(trainer_ranks(), engine_servers())
    return trainer, engines


async def _rollouts(
    run: RunDirectory, provenance: Provenance, trainer: Trainer, engines: Engines, stack: AsyncExitStack
) -> Rollouts:
    recipe = run.recipe
    fleet = EngineFleet.from_recipe(recipe, engines.urls)
    stack.push_async_callback(fleet.close)
    rewards = await stack.enter_async_context(RewardPool(recipe.reward))
    encoder = PromptEncoder.from_recipe(recipe)
    problems = {name: load_source(source) for name, source in recipe.train_sources.items()}
    curriculum, store = (
        Curriculum(recipe, _ids(problems)),
        CurriculumStore(run.path, run.journal, provenance.curriculum_digests()),
    )
    restored = store.restore(curriculum)
    collector = RolloutCollector(recipe, read_model_config(recipe.model.path), fleet, encoder, rewards)
    return Rollouts(
        collector,
        _weight_path(recipe, run.path, trainer, fleet),
        curriculum,
        store,
        restored,
        problems,
        {source: encoder.encode_all(of_source) for source, of_source in problems.items()},
        _held_out(recipe, encoder, run.path),
    )


def _ids(problems: Mapping[str, Sequence[Problem]]) -> dict[str, list[str]]:
    return {source: [problem.id for problem in of_source] for source, of_source in problems.items()}


def _weight_path(recipe: Recipe, path: Path, trainer: Trainer, fleet: EngineFleet) -> WeightPath:
    if recipe.sync.path == "disk":
        return DiskPath(trainer, fleet, path / "weights")
    wanted = "nccl" if engine_device(recipe.engine) == "cuda" else "gloo"
    if trainer.backend != wanted:
        raise SrpoError(
            f"sync.path distributed: the trainer exchanges weights over {trainer.backend} and the engines over "
            f"{wanted}; put both on the same kind of device (trainer.device, engine.device) or set sync.path=disk"
        )
    return DistributedPath(recipe, trainer, fleet)


def _held_out(recipe: Recipe, encoder: PromptEncoder, path: Path) -> HeldOut | None:
    if not recipe.data.heldout:
        return None
    sources = recipe.data.heldout.items()
    problems = {name: load_source(source)[: recipe.evaluation.max_prompts] for name, source in sources}
    prompts = {source: encoder.encode_all(of_source) for source, of_source in problems.items()}
    return HeldOut(recipe, problems, prompts, path / "evaluation")
