"""Where rows are."""

from __future__ import annotations

from pydantic import Field

from megatron_srpo.recipe.section import Section


class Place(Section):
    """A file, some files, a folder in the layout of the hub, or a set on the hub."""

    path: str = Field(description="file or pattern of files (parquet, json, jsonl, arrow), folder, or hub name")
    split: str = Field("train", description="of a folder or a set on the hub")
    subset: str | None = Field(None, description="of a set on the hub; also called config")
    revision: str | None = Field(None, description="of a set on the hub; none: the newest when it begins")
