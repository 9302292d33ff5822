"""Strategies on hand-made outcomes, and the chance of a mixed group against exact numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_srpo.curriculum.keys import argsort, mixed, prompt_keys, uniforms
from megatron_srpo.curriculum.outcomes import Outcomes
from megatron_srpo.curriculum.strategies import (
    Dynamic,
    Everything,
    History,
    Predictive,
    Strategy,
    build_strategy,
    mixed_probability,
)
from tests.unit.curriculum.world import build_recipe

KEYS = prompt_keys(["new", "solved", "mixed", "wrong", "long solved"])


def outcomes() -> Outcomes:
    """Of KEYS behind epoch 4: the last was solved in epoch 1."""
    found = Outcomes.unknown(5)
    for index, epoch, correct in [(1, 4, 8), (2, 4, 3), (3, 4, 0), (4, 1, 8)]:
        found.record(index, epoch, correct, 8, 0.5)
    return found


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Everything(), [1, 1, 1, 1, 1]),
        (Dynamic(), [1, 1, 1, 1, 1]),
        (History(None, 0.0), [1, 0, 1, 1, 0]),
        (History(4, 0.0), [1, 0, 1, 1, 0]),
        (History(3, 0.0), [1, 0, 1, 1, 1]),
        (History(0, 0.0), [1, 1, 1, 1, 1]),
        (History(None, 1.0), [1, 1, 1, 1, 1]),
        (Predictive(0.5, 0.5, 1.0, 8), [1, 1, 1, 1, 1]),
    ],
)
def test_choices_by_hand(strategy: Strategy, expected: list[int]) -> None:
    assert strategy.chooses(outcomes(), KEYS, 5, "salt").tolist() == [bool(value) for value in expected]


def test_all_correct_is_of_the_newest_group_only() -> None:
    found = Outcomes.unknown(2)
    for epoch, correct in ((0, 8), (1, 7)):
        found.record(0, epoch, correct, 8, 1.0)
        found.record(1, epoch, 15 - correct, 8, 1.0)
    assert found.all_correct.tolist() == [False, True]


def test_evidence_fades_by_the_epochs_between() -> None:
    found = Outcomes.unknown(1)
    found.record(0, 2, 6, 8, 0.5)
    assert (found.successes[0], found.failures[0]) == (6, 2)
    found.record(0, 4, 1, 8, 0.5)
    assert (found.successes[0], found.failures[0]) == (6 / 4 + 1, 2 / 4 + 7)
    assert (found.last_epoch[0], found.correct[0], found.samples[0]) == (4, 1, 8)


@pytest.mark.parametrize(("correct", "kept"), [(0, False), (1, True), (7, True), (8, False)])
def test_kept_groups(correct: int, kept: bool) -> None:
    assert Dynamic().keeps(correct, 8) is kept
    for strategy in (Everything(), History(None, 0.0), Predictive(0.5, 0.5, 0.1, 8)):
        assert strategy.keeps(correct, 8)


def exact_mixed(alpha: Fraction, beta: Fraction, samples: int) -> Fraction:
    """1 - P(all) - P(none) of the Beta-binomial, out of rising factorials."""

    def rising(value: Fraction) -> Fraction:
        product = Fraction(1)
        for j in range(samples):
            product *= value + j
        return product

    return 1 - (rising(alpha) + rising(beta)) / rising(alpha + beta)


@given(
    st.integers(1, 200).map(lambda n: Fraction(n, 4)),
    st.integers(1, 200).map(lambda n: Fraction(n, 4)),
    st.integers(1, 64),
)
def test_mixed_probability_is_the_beta_binomials(alpha: Fraction, beta: Fraction, samples: int) -> None:
    one = [np.array([float(value)], np.float32) for value in (alpha, beta)]
    found = mixed_probability(*one, samples)
    assert found.dtype == np.float32
    assert found[0] == pytest.approx(float(exact_mixed(alpha, beta, samples)), abs=3e-6)


def test_mixed_probability_leaves_its_arguments_alone() -> None:
    alpha, beta = np.full(3, 0.5, np.float32), np.full(3, 2, np.float32)
    mixed_probability(alpha, beta, 8)
    assert alpha.tolist() == [0.5] * 3
    assert beta.tolist() == [2] * 3


def test_predictive_draws_by_the_chance_of_a_mixed_group() -> None:
    """Shares of 4000 prompts each, by hand: epoch 5, forgetting 0.5, prior 0.5, 8 samples."""
    size = 4000
    keys = prompt_keys([str(number) for number in range(4 * size)])
    found = Outcomes.unknown(4 * size)
    for kind, (epoch, correct) in enumerate([(4, 8), (4, 4), (1, 8)]):
        for index in range(kind * size, (kind + 1) * size):
            found.record(index, epoch, correct, 8, 0.5)
    chosen = Predictive(0.5, 0.5, 0.05, 8).chooses(found, keys, 5, "salt").reshape(4, size).mean(axis=1)
    half = Fraction(1, 2)
    unknown = exact_mixed(half, half, 8)
    expected = [
        float(exact_mixed(half + 4, half, 8) / unknown),
        1.0,
        1.0,  # what is known has faded so far that the chance is above that of an unknown prompt
        1.0,
    ]
    assert exact_mixed(half + half, half, 8) > unknown
    assert chosen[1] == chosen[2] == chosen[3] == 1
    assert chosen == pytest.approx(expected, abs=0.03)
    least = Predictive(0.5, 1.0, 0.6, 8).chooses(found, keys, 5, "salt")[:size].mean()
    assert least == pytest.approx(0.6, abs=0.03)


def test_predictive_works_in_chunks_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = Predictive(0.5, 0.5, 0.1, 8)
    whole = [strategy.chooses(outcomes(), KEYS, epoch, "salt").tolist() for epoch in range(5, 30)]
    monkeypatch.setattr("megatron_srpo.curriculum.strategies._CHUNK", 2)
    assert [strategy.chooses(outcomes(), KEYS, epoch, "salt").tolist() for epoch in range(5, 30)] == whole
    assert len({tuple(row) for row in whole}) > 1


@pytest.mark.parametrize("prior", [1e-9, 1e-4, 1e6])
def test_predictive_draws_a_prompt_without_a_past_whatever_the_prior(prior: float) -> None:
    assert Predictive(prior, 0.5, 0.1, 8).chooses(Outcomes.unknown(5), KEYS, 0, "salt").all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("none", Everything), ("dynamic", Dynamic), ("history", History), ("predictive", Predictive)],
)
def test_the_recipe_names_the_strategy(name: str, kind: type) -> None:
    recipe = build_recipe(
        strategy=name, history={"readmit_after": 2, "easy_pool": 0.25}, predictive={"exploration": 0.3}
    )
    found = build_strategy(recipe.curriculum, 4)
    assert type(found) is kind
    if isinstance(found, History):
        assert found == History(2, 0.25)
    if isinstance(found, Predictive):
        assert found == Predictive(0.5, 0.5, 0.3, 4)


def test_random_numbers_belong_to_prompt_and_salt() -> None:
    keys = prompt_keys([str(number) for number in range(20_000)])
    assert len(np.unique(keys)) == len(np.unique(mixed(keys, "salt", 1))) == 20_000
    np.testing.assert_array_equal(uniforms(keys, "salt", 1)[::7], uniforms(keys[::7], "salt", 1))
    first, second = uniforms(keys, "salt", 1), uniforms(keys, "salt", 2)
    assert first.min() >= 0
    assert first.max() < 1
    for values in (first, second):
        counts, _ = np.histogram(values, bins=20, range=(0, 1))
        assert abs(counts - 1000).max() < 150
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


_HIGH_AND_LOW = st.tuples(st.integers(0, 2**64 - 1).map(lambda n: n >> 60 << 60), st.integers(0, 40))


@given(st.lists(_HIGH_AND_LOW.map(sum), unique=True, max_size=200))
def test_argsort_of_numbers_that_are_alike_but_for_low_bits(values: list[int]) -> None:
    array = np.array(values, np.uint64)
    assert argsort(array).tolist() == np.argsort(array).tolist()


def test_ids_may_be_arrow_strings() -> None:
    ids = [f"prompt-{number}-\u00e9" for number in range(70_000)]
    keys = prompt_keys(ids)
    for array in (
        pa.array(ids),
        pa.array(ids, pa.large_string()),
        pa.chunked_array([ids[:7], ids[7:]]),
        pa.array(["x", *ids])[1:],
    ):
        np.testing.assert_array_equal(prompt_keys(array), keys)
