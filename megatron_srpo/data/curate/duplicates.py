"""Which problems are the same, in memory that does not grow with their texts.

Candidates come from locality-sensitive hashing of MinHash signatures (Broder 1997; Indyk and Motwani 1998), cut
into bands by datasketch's optimal parameters.  Its hash tables would hold every problem as Python objects; here
a band is one array of 64-bit keys for all problems, which is sorted, and neighbours with equal keys are the
candidates.  A second pass over the signatures estimates the similarity of each candidate pair.  So what is held
is some arrays of one number a problem, and the signatures stay on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from datasketch import MinHashLSH
from numpy.typing import NDArray

from megatron_srpo.data.curate.keys import FACTOR, Hashes, mixed

FALSE_POSITIVES, FALSE_NEGATIVES = 0.1, 0.9  # what each weighs; false candidates are only compared, and dropped
HIGHEST_SOUGHT = 0.95  # above it, datasketch finds no bands
Rows = NDArray[np.int64]


class Signatures(Protocol):
    """The signatures of all problems, on disk."""

    @property
    def rows(self) -> int:
        """How many problems there are."""

    @property
    def permutations(self) -> int:
        """How many values a signature has."""

    def read(self, first: int, last: int) -> NDArray[np.uint32]:
        """The values of the permutations `first` to `last`: [last - first, rows]."""


@dataclass(frozen=True)
class Twins:
    """Problems that are near duplicates of an earlier one."""

    rows: Rows
    """The duplicates, ascending."""
    of: Rows
    """For each, the first problem of its cluster, which stays."""
    like: Rows
    """For each, the member of its cluster that is most similar to it, of those that it was compared with."""
    similarity: NDArray[np.float32]
    """For each, the estimated similarity with that one."""


def near_duplicates(
    signatures: Signatures, twin_keys: Hashes, threshold: float, step: Callable[[float], None] = lambda share: None
) -> Twins:
    """Clusters of problems with equal keys and similar texts.

    Args:
        signatures: of all problems, in order of preference.
        twin_keys: only problems with equal keys can be duplicates.
        threshold: least estimated Jaccard similarity.
        step: is told the share of the work that is done.
    """
    sought = min(threshold, HIGHEST_SOUGHT)
    lsh = MinHashLSH(sought, signatures.permutations, weights=(FALSE_POSITIVES, FALSE_NEGATIVES))
    pairs = np.empty(0, np.uint64)
    for band in range(lsh.b):
        found = _candidates(_band_keys(signatures.read(band * lsh.r, (band + 1) * lsh.r), twin_keys))
        pairs = np.union1d(pairs, found)
        step((band + 1) / lsh.b / 2)
    one, other = (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
    agreeing = np.zeros(len(pairs), np.uint16)
    for permutation in range(signatures.permutations if len(pairs) else 0):
        (values,) = signatures.read(permutation, permutation + 1)
        agreeing += values[one] == values[other]
        step(0.5 + (permutation + 1) / signatures.permutations / 2)
    similarity = (agreeing / signatures.permutations).astype(np.float32)
    close = similarity >= threshold
    return _clusters(signatures.rows, one[close], other[close], similarity[close])


def _band_keys(band: NDArray[np.uint32], twin_keys: Hashes) -> Hashes:
    """One key for each problem: of its values in the band and of what twins have in common."""
    keys = twin_keys.copy()
    for values in band:
        keys *= FACTOR
        keys += values
    return mixed(keys)


def _candidates(keys: Hashes) -> Hashes:
    """Pairs of equal keys, the smaller row in the upper half: each with the first of its group and its neighbour.

    A group of n gives at most 2n pairs, not n^2: whoever is similar to the first or to a neighbour is found.
    """
    order = np.argsort(keys, kind="stable").astype(np.uint64)
    ordered = keys[order]
    equal = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    if not len(equal):
        return np.empty(0, np.uint64)
    # The first of each group: where the run of consecutive positions that are equal to the one before begins.
    starts = np.flatnonzero(np.diff(equal, prepend=-1) != 1)
    first = np.repeat(equal[starts] - 1, np.diff(starts, append=len(equal)))
    one = np.concatenate([order[first], order[equal - 1]])
    other = np.concatenate([order[equal], order[equal]])
    return np.unique(one << np.uint64(32) | other)


def _clusters(rows: int, one: Rows, other: Rows, similarity: NDArray[np.float32]) -> Twins:
    """The connected components of the pairs; the first row of each stays."""
    if not len(one):
        none = np.empty(0, np.int64)
        return Twins(none, none, none, np.empty(0, np.float32))
    # Imported here: it takes a third of a second.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(rows, rows))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    leader = first[labels]
    # Each pair from both sides, sorted: the first of each row is its most similar one, of equal ones the earliest.
    row, like, similarity = np.r_[one, other], np.r_[other, one], np.r_[similarity, similarity]
    order = np.lexsort((like, -similarity, row))
    in_pairs, best = np.unique(row[order], return_index=True)
    duplicates = np.flatnonzero(leader != np.arange(rows))
    nearest = order[best[np.searchsorted(in_pairs, duplicates)]]
    return Twins(duplicates, leader[duplicates], like[nearest], similarity[nearest])


def same_text(text_keys: Hashes, answer_keys: Hashes) -> list[Rows]:
    """Groups of problems with the same text but answers that are written differently, rows ascending."""
    order = np.argsort(text_keys, kind="stable")
    ordered = text_keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.int64)
    ends = np.append(starts[1:], len(ordered))
    several = np.flatnonzero(ends - starts > 1)
    groups = (order[starts[at] : ends[at]].astype(np.int64) for at in several)
    return [rows for rows in groups if len(np.unique(answer_keys[rows])) > 1]
