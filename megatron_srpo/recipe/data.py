"""The recipe's data: where problems come from, and which of them are taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from megatron_srpo.recipe.section import Fraction, Section

Difficulty = Literal["easy", "medium", "hard"]

SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names of sources; curation makes ids and folders of them."""


class DataSource(Section):
    """A file or set of problems, and filters by its own columns; without these it is written as a path alone."""

    path: Path = Field(description="a parquet, json or jsonl file, or the folder of a set of problems")
    domain: Literal["math", "code"] | None = Field(None, description="only problems of this domain; none: all")
    difficulty: tuple[Difficulty, ...] | None = Field(
        None, description="only problems graded so by srpo data grade; none: all, graded or not"
    )
    sources: tuple[str, ...] | None = Field(
        None, description="only problems whose column source is one of these; none: all"
    )
    min_pass_rate: Fraction | None = Field(
        None, description="only problems solved in this share of samples or more"
    )
    max_pass_rate: Fraction | None = Field(
        None, description="only problems solved in this share of samples or less"
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            return {"path": value}
        if not isinstance(value, dict | DataSource):
            raise ValueError(
                f"expected the path of a file or set, or a section with path and filters, found {value!r}"
            )
        if isinstance(value, DataSource):
            return value
        # What a validator returns is read as Python's, not as JSON, where a list is a tuple.
        return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}

    @model_validator(mode="after")
    def _something_can_fit(self) -> DataSource:
        for key in ("difficulty", "sources"):
            if getattr(self, key) == ():
                raise ValueError(f"{key} is an empty list, which no problem fits; leave it out to take all")
        least, most = self.min_pass_rate, self.max_pass_rate
        if least is not None and most is not None and least > most:
            raise ValueError(f"min_pass_rate {least} is above max_pass_rate {most}, so no problem has both")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> Any:
        values = {key: value for key, value in handler(self).items() if value is not None}
        return values if len(values) > 1 else values["path"]

    @property
    def filters(self) -> dict[str, Any]:
        """The filters that are set, by their keys."""
        return {key: value for key, value in self if key != "path" and value is not None}

    @property
    def needs_grades(self) -> bool:
        """Whether it chooses by what `srpo data grade` measures."""
        return any(key in self.filters for key in ("difficulty", "min_pass_rate", "max_pass_rate"))

    def __str__(self) -> str:
        """The path, and the filters in words."""
        filters = ", ".join(
            f"{key} {' or '.join(value) if isinstance(value, tuple) else value}"
            for key, value in self.filters.items()
        )
        return f"{self.path} ({filters})" if filters else str(self.path)


class DataSection(Section):
    """Problems to train on and problems that are only measured."""

    train: dict[str, DataSource] = Field(
        min_length=1,
        description="for each source a file with the columns id, prompt, answer (math) or tests (code), the "
        "folder of a set, or path with filters",
    )
    heldout: dict[str, DataSource] = Field({}, description="of the same form, only measured")
    prompt_template: str = Field("{question}", description="text in which {question} stands for the problem")

    @model_validator(mode="after")
    def _well_formed(self) -> DataSection:
        if "{question}" not in self.prompt_template:
            raise ValueError("prompt_template must contain {question}")
        for name in (*self.train, *self.heldout):
            if not SOURCE.fullmatch(name):
                raise ValueError(f"source {name!r}: a name has letters, digits, dots, dashes and underscores only")
        return self
