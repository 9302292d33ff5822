"""The typed config of `srpo data curate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from megatron_srpo.data.curate.place import Place
from megatron_srpo.recipe.data import SOURCE
from megatron_srpo.recipe.load import load_checked
from megatron_srpo.recipe.reward import CodeSection, MathSection, SandboxSection
from megatron_srpo.recipe.section import Fraction, PositiveInt, Section


class SourceSection(Place):
    """One public set, and how its rows are read."""

    adapter: str = Field("problems", description="what the rows look like; problems: our own columns")
    columns: dict[str, str] = Field({}, description="columns to rename before anything else: theirs to ours")
    labels: str | None = Field(
        None, description="column with the names of the rules that should act on a row: the card then compares"
    )
    limit: PositiveInt | None = Field(None, description="only the first rows")


class RulesSection(Section):
    """How rules judge."""

    skip: tuple[str, ...] = Field((), description="rules that are left out")
    multiple_choice: Literal["open", "drop"] = Field(
        "open", description="open: questions with choices become open ones where they can"
    )
    languages: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("en",), description="ISO 639 codes of the languages that prompts may be in"
    )


class VerifySection(Section):
    """How answers and tests are verified; the sections are those of a recipe's reward."""

    math: MathSection = MathSection()
    code: CodeSection = CodeSection()
    sandbox: SandboxSection = SandboxSection()
    max_references: PositiveInt = Field(3, description="reference programs that are tried until one passes")
    without_reference: Literal["refuse", "keep"] = Field(
        "refuse", description="code problems that have tests but no reference program"
    )


class DuplicatesSection(Section):
    """When two problems are the same."""

    similarity: Annotated[float, Field(gt=0.3, le=1)] = Field(
        0.7, description="Jaccard similarity of words and pairs of words, estimated by MinHash"
    )
    permutations: Literal[64, 128, 256] = Field(128, description="of MinHash; more estimate better")


class EvaluationSet(Place):
    """Problems that must not be trained on."""

    split: str = "test"
    column: str = Field("prompt", description="column with the problem's text")


class ContaminationSection(Section):
    """When a problem counts as known from an evaluation set."""

    sets: dict[str, EvaluationSet] = Field({}, description="the evaluation sets, by name")
    ngram: Annotated[int, Field(ge=3)] = Field(10, description="words in a row that are compared")
    share: Annotated[Fraction, Field(gt=0)] = Field(
        0.5, description="share of an evaluation problem's n-grams from which it counts as contained"
    )


class CurateConfig(Section):
    """A whole curation."""

    name: str = Field(pattern=f"^{SOURCE.pattern}$")
    out: Path = Field(description="folder of the set")
    sources: dict[str, SourceSection] = Field(
        min_length=1, description="by name; of duplicates the one of the earlier source stays"
    )
    rules: RulesSection = RulesSection()
    verify: VerifySection = VerifySection()
    duplicates: DuplicatesSection | None = Field(DuplicatesSection(), description="null: duplicates stay")
    contamination: ContaminationSection = ContaminationSection()
    workers: PositiveInt = 2
    worker_memory_megabytes: PositiveInt = Field(4096, description="address space of one worker")
    rows_per_unit: PositiveInt = Field(1000, description="what one worker does at a time, and is not repeated")
    rows_per_part: PositiveInt = Field(20_000, description="of one file of the set")

    @model_validator(mode="after")
    def _names(self) -> CurateConfig:
        for name in (*self.sources, *self.contamination.sets):
            if not SOURCE.fullmatch(name):
                raise ValueError(f"source {name!r}: a name has letters, digits, dots, dashes and underscores only")
        return self

    @model_validator(mode="after")
    def _programs_fit_in_workers(self) -> CurateConfig:
        if self.verify.code.memory_megabytes > self.worker_memory_megabytes:
            raise ValueError(
                f"verify: code.memory_megabytes {self.verify.code.memory_megabytes} is above "
                f"worker_memory_megabytes {self.worker_memory_megabytes}, within which programs run"
            )
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> CurateConfig:
        # Imported here: adapters and rules build on the sections above.
        from megatron_srpo.data.curate.adapters import ADAPTERS
        from megatron_srpo.data.curate.process import RULE_NAMES

        for name, source in self.sources.items():
            if source.adapter not in ADAPTERS:
                raise ValueError(
                    f"sources: {name} has the adapter {source.adapter!r}; known are {', '.join(ADAPTERS)}"
                )
        for rule in self.rules.skip:
            if rule not in RULE_NAMES:
                raise ValueError(f"rules: skip names {rule!r}; the rules are {', '.join(RULE_NAMES)}")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the result: all but the folder and the number and size of workers, as JSON values."""
        values = self.model_dump(mode="json", exclude={"out", "workers", "worker_memory_megabytes"})
        # Of two duplicates the one of the earlier source stays.
        return {**values, "order": list(self.sources)}


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> CurateConfig:
    """Read a config with `key=value` overrides; raises SrpoError naming the file and the key."""
    return load_checked(CurateConfig, path, overrides)
