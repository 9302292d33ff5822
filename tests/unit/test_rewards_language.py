"""The judge of language mixing: what is pure, what is mixed, and what only looks mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from megatron_srpo.recipe.reward import LanguageSection
from megatron_srpo.rewards.language import DECOYS, _classifier, mixing
from megatron_srpo.rewards.prose import prose
from megatron_srpo.rewards.scripts import LANGUAGES, SAME, SCRIPT_OF, SCRIPTS
from tests.unit.language_texts import CHINESE, ENGLISH, MIXED, PURE, TRICKY

SECTION = LanguageSection()
ENGLISH_ONLY = LanguageSection(expected=("en",))
# Those of which every sentence is known for sure: French and Portuguese ones have one that is not.
SURE = [text for language, text in PURE.values() if language not in ("en", "zh", "ja", "ko", "fr", "pt")]
# What a judge might trip over: other scripts, delimiters, marks, halves of characters.
ODD = st.sampled_from(
    [*"aαж汉かな한عह$`\\()[]{}<>.:;=+*'\n\t 1_\ud800\x00\u202e\u0301", "\\(", "\\begin{align}", "```", "if )"]
)


@pytest.mark.parametrize("name", PURE)
def test_one_language_is_not_mixing(name: str) -> None:
    language, text = PURE[name]
    found = mixing(text, SECTION)
    assert (found.main, found.share, found.mixing) == (language, 0.0, False)


@pytest.mark.parametrize("name", TRICKY)
def test_what_only_looks_mixed_is_not_mixing(name: str) -> None:
    language, text = TRICKY[name]
    found = mixing(text, SECTION)
    assert (found.main, found.mixing) == (language, False)
    assert found.share < SECTION.share


@pytest.mark.parametrize("name", MIXED)
def test_mixing_is_seen(name: str) -> None:
    main, others, text = MIXED[name]
    found = mixing(text, SECTION)
    assert found.mixing
    assert found.main == main
    assert set(found.languages) - {main, "und"} == others - {"und"}
    assert found.share >= sum(found.languages[code] for code in others) - 1e-9


@pytest.mark.parametrize("name", PURE)
def test_a_pure_text_that_is_not_expected_is_foreign(name: str) -> None:
    language, text = PURE[name]
    expected = "de" if language in ("en", "zh", "ru") else "en"
    found = mixing(text, LanguageSection(expected=(expected,)))
    assert found.mixing
    assert found.main == expected
    assert found.share > 0.7
    assert not mixing(text, LanguageSection(expected=(language,))).mixing


@pytest.mark.parametrize("name", ["en-zh-middle", "en-de", "ru-uk", "zh-ja", "ko-zh"])
def test_expected_languages_may_be_mixed(name: str) -> None:
    main, others, text = MIXED[name]
    assert mixing(text, LanguageSection(expected=(main, *others))).share == 0.0
    assert mixing(text, LanguageSection(expected=(main,))).mixing


def test_the_share_is_of_the_letters_and_chinese_counts_double() -> None:
    found = mixing(ENGLISH + "所以答案等于二十四。然后结束。", SECTION)
    english = sum(map(str.isalpha, ENGLISH))
    assert found.letters == english + 26
    assert found.share == pytest.approx(26 / found.letters)
    assert list(found.languages.items()) == [("en", 1 - found.share), ("zh", found.share)]


def test_share_and_length_decide() -> None:
    text = ENGLISH + "所以答案等于二十四。然后结束。"
    found = mixing(text, SECTION)
    assert mixing(text, LanguageSection(share=found.share)).mixing
    assert not mixing(text, LanguageSection(share=found.share + 1e-6)).mixing
    assert mixing(text, LanguageSection(min_letters=found.letters)).mixing
    assert not mixing(text, LanguageSection(min_letters=found.letters + 1)).mixing


def test_a_few_foreign_letters_are_a_name_in_a_short_response() -> None:
    sentence = "So we know that the number which was asked for is {} and we are done."
    section = LanguageSection(share=0.05)
    assert not mixing(sentence.format("计算计算计算计算计"), section).mixing
    assert mixing(sentence.format("计算计算计算计算计算"), section).mixing


def test_a_gloss_is_short_and_beside_a_bracket() -> None:
    sentence = "This is the theorem of {} and it says that the number exists. " + ENGLISH
    assert mixing(sentence.format("秦九韶 (Qin)"), SECTION).share == 0.0
    assert mixing(sentence.format("「秦九韶」"), SECTION).share == 0.0
    assert mixing(sentence.format("秦九韶"), SECTION).share > 0.0
    assert mixing(sentence.format("(Qin) 秦九韶 yes"), SECTION).share > 0.0
    assert mixing(sentence.format("秦九韶秦九韶秦九韶秦 (Qin)"), SECTION).share > 0.0


@pytest.mark.parametrize(
    ("inserted", "foreign"),
    [
        ("the chain rule", False),
        ("by the chain rule", True),
        ("Law of Large Numbers in Probability Theory", False),
        ("(by the chain rule for functions)", False),
        ("(by the chain rule for some functions)", True),
        ("by the chain rule (见上)", True),
    ],
)
def test_a_term_in_chinese_is_short(inserted: str, foreign: bool) -> None:
    found = mixing(CHINESE + f"根据{inserted}可以得到结果。" + CHINESE, SECTION)
    assert (found.share > 0) == foreign


@pytest.mark.parametrize(
    "latin",
    [
        "Nam si numerus est par, tunc quadratum quoque par est, quod erat demonstrandum.",
        "Cuius rei demonstrationem mirabilem sane detexi hanc marginis exiguitas non caperet.",
        "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor",
        "xq zzk wvb jjq pptk rrw bbn qwx vvc mmlk ddfg hhjk ttrp",
        "aaa bbb ccc ddd eee fff ggg hhh iii jjj kkk lll mmm nnn ooo ppp qqq rrr",
    ],
)
def test_latin_and_what_is_no_language_are_not_foreign(latin: str) -> None:
    assert mixing(ENGLISH + latin, SECTION).languages == {"en": 1.0}


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("omnis numerus qui per duos dividi potest par vocatur unde sequitur summam esse parem", "la"),
        ("xq zzk wvb jjq pptk rrw bbn qwx vvc mmlk ddfg hhjk ttrp", "zxx"),
    ],
)
def test_the_classifier_may_answer_what_is_no_verdict(words: str, answer: str) -> None:
    assert _classifier().classify(words)[0] == answer
    assert answer in DECOYS


def test_short_sentences_are_looked_at_together() -> None:
    found = mixing(
        ENGLISH + "Also ist x gerade. Das ist klar. Nun sei n klein. Es ist eins. Wir sind da.", SECTION
    )
    assert found.languages["de"] > 0.15


def test_a_heading_of_han_alone_can_be_japanese() -> None:
    text = f"証明終了。{PURE['ja-seisuu'][1]}最大公約数計算。"
    assert mixing(text, SECTION).languages == {"ja": 1.0}


def test_the_main_language_is_of_the_main_script() -> None:
    words = "zorble frumious quixnar blivet wopple drungar snorfle gimbly plonk. "
    found = mixing(words + "Επομένως το άθροισμα είναι τέσσερα.", SECTION)
    assert found.mixing
    assert found.main == "und"


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("ab + cd = ef * gh", 0),
        ("ab+cd=ef*gh", 0),
        ("we abcd = fghi", 10),
        ("sin x and log y, 5 km or 3 kg", 5),
        ("αβγ + αβγδ", 0),
        ("αριθμ", 5),
        ("και έως", 3),
        ("x y z a I Ш", 0),
        ("计", 2),
        ("𝑥𝑦𝑧 ＡＢＣ ℝℂ", 0),
        ("a" * 40, 40),
        ("a" * 41, 0),
        ("l'angle aujourd'hui", 16),
        ("So 计算 now, and 然后 we are done.", 25),
    ],
)
def test_letters_of_prose(text: str, letters: int) -> None:
    assert mixing(text, SECTION).letters == letters


def test_short_words_in_chinese_are_variables() -> None:
    short = "设 ab 为 cd 的 ef,则 gh 与 ij 的 kl 等于 mn,又 pq 在 rs 上,tu 和 vw 是 xy 中的。"
    assert mixing(short, SECTION).languages == {"zh": 1.0}


def test_unknown_words_of_another_script_are_foreign() -> None:
    found = mixing(
        CHINESE + "zorble frumious, quixnar blivet, wopple drungar, snorfle gimbly, plonk wabe.", SECTION
    )
    assert found.mixing
    assert set(found.languages) == {"zh", "und"}


def test_nothing_is_in_no_language() -> None:
    assert mixing("", SECTION).languages == {}
    found = mixing("$x$ 12 + 15", ENGLISH_ONLY)
    assert (found.share, found.main, found.letters, found.mixing) == (0.0, "en", 0, False)


def test_relatives_are_one_language() -> None:
    danish = "Først skal vi finde summen af de to tal, og derefter kan vi løse ligningen uden problemer. "
    norwegian = "Deretter må vi vise at løsningen er entydig, og det gjør vi ved å se på de to tilfellene. "
    for code in ("da", "no", "nn"):
        assert mixing(danish + norwegian, LanguageSection(expected=(code,))).share == 0.0
    assert mixing(danish + norwegian, SECTION).main == "no"


def test_a_code_that_no_one_knows_is_refused() -> None:
    with pytest.raises(
        ValidationError, match="expected holds 'tlh', which is none of the languages known: am, ar"
    ):
        LanguageSection(expected=("en", "tlh"))


def test_the_table_of_scripts_is_consistent() -> None:
    assert len(LANGUAGES) == len(set(LANGUAGES))
    assert set(SAME.values()) <= set(SCRIPT_OF)
    assert {SCRIPT_OF["zh"], SCRIPT_OF["ja"]} == {"cjk"}
    assert sorted({len(script.languages) for script in SCRIPTS.values()}) == [1, 2, 3, 18]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a $x$ b", "a b"),
        ("it costs $5 or $7 now", "it costs $5 or $7 now"),
        ("a $x b\n\nc$ d", "a $x b\n\nc$ d".replace("\n\n", " ")),
        (r"a \$x$ b", r"a \$x$ b"),
        (r"a \(x\) b \[y\] c $$z$$ d", "a b c d"),
        (r"a \(x b", "a (x b".replace("(", r"\(")),
        (r"a \begin{cases} x \end{cases} b \foo{c} \mathrm{lcm} d", "a b {c} d"),
        ("a `x` b `y\nz` c", "a b `y z` c"),
        ("a ```x\ny``` b ```c", "a b ```c"),
        ("a <think>b</think> <a href='x'>c</a> 1 < d", "a b c 1 < d"),
        ("see https://example.org/of/that?x=y and www.example.org now", "see and now"),
        ("dp2 is x_1 or snake_case or camelCase or NaCl or H2O but not Word", "is or or or or but not Word"),
        ("let\nreturn total\nx = foo(bar)\nfor all of them\n", "let = ( ) for all of them"),
        ("int main() {\n}\ncout << total;\n// 汉字 word\nend", "() { } << ; // 汉字 end"),
        (
            "#include <map>\nstack.push(value);\nthe value;\nusing namespace std;\nend",
            "# < > . ( ); the value; ; end",
        ),
        ("def count(n):\n  if n == 0:\n    print(n)\nimport os\nfrom os import path\nend", "( ): == 0: ( ) end"),
    ],
)
def test_prose(text: str, kept: str) -> None:
    assert " ".join(prose(text).split()) == kept


@given(st.one_of(st.text(), st.lists(ODD, max_size=80).map("".join)))
@settings(max_examples=300, deadline=None)
def test_any_text_is_judged(text: str) -> None:
    for section in (SECTION, ENGLISH_ONLY, LanguageSection(expected=("ja", "el"))):
        found = mixing(text, section)
        assert 0 <= found.share <= 1
        assert sum(found.languages.values()) == pytest.approx(1 if found.letters else 0)
        assert list(found.languages.values()) == sorted(found.languages.values(), reverse=True)
        assert not found.mixing or found.share >= section.share


@given(st.lists(st.sampled_from(SURE), max_size=5), st.sampled_from(SURE))
@settings(max_examples=60, deadline=None)
def test_more_foreign_text_never_lowers_the_share(texts: list[str], more: str) -> None:
    before = mixing("\n".join([ENGLISH, *texts]), ENGLISH_ONLY)
    after = mixing("\n".join([ENGLISH, *texts, more]), ENGLISH_ONLY)
    assert after.share > before.share
    assert after.letters > before.letters


@given(st.permutations([text for language, text in PURE.values() if language == "en"]))
@settings(max_examples=20, deadline=None)
def test_sentences_of_one_language_stay_pure_in_any_order(texts: list[str]) -> None:
    assert mixing(" ".join(texts), SECTION).languages == {"en": 1.0}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    [
        "$ a",
        "` ",
        "\\(",
        "\\[",
        "\\begin{align}",
        "<a",
        "if )",
        "a'",
        "汉 ab ",
        "\u0315\u0300",
        "\u064b\u0651",
        "\n \n ",
        "x=",
    ],
)
def test_a_megabyte_of_anything_takes_linear_time(unit: str) -> None:
    assert not mixing(unit * (1_000_000 // len(unit)), ENGLISH_ONLY).mixing or "汉" in unit or "\u064b" in unit


LINES = (Path(__file__).parents[1] / "data" / "language_texts.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_texts_written_without_a_look_at_the_judge(line: str) -> None:
    text = json.loads(line)
    assert mixing(text["text"], LanguageSection()).mixing is text["mixing"]
