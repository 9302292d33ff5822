"""Evaluation problems are found in other texts, as a plain search finds them."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.data.curate.contamination import EvaluationIndex, Match
from megatron_srpo.data.curate.keys import word_hashes, words

PROBLEM = r"Let $x$ be a real number with \(x^2 + 3x = 10\). Find the sum of all possible values of $x$, squared."


def match(index: EvaluationIndex, text: str) -> Match | None:
    of = words(text)
    return index.match(of, word_hashes(of))


def plain(problems: list[tuple[str, str]], text: str, ngram: int, share: float) -> set[tuple[str, float]]:
    """All best matches, by sets of tuples of words."""
    of = words(text)
    digits = [word for word in of if word[0].isdigit()]
    grams = {tuple(of[at : at + ngram]) for at in range(len(of) - ngram + 1)}
    found = {}
    for name, problem in problems:
        its = words(problem)
        theirs = {tuple(its[at : at + ngram]) for at in range(len(its) - ngram + 1)}
        wanted = [word for word in its if word[0].isdigit()]
        if theirs and not any(wanted == list(some) for some in combinations(digits, len(wanted))):
            continue
        if theirs:
            found[name] = len(theirs & grams) / len(theirs)
        elif its and its == of:
            return {(first, 1.0) for first, other in problems if words(other) == its}
    best = max(found.values(), default=0.0)
    return {(name, best) for name, value in found.items() if value == best} if best and best >= share else set()


TEXTS = st.lists(st.sampled_from(["a", "b", "7", "+"]), max_size=14).map(" ".join)


@settings(max_examples=300)
@given(st.lists(TEXTS, max_size=6), TEXTS, st.integers(3, 5), st.sampled_from([0.2, 0.5, 1.0]))
def test_it_finds_what_a_plain_search_finds(texts: list[str], text: str, ngram: int, share: float) -> None:
    problems = [(f"set/{number}", problem) for number, problem in enumerate(texts)]
    found = match(EvaluationIndex(problems, ngram, share), text)
    expected = plain(problems, text, ngram, share)
    assert (found is None) == (not expected)
    assert found is None or (found.problem, found.share) in expected


FOUND = {
    "itself": PROBLEM,
    "in capitals": PROBLEM.upper().replace(r"\(", "").replace(r"\)", ""),
    "other delimiters": PROBLEM.replace("$", "").replace(r"\(", "$").replace(r"\)", "$"),
    "other punctuation": PROBLEM.replace(".", " ;").replace(",", " -- ".replace("-", ":")),
    "with a story around it": f"Tom asks you a question that he has read in a book. {PROBLEM} Answer in words.",
    "cut at the end": PROBLEM[:-20],
    "other spaces": PROBLEM.replace("x^2 + 3x = 10", "x^2+3x=10").replace(" ", "\n "),
}
NOT_FOUND = {
    "another number": "Let y be a natural number with y^2 = 16. Find the product of all values of y.",
    "one sentence of it": "Find the sum of all possible values of x.",
    "nothing": "",
}


@pytest.mark.parametrize("name", FOUND)
def test_the_form_does_not_matter(name: str) -> None:
    found = match(EvaluationIndex([("other/0", "a b c " * 9), ("aime/3", PROBLEM)], 10, 0.5), FOUND[name])
    assert found is not None and found.problem == "aime/3" and 0.5 <= found.share <= 1


@pytest.mark.parametrize("name", NOT_FOUND)
def test_others_are_not_found(name: str) -> None:
    assert match(EvaluationIndex([("aime/3", PROBLEM)], 10, 0.5), NOT_FOUND[name]) is None


def test_a_short_problem_matches_only_itself() -> None:
    index = EvaluationIndex(
        [("short/0", "Compute $2+2$."), ("short/1", "compute 2 + 2"), ("none/0", "?.")], 10, 0.5
    )
    assert match(index, "COMPUTE 2+2") == Match("short/0", 1.0)
    assert match(index, "Compute 2+2 and then 3+3") is None
    assert match(index, "") is None and match(index, "?") is None
    assert len(index) == 1


def test_no_sets_find_nothing() -> None:
    assert match(EvaluationIndex([], 10, 0.5), PROBLEM) is None


def test_of_equal_matches_the_first_is_named() -> None:
    assert match(EvaluationIndex([("b/0", PROBLEM), ("a/0", PROBLEM)], 10, 0.5), PROBLEM) == Match("b/0", 1.0)
