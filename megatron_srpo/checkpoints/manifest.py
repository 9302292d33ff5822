"""The manifest that makes a folder a checkpoint.

    checkpoints/step-000020/                 weights, optimizer, schedule, random states, the recipe
    checkpoints/step-000020/manifest.json    what they are, and the checksum of every file
    checkpoints/saving-000040/               being written
    checkpoints/dropping-000000/             being removed

The number is the weight version: how many steps the weights have been trained on, so also the first step that
must be trained next.  Invariants:

1. a folder `step-*` appears by rename, when every file of it is on disk and its manifest was written last;
2. it disappears by rename, before the first of its files is removed;
3. the manifest has a checksum of itself, so no byte of a checkpoint can change unnoticed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import xxhash
from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.files import is_inside, replace_file

MANIFEST = "manifest.json"
CHECKSUM = "manifest_xxh3_128"
_NAME = re.compile(r"^step-(\d{6,})$")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class FileEntry(_Part):
    """Length in bytes and XXH3-128 of a file."""

    size: int
    xxh3_128: str


def _of_the_folder(name: str) -> str:
    if not is_inside(name):
        raise ValueError(f"{name!r} is no file of the folder")
    return name


Files = dict[Annotated[str, AfterValidator(_of_the_folder)], FileEntry]


class Tensors(_Part):
    """How many global tensors there are, and their bytes."""

    tensors: int
    bytes: int


class Layout(_Part):
    """The ranks that wrote the checkpoint; any other layout can load it."""

    tensor: int
    pipeline: int
    data: int
    expert: int = 1
    context: int = 1

    @property
    def ranks(self) -> int:
        """How many there were; experts are spread over a stage's."""
        return self.tensor * self.pipeline * self.context * self.data


class JournalPosition(_Part):
    """The journal at this version: steps trained on, and the checksum of the last one's file."""

    steps: int
    last_step_xxh3_128: str | None


class CurriculumState(_Part):
    """The curriculum's snapshot of this version: steps folded and the digest of its state."""

    steps: int
    xxh3_128: str


class RunFacts(_Part):
    """What the controller knows of the run at this version; `curriculum` is none where steps are replayed."""

    model: str
    model_fingerprint: str
    recipe_xxh3_128: str
    journal: JournalPosition
    curriculum: CurriculumState | None


class Manifest(_Part):
    """Everything that the state of a run needs, by name."""

    format: Literal[1] = 1
    kind: Literal["training"] = "training"
    weight_version: int
    written_by: dict[str, str]
    layout: Layout
    weights: Tensors
    optimizer: Tensors
    scheduler: dict[str, Any]
    rng: str
    run: RunFacts | None
    files: Files

    def write(self, folder: Path) -> None:
        """Put it in the folder, with its own checksum; the last file of a checkpoint."""
        replace_file(folder / MANIFEST, sealed(self.model_dump(mode="json")))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a checkpoint; raises SrpoError naming it when it is missing or not as it was written."""
        values = read_sealed(folder / MANIFEST)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SrpoError(
                f"{folder / MANIFEST}: is not one of a training checkpoint of this version of megatron_srpo "
                f"({where}: {first['msg']})"
            ) from None


def files_of(folder: Path) -> dict[str, FileEntry]:
    """The files of a checkpoint of a run or of a conversion; raises SrpoError as `Manifest.read` does."""
    try:
        return TypeAdapter(Files).validate_python(read_sealed(folder / MANIFEST)["files"])
    except (KeyError, ValidationError) as error:
        raise SrpoError(f"{folder / MANIFEST}: names no files with their checksums ({one_line(error)})") from None


def sealed(values: dict[str, Any]) -> bytes:
    """A JSON object with a checksum of the rest as its last value."""
    return _text({**values, CHECKSUM: xxhash.xxh3_128_hexdigest(_text(values))})


def read_sealed(path: Path) -> dict[str, Any]:
    """The values that `sealed` was given; raises SrpoError when a byte of the file has changed."""
    try:
        content = path.read_bytes()
        values = json.loads(content)
        seal = values.pop(CHECKSUM)
    except FileNotFoundError:
        raise SrpoError(f"{path}: is missing, and without it the folder is no checkpoint") from None
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise SrpoError(f"{path}: is damaged or not a checkpoint's manifest ({one_line(error)})") from None
    if seal != xxhash.xxh3_128_hexdigest(_text(values)) or content != sealed(values):
        raise SrpoError(f"{path}: is damaged, its content does not fit its checksum")
    return dict(values)


def _text(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode() + b"\n"


def checkpoint_folder(root: Path, version: int) -> Path:
    """Where the checkpoint of a weight version lies."""
    return root / f"step-{version:06d}"


def checkpoint_versions(root: Path) -> list[int]:
    """Weight versions of the checkpoints, whole or damaged, oldest first."""
    if not root.exists():
        return []
    return sorted(int(match.group(1)) for path in root.iterdir() if (match := _NAME.match(path.name)))
