"""`srpo checkpoint`: what checkpoints a run has, and whether they are whole."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_srpo.checkpoints.manifest import MANIFEST, checkpoint_folder, checkpoint_versions, files_of
from megatron_srpo.checkpoints.provenance import readable
from megatron_srpo.checkpoints.verify import check_files, check_run
from megatron_srpo.errors import SrpoError


def list_checkpoints(run: Path, console: Console) -> None:
    """Print the checkpoints of a run directory; raises SrpoError when there are none."""
    table = Table("checkpoint", "weights", "optimizer", "files", "layout", "curriculum", box=None)
    for version in _versions(run):
        manifest = readable(checkpoint_folder(run / "checkpoints", version))
        if manifest is None:
            table.add_row(f"step-{version:06d}", "broken")
            continue
        layout, curriculum = manifest.layout, manifest.run.curriculum if manifest.run is not None else None
        table.add_row(
            f"step-{version:06d}",
            _size(manifest.weights.bytes),
            _size(manifest.optimizer.bytes),
            f"{len(manifest.files)}, {_size(sum(entry.size for entry in manifest.files.values()))}",
            f"tp {layout.tensor}, pp {layout.pipeline}, dp {layout.data}, ep {layout.expert}"
            + (f", cp {layout.context}" if layout.context > 1 else ""),
            f"{curriculum.steps} steps" if curriculum is not None else "none",
        )
    console.print(table)


def verify(path: Path, console: Console) -> None:
    """Read every byte of a checkpoint, or of all of a run, and compare it with the manifest.

    Raises:
        SrpoError: naming the first file that is not as it was written, after a line for each checkpoint.
    """
    if not path.is_dir():
        raise SrpoError(f"{path}: there is no such folder (looked for {path.absolute()})")
    if (path / MANIFEST).exists():
        found = {path.name: _problems(path)}
    else:
        found = {f"step-{version:06d}": check_run(path, version) for version in _versions(path)}
    for name, problems in found.items():
        console.print(f"{name}: {'whole' if not problems else 'broken'}")
        for problem in problems:
            console.print(f"  {problem}", soft_wrap=True, markup=False)
    broken = {name: problems for name, problems in found.items() if problems}
    if broken:
        is_way_back = list(found)[-1] in broken and len(broken) < len(found)
        raise SrpoError(
            f"{path}: {len(broken)} of {len(found)} checkpoints broken, {', '.join(broken)}; restore the files "
            "named above"
            + (", or set checkpoint.fall_back=true to go on from a whole one before" if is_way_back else "")
        )


def _problems(folder: Path) -> list[str]:
    try:
        return check_files(folder, files_of(folder))
    except SrpoError as error:
        return [str(error)]


def _versions(run: Path) -> list[int]:
    versions = checkpoint_versions(run / "checkpoints")
    if not versions:
        raise SrpoError(f"{run}: no checkpoints; expected {run / 'checkpoints'}/step-*, give a run directory")
    return versions


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
