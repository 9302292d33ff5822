"""What a process that has ended is quoted with."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_srpo.launch.process import GuardedProcess

WARNING = "/a/b.py:70: UserWarning: Apex is not installed.\n  warnings.warn(\n"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "(none)"),
        ("ready\n", "ready"),
        (WARNING, "(none)"),
        (f"ready\n{WARNING}{WARNING}", "ready"),
        (f"{WARNING}ready\n", "ready"),
        (f"Traceback ...\n  at\nValueError: bad\n{WARNING}more\n", "ValueError: bad"),
        ("/a/b.py:1: FutureWarning: without a source line\nready\n", "ready"),
    ],
)
def test_last_words(tmp_path: Path, log: str, words: str) -> None:
    (tmp_path / "log").write_text(log)
    assert GuardedProcess("it", (), {}, tmp_path / "log").last_words() == words
