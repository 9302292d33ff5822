"""Whether a checkpoint's files are what its manifest says, byte for byte."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from megatron_srpo.checkpoints.manifest import FileEntry, Manifest, checkpoint_folder
from megatron_srpo.errors import SrpoError
from megatron_srpo.files import checksum

# Reading is mostly waiting; hashing needs a tenth of a core for each gigabyte a second.
THREADS = 4


def check_files(folder: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """One sentence for every file that is missing, has another length or other content."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda item: problem_of(folder / item[0], item[1]), files.items())
        return [problem for problem in found if problem is not None]


def problem_of(path: Path, entry: FileEntry, is_hashed: bool = True) -> str | None:
    """What is wrong with a file, none if nothing is; without hashing only its presence and length count."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return f"{path}: is no file"
        if found.st_size != entry.size:
            return f"{path}: has {found.st_size} bytes, the manifest says {entry.size}"
        if is_hashed and checksum(path) != entry.xxh3_128:
            return f"{path}: is damaged, its content does not fit the manifest's checksum"
    except FileNotFoundError:
        return f"{path}: is missing"
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    return None


def share_of(files: Mapping[str, FileEntry], rank: int, ranks: int) -> dict[str, FileEntry]:
    """The files that one of several processes looks at: all of them together look at each once."""
    loads = [0] * ranks
    mine = {}
    for name, entry in sorted(files.items(), key=lambda item: (-item[1].size, item[0])):
        least = loads.index(min(loads))
        loads[least] += entry.size
        if least == rank:
            mine[name] = entry
    return mine


def check_run(run: Path, version: int) -> list[str]:
    """The problems of one checkpoint of a run, its place in the journal and the curriculum included."""
    folder = checkpoint_folder(run / "checkpoints", version)
    try:
        manifest = Manifest.read(folder)
    except SrpoError as error:
        return [str(error)]
    problems = check_files(folder, manifest.files)
    if manifest.weight_version != version:
        problems.append(f"{folder}: its manifest is of weight version {manifest.weight_version}")
    return [*problems, *check_journal(run / "rollouts", manifest)]


def check_journal(rollouts: Path, manifest: Manifest) -> list[str]:
    """Whether the last step that the weights were trained on is still the one in the journal."""
    position = manifest.run.journal if manifest.run is not None else None
    if position is None or position.last_step_xxh3_128 is None:
        return []
    path = rollouts / f"step-{position.steps - 1:06d}.parquet"
    version = manifest.weight_version
    if not path.exists():
        return [f"{path}: is missing, and the checkpoint of step {version} was trained on it"]
    if checksum(path) != position.last_step_xxh3_128:
        return [f"{path}: is not the file that the checkpoint of step {version} was trained on"]
    return []
