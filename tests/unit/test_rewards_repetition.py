"""The judge of repetition: loops are seen, ordinary text is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.recipe.reward import RepetitionSection
from megatron_srpo.rewards.repetition import repetition
from tests.unit.language_texts import ENGLISH, PURE

SECTION = RepetitionSection()
LETTERS = st.text("abc", min_size=1, max_size=60)


@pytest.mark.parametrize(
    "text",
    [
        "Wait, let me check. " * 500,
        "a" * 10_000,
        "!" * 10_000,
        "abc" * 3000,
        "0" * 10_000,
        "让我再检查一遍。" * 100,
        "もう一度確認します" * 100,
        "ตรวจสอบอีกครั้ง" * 100,
        "WAIT, no. Wait, NO. " * 200,
        "😀" * 5000,
        "\n".join(text for _, text in PURE.values()) + "And so on, " * 1000,
    ],
    ids=lambda text: text[:12],
)
def test_loops_are_seen(text: str) -> None:
    assert repetition(text, SECTION) > 0.6


TABLE = "\n".join(f"| {i} | {i * i} | {i**3} | {i**3 % 7} |" for i in range(1, 200))


@pytest.mark.parametrize("text", [*(text for _, text in PURE.values()), TABLE, "Yes. " * 9, "a" * 300])
def test_ordinary_texts_tables_and_short_ones_are_not(text: str) -> None:
    assert repetition(text, SECTION) < 0.02


def test_a_problem_restated_once_is_not() -> None:
    solution = " ".join(text for language, text in PURE.values() if language == "en")
    assert 0 < repetition(ENGLISH + ENGLISH + solution, SECTION) < SECTION.share


@pytest.mark.parametrize(
    ("text", "words", "share"),
    [
        ("a b c", 3, 0.0),
        ("a b c", 4, 0.0),
        ("a b a b", 2, 1 / 3),
        ("a b a b", 1, 2 / 4),
        ("a b c a b c", 3, 1 / 4),
        ("a b c d e a b c d e", 5, 1 / 6),
        ("a b c d e x b c d e", 5, 0.0),
        ("A a", 1, 1 / 2),
        ("ab", 1, 0.0),
        ("aab", 1, 0.0),
        ("1213", 1, 1 / 4),
        ("一二一", 1, 1 / 3),
        ("x一x", 1, 1 / 3),
        ("a, b, c", 1, 1 / 5),
        ("", 1, 0.0),
    ],
)
def test_the_share_of_repeated_sequences(text: str, words: int, share: float) -> None:
    assert repetition(text, RepetitionSection(words=words)) == pytest.approx(share)


@given(LETTERS, st.integers(1, 12))
@settings(deadline=None)
def test_it_counts_the_sequences_that_were_there_before(letters: str, length: int) -> None:
    all_of_them = [letters[i : i + length] for i in range(len(letters) - length + 1)]
    repeated = sum(one in all_of_them[:i] for i, one in enumerate(all_of_them))
    found = repetition(" ".join(letters), RepetitionSection(words=length))
    assert found == pytest.approx(repeated / len(all_of_them) if all_of_them else 0.0)


@given(st.text())
@settings(deadline=None)
def test_any_text_is_judged(text: str) -> None:
    assert 0 <= repetition(text + "\ud800\x00", RepetitionSection(words=3)) < 1


@pytest.mark.timeout(60)
def test_long_sequences_take_no_longer() -> None:
    assert repetition("a b " * 250_000, RepetitionSection(words=200_000)) > 0.9
