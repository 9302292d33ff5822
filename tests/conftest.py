"""Fixtures and options shared by all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from tests.support import make_tiny_hf

# Tests assert no times: a busy machine must not fail them.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine-python",
        default=str(REPOSITORY / ".venv-engine" / "bin" / "python"),
        help="interpreter that has sglang installed (default: %(default)s)",
    )


@pytest.fixture(scope="session")
def engine_python(request: pytest.FixtureRequest) -> Path:
    """The interpreter that has SGLang; the test is skipped where it is missing."""
    python = Path(request.config.getoption("--engine-python"))
    if not python.exists():
        pytest.skip(f"{python} is missing: run `make setup` or give --engine-python")
    return python


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function (architecture="qwen2", tied=False, seed=0, ...) -> folder of a tiny model, made once."""
    made: dict[tuple[tuple[str, object], ...], Path] = {}

    def get(**options: object) -> Path:
        key = tuple(sorted(options.items()))
        if key not in made:
            made[key] = make_tiny_hf(tmp_path_factory.mktemp("tiny_hf"), **options)  # type: ignore[arg-type]
        return made[key]

    return get
