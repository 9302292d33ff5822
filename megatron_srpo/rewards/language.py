"""Does a response mix languages?

Scripts come first: Chinese characters in an English text are another language whatever a classifier says.
Within one script a classifier (py3langid) tells the languages apart, sentence by sentence, and what it is not
sure of counts as the main language: a penalty must not hit names, terms and formulas.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain, groupby
from typing import NamedTuple

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from megatron_srpo.recipe.reward import LanguageSection
from megatron_srpo.rewards.prose import prose
from megatron_srpo.rewards.scripts import SAME, SCRIPT_OF, SCRIPTS

UNKNOWN = "und"  # ISO 639 for a language that is not determined

# Answers of the classifier that are no verdict: not a language, and Latin (quod erat demonstrandum).  Without
# them it would be almost sure of Catalan or French there.
DECOYS = ("zxx", "la")
KIN = frozenset((*SAME, *SAME.values()))
SURE = 0.9  # probability from which the classifier is believed
EVIDENCE_LETTERS = 12  # with fewer it is rarely sure, and then of a name
UNSURE_LETTERS = 60  # sentences that it is not sure of are looked at together, up to this length
SEGMENT_LETTERS = 300  # at most, so that text without sentences is still looked at piece by piece

FEWEST_FOREIGN_LETTERS = 20  # less is a name or a quotation, however short the response
GLOSS_LETTERS = 18  # in brackets, in quotes or before a bracket, as in 孙子 (Sun Tzu)
PASSAGE_WORDS = 4  # so many ordinary Latin words in a row are a passage, fewer are a term: `the chain rule`
ENCLOSED_PASSAGE_WORDS = 7  # the same in brackets, where a term is translated
TERM_SHARE = 0.25  # of the letters; a text with more Latin terms than this alternates between languages
TERM_LETTERS = 4  # a shorter word is a variable or an operator: ab, mod
HAN_SENTENCE = 12  # characters; Han alone is Chinese from here, less may be a Japanese term
KANA_SHARE = 0.1  # of a sentence's Han and Kana, from which it is Japanese

LONGEST_WORD = 40  # letters; longer is no word of a script with spaces
# Functions and units that are written like words; no evidence of any language.
OPERATORS = (
    "(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|lg|exp|max|min|sup|inf|lim|det|dim|ker|deg|mod|div|gcd|lcm|arg|sgn"
    "|[kcmn]m|[km]g|ml"
)
# Three letters beside an operator are variables, as in ab + cd = ef; a hyphen is not one.
OPERATOR = r"[=+*/^<>|≤≥≠≈≡×·÷±∈→⇒⟹−]"
# One letter of an alphabet is a variable, while one of Chinese can be a word.
PATTERNS = {name: f"[{script.ranges}]{'++' if name == 'cjk' else '{2,}+'}" for name, script in SCRIPTS.items()}
# A Greek word has an accent or is long; αβγ is a product.
ACCENTED = r"\u0300\u0301\u0386\u0388-\u0390\u03ac-\u03b0\u03cc-\u03ce\u1f00-\u1fff"
GREEK = f"[{SCRIPTS['greek'].ranges}]"
PATTERNS["greek"] = f"(?:(?![{ACCENTED}]){GREEK})*+[{ACCENTED}]{GREEK}*+|{GREEK}{{5,}}+"
LATIN = PATTERNS.pop("latin") + f"(?:['’][{SCRIPTS['latin'].ranges}]++)*+"
TOKEN = re.compile(
    r"(?![ \t0-9,])(?:"  # only for speed: these start none
    rf"(?P<symbol>(?=[A-Za-z])(?<![A-Za-z])(?:[A-Za-z]{{1,3}}(?= ?{OPERATOR})|(?:{OPERATORS})(?![A-Za-z])"
    rf"|(?:(?<={OPERATOR})|(?<={OPERATOR} ))[A-Za-z]{{1,3}}(?![A-Za-z])|[A-Za-z]{{{LONGEST_WORD + 1},}}+))"
    rf"|(?P<latin>{LATIN})"
    r"|(?P<stop>[.!?:](?=\s)|[\n。！？；：…।؟۔])"
    r"|(?P<bracket>[()\[\]（）【】「」『』《》\"“”„‘«»*])|"
    + "|".join(rf"(?P<{name}>{pattern})" for name, pattern in PATTERNS.items())
    + ")"
)
STOP = ""  # stands among a run's words where a sentence ends
KANA = re.compile(r"[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f]")


@dataclass(frozen=True)
class Mixing:
    """What languages a response is written in."""

    share: float
    """Of the letters of its prose, those in another language than the main or the expected ones."""
    main: str
    """The language that most is written in; `und` where that is not known."""
    languages: Mapping[str, float]
    """The share of each language that was found, the largest first."""
    letters: int
    """Of prose; a Chinese, Japanese or Korean character counts as two."""
    mixing: bool
    """Whether the share is large enough, and the prose long enough, for the penalty."""


@dataclass
class Run:
    """Words of one script in a row."""

    script: str
    words: list[str] = field(default_factory=list)
    after_bracket: bool = False
    before_bracket: bool = False

    @cached_property
    def letters(self) -> int:
        """The length, in Latin letters."""
        return SCRIPTS[self.script].weight * sum(map(len, self.words))


class Piece(NamedTuple):
    """A piece of prose in one language; None: not known."""

    script: str
    letters: int
    language: str | None


def mixing(response: str, section: LanguageSection) -> Mixing:
    """The languages of a response's prose, and whether it mixes them.

    Mathematics, code, markup, names and terms are in no language.  Prose whose language is not sure counts as
    written in the main one.  The first call in a process loads the classifier, which takes half a second.
    """
    expected = tuple(SAME.get(code, code) for code in section.expected)
    runs = list(_runs(prose(response)))
    home = {SCRIPT_OF[code] for code in expected} or _main_script(runs)
    pieces = list(_pieces(_without_terms(runs, home)))
    main = _main_language(pieces, home, expected)
    native = expected or (main,)
    counts: Counter[str] = Counter()
    foreign = 0
    for script, length, language in pieces:
        counts[language or (main if script in home else UNKNOWN)] += length
        if language not in native and (language is not None or script not in home):
            foreign += length
    letters = counts.total()
    share = foreign / letters if letters else 0.0
    return Mixing(
        share=share,
        main=main,
        languages={code: count / letters for code, count in counts.most_common()},
        letters=letters,
        mixing=share >= section.share and letters >= section.min_letters and foreign >= FEWEST_FOREIGN_LETTERS,
    )


def _main_script(runs: Iterable[Run]) -> set[str]:
    """The script that most is written in, as a set; empty where nothing is."""
    counts: Counter[str] = Counter()
    for run in runs:
        counts[run.script] += run.letters
    return {script for script, _ in counts.most_common(1)}


def _main_language(pieces: Iterable[Piece], home: set[str], expected: tuple[str, ...]) -> str:
    """The language that most is written in, among the expected ones or else those of the main script."""
    counts: Counter[str] = Counter()
    for script, length, language in pieces:
        if language is not None and (language in expected if expected else script in home):
            counts[language] += length
    return max(counts, key=counts.__getitem__, default=expected[0] if expected else UNKNOWN)


def _runs(text: str) -> Iterator[Run]:
    """The words of a text, by runs of one script."""
    run: Run | None = None
    bracket = False
    for token in TOKEN.finditer(text):
        kind, word = str(token.lastgroup), token.group()
        if kind == "bracket":
            bracket = True
        elif kind == "stop":
            if run is not None:
                run.words.append(STOP)
        elif kind != "symbol":
            if run is None or run.script != kind:
                if run is not None:
                    run.before_bracket = bracket
                    yield run
                run = Run(kind, after_bracket=bracket)
            run.words.append(word)
            bracket = False
    if run is not None:
        run.before_bracket = bracket
        yield run


def _without_terms(runs: list[Run], home: set[str]) -> list[Run]:
    """The runs that say which languages are mixed: not names, glosses, and terms in a script that is not home."""
    kept = [run for run in runs if run.script in home or not _is_term(run)]
    terms = [run for run in runs if run.script == "latin" and run.script not in home and _is_term(run)]
    foreign = sum(len(word) for run in terms for word in run.words if _is_ordinary(word, TERM_LETTERS))
    if foreign < TERM_SHARE * (foreign + sum(run.letters for run in kept)):
        return kept
    return kept + [run for run in terms if any(_is_ordinary(word, TERM_LETTERS) for word in run.words)]


def _is_term(run: Run) -> bool:
    """Whether a run among words of another script is a name, a term or its translation."""
    if run.script == "latin":
        ordinary = sum(_is_ordinary(word, 2) for word in run.words)
        enclosed = run.after_bracket and run.before_bracket
        return ordinary < (ENCLOSED_PASSAGE_WORDS if enclosed else PASSAGE_WORDS)
    return run.before_bracket and run.letters <= GLOSS_LETTERS


def _is_ordinary(word: str, letters: int) -> bool:
    """Whether a word is neither a name nor an abbreviation, and has so many letters."""
    return len(word) >= letters and _in_small_letters(word)


def _in_small_letters(word: str) -> bool:
    """Whether a word has no capitals; most scripts have none at all."""
    return word == word.lower()


def _pieces(runs: Iterable[Run]) -> Iterator[Piece]:
    """The languages of runs."""
    by_script: dict[str, list[str]] = {}
    for run in runs:
        by_script.setdefault(run.script, []).extend(run.words)
    for name, words in by_script.items():
        script = SCRIPTS[name]
        if name == "cjk":
            yield from _pieces_of_cjk(words)
        elif len(script.languages) == 1:
            yield Piece(name, script.weight * sum(map(len, words)), script.languages[0])
        else:
            yield from _classified(name, words)


def _pieces_of_cjk(words: list[str]) -> Iterator[Piece]:
    """Japanese where there is Kana; where there is none, Chinese, but beside Japanese only in a long sentence."""
    has_kana = any(map(KANA.search, words))
    for is_stop, group in groupby(words, key=STOP.__eq__):
        sentence = "".join(group)
        language: str | None = "zh"
        if has_kana and len(KANA.findall(sentence)) >= KANA_SHARE * len(sentence):
            language = "ja"
        elif has_kana and len(sentence) < HAN_SENTENCE:
            language = None
        if not is_stop:
            yield Piece("cjk", SCRIPTS["cjk"].weight * len(sentence), language)


def _classified(script: str, words: Iterable[str]) -> Iterator[Piece]:
    """The languages of words in a script of several, by sentences; unsure sentences are looked at together."""
    unsure_letters = 0
    unsure: list[str] = []
    for letters, evidence in _evidence(words):
        language = _language(evidence)
        if language is not None:
            yield Piece(script, letters, language)
            continue
        unsure_letters += letters
        unsure += evidence
        if unsure_letters >= UNSURE_LETTERS:
            yield Piece(script, unsure_letters, _language(unsure))
            unsure_letters = 0
            unsure = []
    if unsure_letters:
        yield Piece(script, unsure_letters, _language(unsure))


def _evidence(words: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """For each sentence, or piece of a long one: its letters, and the words that tell its language."""
    letters = 0
    evidence: list[str] = []
    starts = True
    for word in chain(words, (STOP,)):
        letters += len(word)
        # A capital in the middle of a sentence makes a name (or a noun in German, which has enough others).
        if word != STOP and (starts or _in_small_letters(word)):
            evidence.append(word)
        starts = word == STOP
        if letters and (starts or letters >= SEGMENT_LETTERS):
            # One capitalised word alone is a cell of a table or a heading.
            yield letters, evidence if any(map(_in_small_letters, evidence)) else []
            letters, evidence = 0, []


def _language(words: list[str]) -> str | None:
    """What the classifier is sure of."""
    if sum(map(len, words)) < EVIDENCE_LETTERS:
        return None
    # The classifier normalises the text, in time quadratic in the accents that one letter bears.
    text = " ".join(word[:LONGEST_WORD] for word in words)
    best, probability = _classifier().classify(text)
    if probability < SURE and best in KIN:
        # Not sure which of two relatives, but perhaps that it is one of them.
        best = SAME.get(best, best)
        probability = sum(p for code, p in _classifier().rank(text) if SAME.get(code, code) == best)
    return SAME.get(best, best) if probability >= SURE and best not in DECOYS else None


@cache
def _classifier() -> LanguageIdentifier:
    """The classifier, restricted to the languages that a script alone does not tell."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    ours = {code for script in SCRIPTS.values() if len(script.languages) > 1 for code in script.languages}
    identifier.set_languages((ours | {*SAME, *DECOYS}).intersection(identifier.labels))
    return identifier
