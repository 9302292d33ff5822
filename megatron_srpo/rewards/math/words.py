"""Answers that are words: yes, Monday, the letter of a choice."""

from __future__ import annotations

import re

from megatron_srpo.rewards.math.tokens import WORDS

_NUMERALS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMERALS = {word: str(value) for value, word in enumerate(_NUMERALS.split())}
# Between two digits white space is no white space: 12 15 is not 1215.
SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
CHOICE = re.compile(r"\(?\s*([A-Ja-j])\s*[).:]?")
# The letter, then perhaps what the choice says.
CHOSEN = re.compile(r"(?:(?:option|choice|answer)\s+)?(\(?)\s*([A-Ja-j])\s*([).:]*)(\s+[^()]*)?", re.IGNORECASE)
ANOTHER = re.compile(r"\b(?:or|and|not)\b|(?<!\w)[A-J][).:]")
# Any other two or three letters are a product.
SHORT_WORDS = ("no", "yes", "odd", "one", "two", "six", "ten", "all", "red", "sun", "mon", "am", "pm")
ARTICLES = ("a", "an", "the")
PROSE = re.compile(r"[^\W\d_]+(?:[\s'’.,-]+[^\W\d_]+)*[.!]?")  # noqa: RUF001


def without_number_words(text: str) -> str:
    """A small number that is a word, in digits."""
    return NUMERALS.get(text.replace("«", "").replace("»", "").strip().lower(), text)


def squeezed(text: str) -> str:
    """A tidy text without white space that means nothing."""
    return SPACE.sub("", text.replace("«", "").replace("»", ""))


def words_agree(answer: str, gold: str) -> bool | None:
    """Whether two texts of words are the same; None where the reference is mathematics.

    Args:
        answer: tidy.
        gold: tidy.
    """
    answer_plain, gold_plain = _plain(answer), _plain(gold)
    letter = CHOICE.fullmatch(gold_plain)
    if letter is not None and (letter[1].isupper() or len(gold_plain) > 1):
        return _same_choice(answer_plain, letter[1])
    if not _is_prose(gold_plain, marked="«" in gold):
        return None
    return _meaning(answer_plain) == _meaning(gold_plain)


def _meaning(text: str) -> list[str]:
    """The words that tell answers apart: without articles, `there are`, and the plural of the last one."""
    words = _words(text)
    if words[:1] == ["there"] and words[1:2] in (["is"], ["are"]):
        words = words[2:]
    words = [word for word in words if word not in ARTICLES] or words
    last = words[-1] if words else ""
    return [*words[:-1], last[:-1]] if len(last) > 4 and last.endswith("s") and not last.endswith("ss") else words


def _plain(text: str) -> str:
    return " ".join(text.replace("«", " ").replace("»", " ").split()).strip("*")


def _same_choice(answer: str, letter: str) -> bool | None:
    chosen = CHOSEN.fullmatch(answer)
    if chosen is None:
        return None
    bracket, choice, closing, rest = chosen.groups()
    if rest and (not closing or ANOTHER.search(rest)):
        return None
    if bracket and ")" not in closing:
        return False
    return bool(choice.upper() == letter.upper())


def _is_prose(text: str, marked: bool) -> bool:
    """Whether a text is words; two letters, or a name that mathematics knows, are only when marked as text."""
    if not PROSE.fullmatch(text):
        return False
    words = _words(text)
    if text.lower() in WORDS:
        return False
    return marked or any(len(word) > 3 or word in SHORT_WORDS for word in words)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
