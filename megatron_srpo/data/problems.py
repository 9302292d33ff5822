"""Problems and their prompts: reading data files, rendering the template, turning text into tokens.

Files are read with Hugging Face `datasets` from local disk.  Its streaming reader imports torch, and its
default cache would leave a copy in the home directory, so files are read into memory through a cache folder
that is gone afterwards.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_srpo.data.code_tests import parse_tests
from megatron_srpo.data.problem import Problem
from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.recipe.model_folder import load_tokenizer

if TYPE_CHECKING:
    from megatron_srpo.recipe.schema import Recipe

REQUIRED = ("id", "prompt")
JUDGES = ("answer", "tests")  # at least one of them
DOMAINS = ("math", "code")
PARQUET = (".parquet",)
JSON = (".json", ".jsonl")
NO_ROWS = "the file has no rows; at least one problem is needed."


def load_problems(path: Path) -> list[Problem]:
    """The problems of a parquet, json or jsonl file, in the file's order.

    Raises:
        SrpoError: naming file, row (counted from 1) and column for a missing file or column, an empty or
            wrongly typed field, an unknown domain, a math problem without answer or with tests, a code
            problem without tests, or an id that stands twice.
    """
    check_columns(path)
    problems = collect_problems(enumerate(read_rows(path), 1), path)
    if not problems:
        raise SrpoError(f"{path}: {NO_ROWS}")
    return problems


def collect_problems(rows: Iterable[tuple[int, Mapping[str, Any]]], path: Path) -> list[Problem]:
    """Rows, each with its number in `path`, as problems with different ids; raises as `load_problems`."""
    problems: list[Problem] = []
    numbers: dict[str, int] = {}
    for number, values in rows:
        problem = problem_of(values, f"{path}: row {number}")
        if problem.id in numbers:
            raise SrpoError(
                f"{path}: row {number}, column id: {problem.id!r} already stands in row {numbers[problem.id]}; "
                "ids must be unique."
            )
        numbers[problem.id] = number
        problems.append(problem)
    return problems


def check_columns(path: Path, required: Sequence[str] = REQUIRED) -> None:
    """The file exists, has a known suffix and, for parquet, the required columns and any rows; reads none.

    Raises:
        SrpoError: naming the file and what is missing.
    """
    if not path.is_file():
        raise SrpoError(f"{path}: there is no such data file (looked for {path.absolute()}).")
    if path.suffix in JSON:
        return  # the columns show when the rows are read
    if path.suffix not in PARQUET:
        raise SrpoError(f"{path}: unknown kind of data file; expected {', '.join(PARQUET + JSON)}.")
    import pyarrow
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise SrpoError(f"{path}: not a readable parquet file ({one_line(error)}).") from None
    _require(path, metadata.schema.to_arrow_schema().names, required)
    if metadata.num_rows == 0:
        raise SrpoError(f"{path}: {NO_ROWS}")


def _require(path: Path, names: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in names]
    if not any(name in names for name in JUDGES):
        missing.append(JUDGES[0])
    if missing:
        raise SrpoError(
            f"{path}: the column {' and the column '.join(missing)} is missing; needed are {', '.join(required)} "
            f"and {' or '.join(JUDGES)}, found {', '.join(names) or 'none'}."
        )


def read_rows(path: Path, required: Sequence[str] = REQUIRED) -> list[dict[str, Any]]:
    """All rows of the file, as `datasets` reads them; raises SrpoError when it has not the required columns."""
    # Imported here: it takes a second, which commands that read no data should not pay.
    import datasets
    from datasets.exceptions import DatasetGenerationError

    read = datasets.Dataset.from_parquet if path.suffix in PARQUET else datasets.Dataset.from_json
    with tempfile.TemporaryDirectory(prefix="srpo-data-") as cache, quiet():
        try:
            table = read(str(path), cache_dir=cache, keep_in_memory=True)
        except StopIteration:  # of its JSON reader, for an empty file
            raise SrpoError(f"{path}: {NO_ROWS}") from None
        except (DatasetGenerationError, OSError, ValueError) as error:
            cause = error.__cause__ or error
            raise SrpoError(f"{path}: the rows cannot be read ({one_line(cause)}).") from None
        _require(path, table.column_names, required)
        rows: list[dict[str, Any]] = table.to_list()
    return rows


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's progress bars and log lines: what went wrong is in the exception."""
    from datasets.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def problem_of(values: Mapping[str, Any], where: str) -> Problem:
    """One row, checked; raises SrpoError that begins with `where`."""
    tests = text_of(values, "tests", where) or ""
    domain = domain_of(values, where)
    texts = {name: _needed(values, name, where) for name in ("id", "prompt")}
    read_answer = _needed if domain == "math" else text_of
    if domain == "math" and tests.strip():
        raise SrpoError(f"{where}, column tests: a math problem has none; empty it, or set domain to code.")
    if domain == "code" and not tests.strip():
        raise SrpoError(f"{where}, column tests: a code problem needs tests, found none.")
    return Problem(
        **texts,
        answer=read_answer(values, "answer", where) or "",
        domain=domain,
        source=text_of(values, "source", where) or "",
        difficulty=text_of(values, "difficulty", where),
        meta=_meta(values.get("meta"), where),
        tests=parse_tests(tests, f"{where}, column tests") if domain == "code" else None,
    )


def domain_of(values: Mapping[str, Any], where: str) -> str:
    """The domain of a row, by its tests where it states none; raises SrpoError that begins with `where`."""
    tests = text_of(values, "tests", where) or ""
    domain = text_of(values, "domain", where) or ("code" if tests.strip() else "math")
    if domain not in DOMAINS:
        raise SrpoError(f"{where}, column domain: unknown domain {domain!r}; expected {' or '.join(DOMAINS)}.")
    return domain


def _needed(values: Mapping[str, Any], name: str, where: str) -> str:
    """A text that must be there."""
    value = text_of(values, name, where)
    if value is None:
        raise SrpoError(f"{where}, column {name}: expected text, found nothing.")
    if not value.strip():
        raise SrpoError(f"{where}, column {name}: the text is empty.")
    return value


def text_of(values: Mapping[str, Any], name: str, where: str) -> str | None:
    """A text, or None where the row or the whole file has none."""
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        advice = " Write it as JSON text (json.dumps)." if isinstance(value, dict | list) else ""
        raise SrpoError(
            f"{where}, column {name}: expected text, found {value!r:.80}, of type {type(value).__name__}.{advice}"
        )
    return value


def pass_rate_of(values: Mapping[str, Any], where: str) -> float | None:
    """The share of right responses, or None before grading; raises SrpoError that begins with `where`."""
    value = values.get("pass_rate")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise SrpoError(f"{where}, column pass_rate: expected a number from 0 to 1, found {value!r:.80}.")
    return float(value)


def _meta(value: Any, where: str) -> Mapping[str, Any]:
    """Free notes of a problem: an object, or JSON text of one."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise SrpoError(f"{where}, column meta: not valid JSON ({error}).") from None
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise SrpoError(f"{where}, column meta: expected an object, found {type(value).__name__}.")
    return value


class PromptEncoder:
    """Renders problems with the recipe's template and turns text into tokens and back."""

    def __init__(self, tokenizer_file: Path, template: str, max_prompt_tokens: int) -> None:
        """Load the tokenizer.

        Args:
            tokenizer_file: a tokenizer.json.
            template: text in which `{question}` stands for the problem; other braces mean themselves.
            max_prompt_tokens: the longest prompt that is let through.

        Raises:
            SrpoError: when the tokenizer file is missing or cannot be read.
        """
        self._tokenizer = load_tokenizer(tokenizer_file)
        self._template = template
        self._limit = max_prompt_tokens

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> PromptEncoder:
        """The encoder of a run."""
        return cls(
            recipe.model.path / "tokenizer.json",
            recipe.data.prompt_template,
            recipe.rollout.max_prompt_tokens,
        )

    def render(self, problem: Problem) -> str:
        """The prompt as text."""
        # Not str.format: problems and templates are full of LaTeX braces.
        return self._template.replace("{question}", problem.prompt)

    def encode(self, problem: Problem) -> list[int]:
        """The prompt's token ids, nothing added.

        Raises:
            SrpoError: when it is longer than `max_prompt_tokens`.
        """
        return self.encode_all([problem])[0]

    def encode_all(self, problems: Sequence[Problem]) -> list[list[int]]:
        """The token ids of many prompts, in order; call it before a run, so that none fails in its middle.

        Raises:
            SrpoError: for the first prompt that is longer than `max_prompt_tokens`, with how many more are.
        """
        texts = [self.render(problem) for problem in problems]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        prompts: list[list[int]] = [encoding.ids for encoding in encodings]
        long = [at for at, ids in enumerate(prompts) if len(ids) > self._limit]
        if long:
            others = f" ({len(long) - 1} more are too long)" if len(long) > 1 else ""
            longest = max(len(ids) for ids in prompts)
            raise SrpoError(
                f"problem {problems[long[0]].id}: its prompt has {len(prompts[long[0]])} tokens{others}, "
                f"but rollout.max_prompt_tokens is {self._limit}; raise it to {longest} or drop the problem."
            )
        return prompts

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
