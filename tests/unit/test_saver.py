"""What a save needs before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megatron_srpo.actor import saver
from megatron_srpo.actor.saver import Saver
from megatron_srpo.recipe.schema import CheckpointSection


def test_leftovers_go_before_another_rank_can_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks meet when the group is made: one that is faster may have written its file before we are back."""

    def new_group(**_: Any) -> None:
        (tmp_path / "saving-000001").mkdir()

    monkeypatch.setattr(saver, "dist", SimpleNamespace(get_rank=lambda: 0, new_group=new_group))
    for name in ("saving-000007", "dropping-000003"):
        (tmp_path / name).mkdir()
    actor: Any = SimpleNamespace(platform=SimpleNamespace(device=torch.device("cpu")))
    Saver(tmp_path, CheckpointSection(), actor)
    assert [path.name for path in tmp_path.iterdir()] == ["saving-000001"]
