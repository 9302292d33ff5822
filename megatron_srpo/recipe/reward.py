"""The recipe's rewards: what a response earns, and the limits under which it is judged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from megatron_srpo.recipe.section import (
    Fraction,
    PositiveFloat,
    PositiveInt,
    Section,
)
from megatron_srpo.rewards.scripts import LANGUAGES

AnswerFormat = Literal["think_answer", "answer", "boxed"]
SandboxLevel = Literal["namespaces", "landlock", "seccomp"]

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_URL = re.compile(r"https?://[^/?#\s]+(/[^?#\s]*)?")
ImportPath = Annotated[str, Field(pattern=_IMPORT_PATH.pattern, description="package.module:function")]


class MathSection(Section):
    """How a response to a problem with a reference answer is judged."""

    fallback: Literal["none", "last_number"] = Field(
        "none", description="where the asked form holds no answer; last_number: the last number after the thinking"
    )
    tolerance: Fraction = Field(
        1e-4, description="relative; between a decimal and a reference that no short decimal can write, as 1/3"
    )
    seconds: PositiveFloat = Field(10.0, description="deadline of one response; to miss it is an error")


class CodeSection(Section):
    """How a program is judged, and what it may use."""

    credit: Literal["all", "share"] = Field(
        "all", description="share: the share of the test cases that pass, times reward.accuracy"
    )
    seconds: PositiveFloat = Field(4.0, description="processor time of one test case")
    program_seconds: PositiveFloat = Field(16.0, description="processor time of one program over all test cases")
    patience: Annotated[float, Field(ge=1)] = Field(
        3.0, description="wall clock that a program may take, as a multiple of these seconds"
    )
    memory_megabytes: PositiveInt = Field(512, description="address space of one program")
    output_megabytes: PositiveFloat = Field(4.0, description="what one test case may print or return")


class SandboxSection(Section):
    """Where programs run."""

    backend: Literal["local", "sandbox_fusion"] = "local"
    require: SandboxLevel | None = Field(
        None, description="the weakest isolation that is accepted; none: the best that this machine has"
    )
    url: str | None = Field(None, description="of the SandboxFusion server, as http://host:8080")
    retries: Annotated[int, Field(ge=0)] = Field(3, description="of one request to the remote sandbox")
    python: Path | None = Field(
        None, description="interpreter of the programs, with its installed packages; none: ours, without any"
    )
    preload: tuple[str, ...] = Field((), description="modules of that interpreter to import beforehand")
    files_megabytes: PositiveInt = Field(16, description="what a program may write, into memory")
    threads: PositiveInt = Field(8, description="of one program")

    @model_validator(mode="after")
    def _backend_has_what_it_needs(self) -> SandboxSection:
        if self.backend == "sandbox_fusion" and self.url is None:
            raise ValueError("sandbox: backend sandbox_fusion needs url, the address of the server")
        if self.url is not None and not _URL.fullmatch(self.url):
            raise ValueError(f"sandbox: url must be like http://host:8080 or https://host, found {self.url!r}")
        if self.backend == "sandbox_fusion" and self.require is not None:
            raise ValueError("sandbox: require is about the local backend; a remote server isolates as it does")
        if self.preload and self.python is None:
            raise ValueError("sandbox: preload names modules of sandbox.python; set it")
        return self


class LanguageSection(Section):
    """The penalty for mixing languages in what is neither mathematics nor code."""

    penalty: float = -0.2
    expected: tuple[str, ...] = Field(
        (),
        description="ISO 639 codes, as en, of languages that may be used and mixed; "
        "none: the one that a response is mostly written in",
    )
    share: Fraction = Field(0.1, description="share of the letters in another language from which it is mixing")
    min_letters: PositiveInt = Field(
        40,
        description="responses with fewer letters of prose are not judged; "
        "a Chinese, Japanese or Korean character counts as two",
    )

    @model_validator(mode="after")
    def _codes(self) -> LanguageSection:
        for code in self.expected:
            if code not in LANGUAGES:
                known = ", ".join(sorted(LANGUAGES))
                raise ValueError(
                    f"language: expected holds {code!r}, which is none of the languages known: {known}"
                )
        return self


class RepetitionSection(Section):
    """The penalty for saying the same again and again; off unless `penalty` is set."""

    penalty: float = 0.0
    words: PositiveInt = Field(
        20,
        description="length of the word sequences that are counted; a digit, a mark and a character of a script "
        "without spaces, as Chinese, count as words",
    )
    share: Fraction = Field(0.3, description="share of repeated sequences from which it is repetition")


class FunctionSection(Section):
    """A reward function of your own; see docs/rewards.md."""

    path: ImportPath
    arguments: dict[str, Any] = Field({}, description="keyword arguments")
    seconds: PositiveFloat = Field(10.0, description="added to the deadline of one response")


class ComponentSection(FunctionSection):
    """A reward function that adds to the total."""

    weight: float = 1.0


class RewardSection(Section):
    """What a response earns: accuracy times `accuracy`, and what its form, language and so on add to it."""

    accuracy: float = 1.0
    broken_format: float = -0.5
    answer_format: AnswerFormat = "think_answer"
    judge: FunctionSection | None = Field(
        None, description="decides accuracy (0 to 1; 1 is right) instead of the built-in judges"
    )
    functions: dict[str, ComponentSection] = Field({}, description="further components of the reward, by name")
    math: MathSection = MathSection()
    code: CodeSection = CodeSection()
    sandbox: SandboxSection = SandboxSection()
    language: LanguageSection = LanguageSection()
    repetition: RepetitionSection = RepetitionSection()
    workers: PositiveInt = 2
    worker_memory_megabytes: PositiveInt = Field(4096, description="address space of one worker")
    alarm_error_share: Fraction = Field(
        0.02, description="share of a step's responses that could not be judged from which the run warns"
    )

    @property
    def least(self) -> float:
        """The smallest sum of penalties; what a response earns that could not be judged, so that none seeks it."""
        penalties = (self.broken_format, self.language.penalty, self.repetition.penalty)
        return sum(min(penalty, 0.0) for penalty in penalties)

    @model_validator(mode="after")
    def _programs_fit_in_workers(self) -> RewardSection:
        if self.code.memory_megabytes > self.worker_memory_megabytes:
            raise ValueError(
                f"code: memory_megabytes {self.code.memory_megabytes} is above worker_memory_megabytes "
                f"{self.worker_memory_megabytes}, within which programs run; raise that one too"
            )
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> RewardSection:
        for name in self.functions:
            if not name.isidentifier() or name in BUILT_IN:
                raise ValueError(f"functions: {name!r} must be an identifier other than {', '.join(BUILT_IN)}")
        return self


BUILT_IN = ("accuracy", "format", "language", "repetition", "error")
"""Names of the components that are always there."""
