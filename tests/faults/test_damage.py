"""Files of a run that are cut or changed: a sentence that names the file, and the run goes on with a good one."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_srpo.curriculum.curriculum import Curriculum
from megatron_srpo.curriculum.restore import CurriculumStore
from megatron_srpo.data.sources import load_source
from megatron_srpo.errors import SrpoError
from megatron_srpo.recipe.load import load_recipe
from megatron_srpo.rollout.journal import Journal, read_step
from tests.faults.conftest import Undisturbed
from tests.faults.fingerprint import differences, fingerprint
from tests.faults.lives import Life, sentence_of


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def flip(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


def empty(content: bytes, chance: random.Random) -> bytes:
    return b""


def zeros(content: bytes, chance: random.Random) -> bytes:
    """What a machine that lost its power leaves of a file that was not synced."""
    return bytes(len(content))


DAMAGES = [cut, flip, empty, zeros]


@pytest.fixture
def run_dir(undisturbed: Undisturbed, tmp_path: Path) -> Path:
    """The undisturbed run as if its last step were still open, and behind the last snapshot of the curriculum."""
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed.run_dir, run_dir, ignore=shutil.ignore_patterns("model", "tensorboard", "logs"))
    (run_dir / "finished.json").unlink()
    (run_dir / "curriculum" / "step-000005.npz").unlink()
    shutil.rmtree(run_dir / "checkpoints" / "step-000005")
    journal, last = Journal(run_dir / "rollouts"), run_dir / "rollouts" / "step-000004.parquet"
    rows = read_step(last)
    last.unlink()
    for group in range(2):
        journal.append([row for row in rows if row.group == group])
    return run_dir


def restored(undisturbed: Undisturbed, run_dir: Path) -> dict[str, bytes]:
    """What a start reads of the journal and the curriculum."""
    recipe, journal = load_recipe(undisturbed.recipe), Journal(run_dir / "rollouts")
    ids = {name: [one.id for one in load_source(source)] for name, source in recipe.train_sources.items()}
    curriculum, store = Curriculum(recipe, ids), CurriculumStore(run_dir, journal)
    store.restore(curriculum)
    found = {name: array.tobytes() for name, array in curriculum.state_dict().items()}
    found["stage"] = f"{curriculum.stage_name} {curriculum.ended}".encode()
    found["open"] = repr(store.open_groups(curriculum.steps)).encode()
    found["trained again"] = repr([read_step(journal.step_path(step)) for step in journal.closed_steps()]).encode()
    return found


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name",
    [
        "rollouts/step-000003.parquet",
        "rollouts/step-000000.parquet",
        "rollouts/open/step-000004/group-00001.parquet",
        "rollouts/stage-000003.json",
        "curriculum/step-000004.npz",
    ],
)
def test_damage_is_seen_before_anything_is_learned_from_it(
    undisturbed: Undisturbed, run_dir: Path, name: str, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    """Or it was harmless: what is read is what was written."""
    if name.startswith("rollouts/stage"):  # what is read is the switch before the open step
        (run_dir / "rollouts/step-000003.parquet").unlink()
    file, chance = run_dir / name, random.Random(name)
    content, before = file.read_bytes(), restored(undisturbed, run_dir)
    refused = 0
    for _ in range(40 if damage in (cut, flip) else 1):
        file.write_bytes(damage(content, chance))
        try:
            assert restored(undisturbed, run_dir) == before
        except SrpoError as error:
            assert file.name in str(error)
            refused += 1
        file.write_bytes(content)
    assert refused
    assert restored(undisturbed, run_dir) == before


def failure(undisturbed: Undisturbed, run_dir: Path) -> str:
    return sentence_of(*Life(undisturbed.recipe, run_dir).end()[::2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("recipe.yaml", b""),
        ("recipe.yaml", b"steps: [\xff"),
        ("metrics.jsonl", b'{"step": 0}\n{"st\n{"step": 2}\n'),
        ("finished.json", b'{"weight_version": '),
    ],
)
def test_a_start_names_the_damaged_file(
    undisturbed: Undisturbed, tmp_path: Path, name: str, damaged: bytes
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed.run_dir, run_dir)
    if name != "finished.json":
        (run_dir / "finished.json").unlink()
    (run_dir / name).write_bytes(damaged)
    assert f"{run_dir / name}" in failure(undisturbed, run_dir)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_when_the_damage_is_mended(undisturbed: Undisturbed, run_dir: Path) -> None:
    """A step to be folded, then a cut checkpoint; a torn last line of metrics costs nothing."""
    (run_dir / "curriculum/step-000004.npz").unlink()
    checkpoint = max(path for path in (run_dir / "checkpoints/step-000004").glob("*.distcp"))
    for file in (run_dir / "rollouts/step-000003.parquet", checkpoint):
        content = file.read_bytes()
        file.write_bytes(content[:-1000])
        assert str(file.name) in failure(undisturbed, run_dir)
        file.write_bytes(content)
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:4]) + lines[4][:40])
    code, _, err = Life(undisturbed.recipe, run_dir).end()
    assert code == 0, err
    assert not differences(fingerprint(run_dir), undisturbed.fingerprint)
