"""Near duplicates, against all pairs compared exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from megatron_srpo.data.curate.duplicates import Twins, _candidates, near_duplicates, same_text
from megatron_srpo.data.curate.keys import Hashes, signature, windows


@dataclass
class Held:
    """Signatures in memory."""

    values: NDArray[np.uint32]

    @property
    def rows(self) -> int:
        return self.values.shape[0]

    @property
    def permutations(self) -> int:
        return self.values.shape[1]

    def read(self, first: int, last: int) -> NDArray[np.uint32]:
        return np.ascontiguousarray(self.values[:, first:last].T)


def texts_of(seed: int, families: int, size: int, changes: list[int]) -> list[Hashes]:
    """Texts as hashes of words: each family has a text of its own and some with so many words changed."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(families):
        base = generator.integers(0, 2**64, size, np.uint64)
        for number in changes:
            text = base.copy()
            places = generator.choice(size, number, replace=False)
            text[places] = generator.integers(0, 2**64, number, np.uint64)
            found.append(text)
    return [found[at] for at in generator.permutation(len(found))]


def exact(one: Hashes, other: Hashes) -> float:
    sets = [{*windows(text, 1).tolist(), *windows(text, 2).tolist()} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def twins_of(texts: list[Hashes], keys: list[int], threshold: float = 0.7, permutations: int = 256) -> Twins:
    values = np.array([signature(text, permutations) for text in texts], np.uint32).reshape(-1, permutations)
    return near_duplicates(Held(values), np.array(keys, np.uint64), threshold)


def components(rows: int, pairs: set[tuple[int, int]]) -> list[int]:
    """The smallest row of each row's component."""
    leader = list(range(rows))
    for _ in range(rows):
        for one, other in pairs:
            leader[one] = leader[other] = min(leader[one], leader[other])
    return leader


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    changes=st.lists(st.sampled_from([0, 0, 1, 2, 40, 80]), min_size=1, max_size=5),
    keys=st.integers(1, 2),
)
def test_clusters_are_those_of_all_pairs(seed: int, changes: list[int], keys: int) -> None:
    texts = texts_of(seed, 4, 120, changes)
    of_keys = [seed % (at + 1) % keys for at in range(len(texts))]
    pairs = set[tuple[int, int]]()
    for one in range(len(texts)):
        for other in range(one):
            similarity = exact(texts[one], texts[other])
            # By construction no pair is near the threshold, where an estimate may say either.
            assert similarity > 0.8 or similarity < 0.5
            if similarity > 0.7 and of_keys[one] == of_keys[other]:
                pairs.add((other, one))
    twins = twins_of(texts, of_keys)
    leader = components(len(texts), pairs)
    assert dict(zip(twins.rows.tolist(), twins.of.tolist(), strict=True)) == {
        row: first for row, first in enumerate(leader) if row != first
    }
    assert np.all(np.diff(twins.rows) > 0) and np.all(twins.similarity >= np.float32(0.7))


def test_the_earliest_of_a_cluster_stays_and_its_similarity_is_told() -> None:
    generator = np.random.default_rng(3)
    one, other = (generator.integers(0, 2**64, 50, np.uint64) for _ in range(2))
    twins = twins_of([other, one, other, one, one], [0] * 5)
    assert twins.rows.tolist() == [2, 3, 4] and twins.of.tolist() == [0, 1, 1]
    assert twins.similarity.tolist() == [1, 1, 1] and twins.like.tolist() == [0, 1, 1]


def test_the_member_that_a_duplicate_is_most_similar_to_is_named() -> None:
    generator = np.random.default_rng(5)
    first = generator.integers(0, 2**64, 120, np.uint64)
    second, third = first.copy(), first.copy()
    second[:12], third[:24] = (generator.integers(0, 2**64, number, np.uint64) for number in (12, 24))
    third[:12] = second[:12]  # as like the second as that is like the first, and less like the first
    twins = twins_of([first, second, third], [0] * 3)
    assert twins.rows.tolist() == [1, 2] and twins.of.tolist() == [0, 0]
    assert twins.like[1] == 1
    values = np.array([signature(text, 256) for text in (first, second, third)])
    for row, like, similarity in zip(twins.rows, twins.like, twins.similarity, strict=True):
        assert similarity == np.mean(values[row] == values[like])


def test_pairs_below_the_threshold_are_only_candidates() -> None:
    texts = texts_of(4, 30, 120, [0, 26])
    similarities = [exact(one, other) for one in texts for other in texts if one is not other]
    assert 0.45 < max(similarities) < 0.6
    assert len(twins_of(texts, [0] * 60).rows) == 0


def test_candidates_are_neighbours_and_the_first() -> None:
    pairs = _candidates(np.array([5, 9, 5, 7, 5, 5, 7], np.uint64)).tolist()
    found = {(pair >> 32, pair & 2**32 - 1) for pair in pairs}
    assert found == {(0, 2), (0, 4), (0, 5), (2, 4), (4, 5), (3, 6)}


def test_equal_keys_are_needed() -> None:
    text = np.arange(50, dtype=np.uint64)
    assert twins_of([text] * 4, [1, 2, 3, 2]).rows.tolist() == [3]
    assert twins_of([text] * 4, [1, 2, 3, 4]).rows.tolist() == []


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_small_worlds(rows: int) -> None:
    texts = [np.arange(10, dtype=np.uint64)] * rows
    steps: list[float] = []
    values = np.array([signature(text, 64) for text in texts], np.uint32).reshape(-1, 64)
    twins = near_duplicates(Held(values), np.zeros(rows, np.uint64), 0.7, steps.append)
    assert twins.rows.tolist() == ([1] if rows == 2 else [])
    assert steps == sorted(steps) and all(0 < step <= 1 for step in steps)


@pytest.mark.parametrize("permutations", [64, 128, 256])
@pytest.mark.parametrize("threshold", [0.31, 0.5, 0.9, 0.99, 1.0])
def test_every_threshold_that_a_config_may_have(threshold: float, permutations: int) -> None:
    texts = texts_of(1, 1, 100, [0, 0, 80, 90])
    assert len(twins_of(texts, [0] * 4, threshold, permutations).rows) == 1


def test_a_large_group_of_the_same_text_is_one_cluster() -> None:
    text = np.arange(40, dtype=np.uint64)
    twins = twins_of([text] * 2000, [5] * 2000, permutations=64)
    assert len(twins.rows) == 1999 and set(twins.of.tolist()) == {0}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=20))
def test_same_text_is_what_a_dictionary_says(rows: list[tuple[int, int]]) -> None:
    groups: dict[int, list[int]] = {}
    for number, (text, _) in enumerate(rows):
        groups.setdefault(text, []).append(number)
    expected = [group for _, group in sorted(groups.items()) if len({rows[row][1] for row in group}) > 1]
    texts, answers = (np.array([row[at] for row in rows], np.uint64) for at in (0, 1))
    assert [group.tolist() for group in same_text(texts, answers)] == expected
