"""`srpo data grade`: how often a model solves each problem of a set.

A problem is one group of responses, as in training.  When it is finished it is one line in the set's journal of
grades; when all are, the set is written anew (data/grade/write_back.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from math import ceil
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_srpo.data.grade.grade import Grade, grade_of
from megatron_srpo.data.grade.journal import GradeJournal
from megatron_srpo.data.grade.survey import Survey, missing_rows, survey
from megatron_srpo.data.grade.write_back import write_back
from megatron_srpo.data.problem_set import check_parts, read_manifest
from megatron_srpo.data.problems import PromptEncoder, problem_of
from megatron_srpo.data.show.text import literal
from megatron_srpo.errors import SrpoError
from megatron_srpo.launch.stop import run_with_guards
from megatron_srpo.launch.supervise import supervise
from megatron_srpo.observe.grading import GradingProgress
from megatron_srpo.recipe.model_config import ModelConfig
from megatron_srpo.recipe.model_folder import fingerprint
from megatron_srpo.recipe.preflight import check_grading
from megatron_srpo.recipe.schema import Recipe
from megatron_srpo.rewards.pool import RewardPool
from megatron_srpo.rewards.sandbox.choice import describe_sandbox
from megatron_srpo.rollout.client import version_number
from megatron_srpo.rollout.collect import Group, Prompt, RolloutCollector
from megatron_srpo.rollout.engine import start_engines
from megatron_srpo.rollout.fleet import EngineFleet

AHEAD = 2
"""Problems on their way, as a multiple of those whose requests the engines work on: others are being judged."""
# Of the reward section, what says nothing of which response is right.
_NOT_MEASURED = {"workers", "alarm_error_share"}


def grade(folder: Path, recipe: Recipe, urls: Sequence[str], fresh: bool) -> None:
    """Measure what has no grade yet and write all grades into the set.

    Args:
        folder: of the set.
        recipe: whose model, sampling, rewards and grading are used.
        urls: of running SGLang servers; none: the recipe's engines are started.
        fresh: forget earlier grades.

    Raises:
        SrpoError: for what the user can mend.
        StoppedError: after SIGINT or SIGTERM; no process is left, finished problems are recorded.
    """
    check_parts(folder, read_manifest(folder).problems)
    model = check_grading(recipe, engines=not urls)
    with GradeJournal(folder) as journal:
        run_with_guards(_grade(folder, recipe, model, urls, journal, fresh))


async def _grade(
    folder: Path, recipe: Recipe, model: ModelConfig, urls: Sequence[str], journal: GradeJournal, fresh: bool
) -> None:
    console = Console()
    journal.begin(setup_of(recipe, await _served(recipe, urls) if urls else _own(recipe)), fresh)
    found = await survey(folder, journal)
    with GradingProgress(found.total, found.total - found.missing, console) as progress:
        if found.missing:
            if found.missing < found.total:
                progress.say(f"going on: {found.total - found.missing} of {found.total} problems have a grade")
            await _measure(_Run(folder, recipe, model, journal, found, progress), urls)
    _report(folder, await write_back(folder, journal, recipe.grading), console)


def setup_of(recipe: Recipe, model: dict[str, Any]) -> dict[str, Any]:
    """What grades depend on, as plain JSON values; those of different set-ups are never mixed."""
    rollout = recipe.rollout
    return {
        "model": model,
        "sampling": {
            "samples": recipe.grading.samples,
            "seed": recipe.seed,
            "temperature": rollout.temperature,
            "top_p": rollout.top_p,
            "top_k": rollout.top_k,
            "max_prompt_tokens": rollout.max_prompt_tokens,
            "max_response_tokens": rollout.max_response_tokens,
        },
        "template": recipe.data.prompt_template,
        "reward": recipe.reward.model_dump(mode="json", exclude=_NOT_MEASURED),
    }


def _own(recipe: Recipe) -> dict[str, Any]:
    return {"path": str(recipe.model.path), "files": fingerprint(recipe.model.path)}


async def _served(recipe: Recipe, urls: Sequence[str]) -> dict[str, Any]:
    """What running servers say that they serve; raises SrpoError unless all say the same."""
    fleet = EngineFleet.from_recipe(recipe, urls)
    try:
        answers = await fleet.all(lambda client: client.model_info())
    finally:
        await fleet.close()
    served = [_model_of(url, answer) for url, answer in zip(urls, answers, strict=True)]
    for url, one in zip(urls, served, strict=True):
        if one != served[0]:
            raise SrpoError(f"--url {url} serves {one}, but {urls[0]} serves {served[0]}; grade with one model.")
    return served[0]


def _model_of(url: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    version = str(answer.get("weight_version"))
    try:
        return {"served": str(answer.get("model_path")), "version": version_number(version)}
    except ValueError:
        raise SrpoError(
            f"--url {url}: its weight version is {version!r}, not a number; "
            "start the server with --weight-version 0."
        ) from None


class _Run:
    """The measurement of what is missing."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        model: ModelConfig,
        journal: GradeJournal,
        found: Survey,
        progress: GradingProgress,
    ) -> None:
        rollout = recipe.rollout.model_copy(update={"samples_per_prompt": recipe.grading.samples})
        self.folder, self.recipe = folder, recipe.model_copy(update={"rollout": rollout})
        self.model, self.progress, self.found = model, progress, found
        self.encoder = PromptEncoder.from_recipe(recipe)
        self._journal = journal
        self._rows = missing_rows(folder, journal, found.parts)
        measured = journal.setup["model"]
        self._label = str(measured.get("files") or measured["served"])
        self._version: int = measured.get("version", 0)  # our own engines are started with 0
        self._drawn = self._on_their_way = 0
        self._limit = AHEAD * ceil(rollout.max_concurrent_requests / rollout.samples_per_prompt)

    def draw(self) -> list[Prompt]:
        """The next problems, as many as may be on their way."""
        prompts: list[Prompt] = []
        while self._on_their_way < self._limit and (following := next(self._rows, None)) is not None:
            key, row = following
            problem = problem_of(row, f"{self.folder}: problem {row['id']}")
            try:
                tokens = self.encoder.encode(problem)
            except SrpoError:
                limit = self.recipe.rollout.max_prompt_tokens
                cause = f"the prompt is longer than rollout.max_prompt_tokens {limit}"
                self._finish(Grade(problem.id, key, 0, 0, 0, self._label, 0.0, 0.0, cause))
                continue
            prompts.append(Prompt(self._drawn, problem.source, 0, problem, tokens, key))
            self._drawn += 1
            self._on_their_way += 1
        return prompts

    async def collect(self, collector: RolloutCollector) -> None:
        """Measure everything; raises SrpoError when engines or workers fail, or weights change meanwhile."""
        async with aclosing(collector.groups(self.draw, self.recipe)) as groups:
            async for group in groups:
                self._check_version(group)
                self._on_their_way -= 1
                self._finish(grade_of(group, group.prompt.place, self._label))

    def _finish(self, grade: Grade) -> None:
        self._journal.add(grade)
        self.progress.advance()

    def _check_version(self, group: Group) -> None:
        for response in group.responses:
            if response.generation.weight_version != self._version:
                raise SrpoError(
                    f"an engine's weights are of version {response.generation.weight_version}, but grading began "
                    f"with version {self._version}; grade with a server that nobody trains."
                )


async def _measure(run: _Run, urls: Sequence[str]) -> None:
    """Start what is needed, measure, and stop it, however that ends."""
    recipe = run.recipe
    if run.found.programs:
        level, meaning = describe_sandbox(recipe.reward.sandbox)
        run.progress.say(f"programs run in a sandbox of level {level}: {meaning}")
    async with AsyncExitStack() as stack:
        watchers = []
        if not urls:
            logs = run.folder / "logs"
            run.progress.say(f"starting engines, logs in {logs}")
            engines = await stack.enter_async_context(await start_engines(recipe.engine, recipe.model.path, logs))
            watchers, urls = [engines.watch()], engines.urls
        fleet = EngineFleet.from_recipe(recipe, urls)
        stack.push_async_callback(fleet.close)
        rewards = await stack.enter_async_context(RewardPool(recipe.reward))
        collector = RolloutCollector(recipe, run.model, fleet, run.encoder, rewards)
        await supervise(run.collect(collector), watchers)


def _report(folder: Path, found: dict[str, Any], console: Console) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in found["difficulty"].items())
    lines = [f"{folder}: {counts}, {found['ungraded']} not graded"]
    lines += [f"  {count} times: {reason}" for reason, count in found["reasons"].items()]
    if found["errors"]:
        shares = f"{found['errors']} of {found['responses']}"
        lines.append(f"{shares} responses could not be judged; they count neither as right nor as wrong")
    for line in lines:
        console.print(literal(line), soft_wrap=True)
