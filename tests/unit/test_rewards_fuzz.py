"""Every text is scored; the tool does it a hundred thousand times (docs/results.md), here a few thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "fuzz_rewards.py"


def test_random_and_adversarial_texts_are_all_scored() -> None:
    command = [sys.executable, str(TOOL), "--count", "3000", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert (done.returncode, found["errors"], found["count"]) == (0, [], 3000)
    assert found["right"] > 10 and found["well formed"] > 300
    assert all(found["components"][name] > 50 for name in ("format", "language", "repetition"))
