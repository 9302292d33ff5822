"""Problems of evaluation sets, found in the text of others by their n-grams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from megatron_srpo.data.curate.keys import Hashes, numbers, text_hash, windows, word_hashes, words


@dataclass(frozen=True)
class Match:
    """An evaluation problem that a text holds."""

    problem: str
    """Its set and row, as `aime24/7`."""
    share: float
    """Of its n-grams, those that are in the text."""


class EvaluationIndex:
    """Every n-gram of every evaluation problem.

    The numbers of the evaluation problem must be there too, in their order: problems made from one template share
    most of their words, and are other problems.  An evaluation problem of fewer than n words matches only a text
    of the same words: `Compute 2+2` would be found everywhere.
    """

    def __init__(self, problems: Iterable[tuple[str, str]], ngram: int, share: float) -> None:
        """Build it.

        Args:
            problems: name and text of each.
            ngram: words in a row that are compared.
            share: of a problem's n-grams, from which it counts as contained.
        """
        self._ngram, self._share = ngram, share
        self._names: list[str] = []
        self._numbers: list[list[str]] = []
        self._short: dict[int, str] = {}
        hashes, owners, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], []
        for name, text in problems:
            of = words(text)
            grams = np.unique(windows(word_hashes(of), ngram))
            if not len(grams):
                if of:
                    self._short.setdefault(text_hash(" ".join(of)), name)
                continue
            hashes.append(grams)
            owners.append(np.full(len(grams), len(self._names)))
            sizes.append(len(grams))
            self._names.append(name)
            self._numbers.append(numbers(of))
        joined = np.concatenate(hashes)
        order = np.argsort(joined, kind="stable")
        self._hashes, self._owners = joined[order], np.concatenate(owners)[order]
        self._sizes = np.array(sizes, np.int64)

    def __len__(self) -> int:
        return len(self._names) + len(self._short)

    def match(self, of: list[str], hashes: Hashes) -> Match | None:
        """The evaluation problem that most is there of, if it is enough.

        Args:
            of: words of the text.
            hashes: their hashes.
        """
        short = self._short.get(text_hash(" ".join(of))) if self._short and len(of) < self._ngram else None
        if short is not None:
            return Match(short, 1.0)
        if not self._names:
            return None
        grams = np.unique(windows(hashes, self._ngram))
        first = np.searchsorted(self._hashes, grams, "left")
        last = np.searchsorted(self._hashes, grams, "right")
        found = np.flatnonzero(last > first)
        if not len(found):
            return None
        owners = np.concatenate([self._owners[first[at] : last[at]] for at in found])
        shares = np.bincount(owners, minlength=len(self._sizes)) / self._sizes
        known = numbers(of)
        for best in np.argsort(-shares, kind="stable"):
            if shares[best] < self._share:
                return None
            if _in_order(self._numbers[best], known):
                return Match(self._names[best], float(shares[best]))
        return None


def _in_order(some: list[str], others: list[str]) -> bool:
    """Whether some are among the others in the same order, with any between them."""
    rest = iter(others)
    return all(one in rest for one in some)
