"""Reading evaluation sets, which must not be trained on."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_srpo.data.curate.config import ContaminationSection
from megatron_srpo.data.curate.contamination import EvaluationIndex
from megatron_srpo.data.curate.draft import BadRow
from megatron_srpo.data.curate.process import columns_of
from megatron_srpo.data.curate.sources import chunks
from megatron_srpo.errors import SrpoError

ROWS = 1000


def read_evaluation(section: ContaminationSection) -> EvaluationIndex:
    """The n-grams of all evaluation sets; raises SrpoError naming the set when one cannot be read."""
    return EvaluationIndex(_problems(section), section.ngram, section.share)


def _problems(section: ContaminationSection) -> Iterator[tuple[str, str]]:
    for name, of in section.sets.items():
        rows = 0
        for chunk in chunks(of, ROWS):
            rows += chunk.size
            for number, row in enumerate(chunk.rows(), chunk.first):
                where = f"contamination.sets.{name}, {of.path}: row {number + 1}"
                try:
                    text = columns_of(row).get(of.column)
                except BadRow as error:
                    raise SrpoError(f"{where}: {error}.") from None
                if not isinstance(text, str) or not text.strip():
                    raise SrpoError(f"{where}: expected text in column {of.column!r}, found {text!r:.60}.")
                yield f"{name}/{number}", text
        if not rows:  # else nothing would be found, and nobody would know why
            raise SrpoError(f"contamination.sets.{name}, {of.path}: there are no rows in it.")
