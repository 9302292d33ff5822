"""What texts are compared by: words, windows of words, MinHash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.data.curate.keys import numbers, signature, text_hash, windows, word_hashes, words

MASK = 2**64 - 1
FACTOR = 0x9E3779B97F4A7C15
SAME = {
    "case": ("Find the LARGEST prime", "find the largest PRIME"),
    "punctuation": ("Find it, please: now.", "find it please now"),
    "dollars": ("Let $x = 3$.", "Let x=3"),
    "parentheses of latex": (r"Let \(x=3\) and \[y=4\]", "Let $x=3$ and $$y=4$$"),
    "spaces": ("x=3", "x  =\n3"),
    "spaces in a list": ("the points (3,4) and (13,14)", "the points (3, 4) and (13, 14)"),
    "spaces of latex": (r"\int\!f\,dx\;=\:1", r"\int f dx = 1"),
    "sizes": (r"\left( a \right) \bigl[b\bigr] \Bigg(c\Bigg)", "( a ) [b] (c)"),
    "styles": (r"\displaystyle \mathrm{cm} \text{if}", "cm if"),
    "fractions": (r"\dfrac{1}{2} \tfrac{1}{2}", r"\frac{1}{2} \frac{1}{2}"),
    "thousands": ("It costs 1,234,567 or 1,000.5", "it costs 1234567 or 1000.5"),
    "line breaks of latex": (r"x=1\\y=2", r"x=1 \\ y=2"),
    "currency": (r"It costs \$5", "It costs $5"),
}
DIFFERENT = {
    "numbers": ("2 + 3", "2 + 4"),
    "operators": ("2 + 3", "2 - 3"),
    "commands": (r"\sin x", r"\cos x"),
    "order": ("dogs eat cats", "cats eat dogs"),
    "decimals": ("3.5", "35"),
    "digits of other scripts": ("٣ + ٤", "٣ + ٥"),
    "scripts": ("求最大值", "求最小值"),
    "a list that is no thousand": ("3,4", "34"),
    "exponent": ("2^3", "2 3"),
    "factorial": ("5!", "5"),
}


@pytest.mark.parametrize("name", SAME)
def test_marks_around_formulas_mean_nothing(name: str) -> None:
    one, other = SAME[name]
    assert words(one) == words(other) != []


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_carries_meaning_stays(name: str) -> None:
    one, other = DIFFERENT[name]
    assert words(one) != words(other)


def test_numbers_keep_their_order_and_do_not_depend_on_commas_or_spaces() -> None:
    assert numbers(words("From (3,4) to (13, 14): 1,000 or 2.5 steps")) == ["3", "4", "13", "14", "1000", "2.5"]
    assert numbers(words("no number x2y at all")) == ["2"]


@given(st.text(), st.text())
def test_words_of_any_text_are_lower_case_and_joinable(one: str, other: str) -> None:
    assert words(f"{one}\n{other}") == words(one) + words(other) or one.endswith("\\")
    assert all(word and not word[0].isspace() for word in words(one))


def plain_windows(hashes: list[int], size: int) -> list[int]:
    """The same, said in whole numbers."""
    found = []
    for at in range(len(hashes) - size + 1):
        value = 0
        for one in hashes[at : at + size]:
            value = (value * FACTOR + one) & MASK
        value ^= value >> 32
        value = value * FACTOR & MASK
        found.append(value ^ value >> 29)
    return found


@given(st.lists(st.integers(0, MASK), max_size=20), st.integers(1, 12))
def test_windows_are_what_whole_numbers_say(hashes: list[int], size: int) -> None:
    assert windows(np.array(hashes, np.uint64), size).tolist() == plain_windows(hashes, size)


@given(st.text(st.characters(codec=None)))
def test_the_hash_of_a_text_takes_surrogates(text: str) -> None:
    assert text_hash(text) == xxhash.xxh3_64(text.encode("utf-8", "surrogatepass")).intdigest()


def test_hashes_are_the_same_in_another_process() -> None:
    code = (
        "from megatron_srpo.data.curate.keys import *;"
        "print(signature(word_hashes(words('Find the largest prime factor of 91.')), 64).tolist())"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    here = signature(word_hashes(words("Find the largest prime factor of 91.")), 64).tolist()
    assert run.stdout.strip() == str(here)


def plain_signature(hashes: list[int], permutations: int) -> list[int]:
    """The least value of each permutation over all words and pairs, by datasketch one value at a time."""
    from datasketch import MinHash

    minhash = MinHash(num_perm=permutations, scheme="affine32", hashfunc=int)
    for value in (*plain_windows(hashes, 1), *plain_windows(hashes, 2)):
        minhash.update(value >> 32)
    return [int(value) for value in minhash.hashvalues]


@settings(max_examples=30)
@given(st.lists(st.integers(0, MASK), max_size=12), st.sampled_from([64, 128, 256]))
def test_the_signature_is_that_of_words_and_pairs(hashes: list[int], permutations: int) -> None:
    assert signature(np.array(hashes, np.uint64), permutations).tolist() == plain_signature(hashes, permutations)


@pytest.mark.parametrize("text", ["", "7", "7 8", "?!.,", "x " * 5000])
def test_every_text_has_a_signature(text: str) -> None:
    found = signature(word_hashes(words(text)), 64)
    assert found.dtype == np.uint32 and found.shape == (64,)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.9])
def test_the_estimate_is_unbiased(share: float) -> None:
    generator = np.random.default_rng(5)
    size, trials, permutations = 60, 60, 128
    estimates, exact = [], []
    for _ in range(trials):
        one = generator.integers(0, 2**64, size, np.uint64)
        other = one.copy()
        other[int(size * share) :] = generator.integers(0, 2**64, size - int(size * share), np.uint64)
        sets = [set(windows(hashes, 3).tolist()) for hashes in (one, other)]
        exact.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
        estimates.append(np.mean(signature(one, permutations) == signature(other, permutations)))
    # The mean of 60 estimates of 128 values each strays by at most 0.006; five times that is no accident.
    assert abs(np.mean(estimates) - np.mean(exact)) < 5 * 0.5 / np.sqrt(trials * permutations)
    assert np.std(np.array(estimates) - exact) < 0.09
