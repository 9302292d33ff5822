"""Verdicts on a corpus of pairs, each of which was judged by hand; texts made to cost time; and rules that hold
for all texts.

A line of math_pairs.jsonl has a `gold` and an `answer`, which is judged as it is, or a whole `response` with its
`answer_format` and, where set, `fallback`.  `kind` says what it is an example of.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_srpo.recipe.reward import MathSection
from megatron_srpo.rewards.math.judge import answers_agree, judge, reference_of, references, score_math

PAIRS = [json.loads(line) for line in Path(__file__).parents[1].joinpath("data/math_pairs.jsonl").open()]
TAGGED = "<think>So.</think> <answer>{}</answer>"


@pytest.mark.parametrize("kind", ["right", "wrong", "cheating", "malformed"])
def test_the_verdict_is_that_of_a_careful_mathematician(kind: str) -> None:
    disagreements = []
    for pair in (pair for pair in PAIRS if pair["kind"] == kind):
        if "answer" in pair:
            verdict = judge(pair["answer"], pair["gold"])
            said = (int(verdict.right), None)
        else:
            section = MathSection(fallback=pair.get("fallback", "none"))
            score = score_math(pair["response"], pair["gold"], pair["answer_format"], section)
            said = (score.accuracy, score.format_ok)
        if said != (pair["accuracy"], pair.get("format_ok")):
            disagreements.append((pair, said))
    assert disagreements == []


def test_the_corpus_has_enough_of_each_kind() -> None:
    counts = Counter(pair["kind"] for pair in PAIRS)
    assert min(counts["right"], counts["wrong"]) > 300 and min(counts["cheating"], counts["malformed"]) > 60


@pytest.mark.parametrize("answer_format", ["think_answer", "boxed"])
def test_the_verdict_is_the_same_in_a_response(answer_format: Any) -> None:
    form = TAGGED if answer_format == "think_answer" else r"So \boxed{{{}}}."
    for pair in PAIRS:
        plain = "answer" in pair and pair["answer"].count("{") == pair["answer"].count("}")
        if plain and pair["accuracy"] and "}{" not in pair["answer"]:
            response = form.format(pair["answer"])
            assert score_math(response, pair["gold"], answer_format, MathSection()).accuracy == 1, pair


HUGE = {
    "tower": "9^{9^{9^9}}",
    "double factorial": "100000!!",
    "factorial": "(10^9)!",
    "factorial of factorial": "(((9!)!)!)!",
    "factorials behind each other": "5" + "!" * 395,
    "braces": "{" * 190 + "12" + "}" * 190,
    "brackets": "( [" * 130,
    "round brackets": "(" * 199 + "1" + ")" * 199,
    "roots": r"\sqrt{" * 56 + "2" + "}" * 56,
    "fractions": r"\frac{" * 50 + "1" + "}{2}" * 20,
    "bars": "|x" * 200,
    "logarithms": r"\log_{" * 50 + "2" + "}8" * 50,
    "digits": "9" * 400,
    "decimal": "0." + "3" * 398,
    "repeating decimal": r"0.\overline{" + "1" * 380 + "}",
    "commas": "1," * 200,
    "plus-minus signs": r"1\pm 2 , " * 44,
    "ones": "1+" * 199 + "1",
    "quotients": "1/" * 199 + "1",
    "minus signs": "-" * 399 + "5",
    "exponents": "2^" * 199 + "2",
    "power of a sum": "(x+y+z+w)^{9999999999}",
    "large power": "3^{10^6}",
    "large power of a decimal": "1.5^{10^{200000}}",
    "large powers of a fraction": "((1+1/3)^{400})^{400}",
    "angle": r"\sin(10^{1000000})",
    "angles": "+".join([r"\sin(10^{300000})"] * 22),
    "exponentials": r"\exp(\exp(\exp(\exp(9))))",
    "variables": "abcdefghjklmnopqrstuvwxyz" * 16,
    "matrix": r"\begin{pmatrix}" + "&".join("1" * 180) + r"\end{pmatrix}",
    "determinant": r"\begin{vmatrix}" + r"\\".join(["&".join("1234567!")] * 8) + r"\end{vmatrix}",
    "integral": r"\int_0^{\infty} x^{x^{x}} dx",
    "sum": r"\sum_{i=1}^{10^9} i!",
    "limit": r"\lim_{x\to\infty} (1+1/x)^{x}",
    "exponent notation": "1e999999999",
    "binomial": r"\binom{10^9}{5\cdot 10^8}",
    "unions": r"(1,2)\cup" * 44 + "(1,2)",
    "differences of sets": r"\mathbb{R}" + r"\setminus\{0\}" * 27,
    "sides": "x=" * 199 + "x",
    "root": r"\sqrt[3]{10^{3000}+1}",
    "words": "answer " * 57,
    "a megabyte": "12 " * 350_000,
    "a megabyte of braces": "{" * 1_000_000,
    "a megabyte of boxes": r"\boxed{" * 150_000,
}
GOLDS = (
    "12",
    r"\sqrt{2}",
    r"\{1, 2\}",
    "x^2+1",
    "(1,2]",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
    "x=3 or x=5",
    "5 cm",
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HUGE)
def test_texts_made_to_cost_time_are_wrong_at_once(name: str) -> None:
    # Each of these takes minutes, or gigabytes, where it is worked out.
    for gold in GOLDS:
        verdict = judge(HUGE[name], gold)
        assert not verdict.right and len(verdict.reason) < 120


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [name for name, text in HUGE.items() if len(text) <= 400])
def test_as_references_they_cost_no_time_either(name: str) -> None:
    reference_of.cache_clear()
    assert not judge("13", HUGE[name]).right
    assert not judge("x + 0.1234", HUGE[name]).right


# Once imported, judging must not compile, run, import or open anything, nor use a signal.
WATCHED = """
import json, signal, sys
from megatron_srpo.rewards.math.judge import judge
seen = set()
names = ("compile", "exec", "import", "open", "os.system", "subprocess.Popen", "signal.pthread_kill")
signal.signal = signal.alarm = signal.setitimer = None
sys.addaudithook(lambda event, _: seen.add(event) if event in names else None)
right = sum(judge(answer, gold).right for gold, answer in json.load(sys.stdin))
print(right, sorted(seen), "sympy" in sys.modules, "math_verify" in sys.modules)
"""


@pytest.mark.parametrize("digits", [400, 4_299, 5_000, 100_000])
def test_a_reference_of_many_digits(digits: int) -> None:
    for gold in ("9" * digits, f"{'9' * digits} + x", f"0.{'3' * digits}", rf"0.\overline{{{'3' * digits}}}"):
        assert judge(gold, gold).right
        assert not judge(gold.replace("9", "8").replace("3", "4"), gold).right
        assert not judge("12", gold).right


def is_read_by_us(gold: str) -> bool:
    return all(reference_of(text).readings for text in references(gold))


def test_no_text_is_run_as_a_program_and_no_signal_is_used() -> None:
    ours = [pair for pair in PAIRS if "answer" in pair and is_read_by_us(pair["gold"])]
    assert len(ours) > 1300
    pairs, right = [(pair["gold"], pair["answer"]) for pair in ours], sum(pair["accuracy"] for pair in ours)
    command = [sys.executable, "-c", WATCHED]
    done = subprocess.run(command, input=json.dumps(pairs), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{right} [] False False\n", "")


def test_threads_get_the_same_verdicts() -> None:
    pairs = [pair for pair in PAIRS if "answer" in pair][::7]
    disagreements: list[Any] = []

    def work() -> None:
        disagreements.extend(p for p in pairs if judge(p["answer"], p["gold"]).right != bool(p["accuracy"]))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert disagreements == []


PIECES = (
    r"1 2 x y e i 0.5 , ; + - * / ^ _ ! ( ) [ ] { } \{ \} | = < > \frac{ \sqrt{ \sin \ln \log_ \pi \infty "
    r"\cup \setminus \pm \text{cm} \le \in \begin{pmatrix} \end{pmatrix} \\ & % ° $ \boxed{ or and ^{99} "
    r"\binom{ \overline{ \left \mathbb{R} : \approx 5\text{m} **"
)
MATHEMATICS = st.lists(st.sampled_from(PIECES.split()), max_size=30).map(" ".join)
ANYTHING = st.one_of(st.text(st.characters(), max_size=60), MATHEMATICS)


@settings(max_examples=600, deadline=None)
@given(ANYTHING, ANYTHING)
@example("\ud800", "\udfff")
@example("\x00", "\x00")
@example("«", "»")
def test_no_text_raises(answer: str, gold: str) -> None:
    verdict = judge(answer, gold)
    assert verdict.reason and verdict.reason.isprintable()


@settings(max_examples=300, deadline=None)
@given(MATHEMATICS)
def test_an_answer_written_as_the_reference_is_right(text: str) -> None:
    verdict = judge(text, text)
    odd = verdict.reason in (
        "the answer is empty",
        "more than one answer around the box",
        "the reference is empty",
    )
    assert verdict.right or odd


INTEGER_FORMS = [
    "{}",
    "${}$",
    r"\boxed{{{}}}",
    "{}.0",
    "{}.",
    "**{}**",
    "x = {}",
    r"\({}\)",
    "The answer is {}.",
    "{} cm",
]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-(10**15), 10**15),
    st.integers(-3, 3),
    st.sampled_from([*INTEGER_FORMS, "{:,}", "1 - 1 + {} = {}"]),
)
def test_two_integers_agree_only_if_they_are_the_same(gold: int, off: int, form: str) -> None:
    answer = form.format(gold + off, gold + off)
    if "1 - 1" in form and gold + off < 0:
        answer = str(gold + off)
    assert answers_agree(answer, str(gold)) == (off == 0)
    assert answers_agree(answer, f"{gold:,}") == (off == 0)


@settings(max_examples=300, deadline=None)
@given(st.integers(-999, 999), st.integers(1, 999), st.integers(1, 9), st.integers(-2, 2))
def test_a_fraction_is_right_in_every_notation(upper: int, lower: int, factor: int, off: int) -> None:
    value, other = Fraction(upper, lower), Fraction(upper + off, lower)
    gold = f"{upper}/{lower}"
    sign = "-" if other < 0 else ""
    whole, rest = divmod(abs(other.numerator), other.denominator)
    forms = [
        rf"\frac{{{(upper + off) * factor}}}{{{lower * factor}}}",
        rf"{sign}\dfrac{{{abs(other.numerator)}}}{{{other.denominator}}}",
        f"{other.numerator}/{other.denominator}",
        rf"$x = \tfrac{{{other.numerator}}}{{{other.denominator}}}$",
    ]
    if rest and whole:
        forms.append(rf"{sign}{whole}\frac{{{rest}}}{{{other.denominator}}}")
        forms.append(f"{sign}{whole} {rest}/{other.denominator}")
    if other.denominator in (1, 2, 4, 5, 8, 10, 20, 25):
        forms.append(f"{float(other):.6f}")
        forms.append(rf"{float(other * 100):.6f}\%")
    for form in forms:
        assert answers_agree(form, gold) == (value == other), form


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_a_set_has_no_order_and_a_tuple_has(members: list[int], random: Any) -> None:
    shuffled = random.sample(members, len(members))
    gold = r"\{" + ", ".join(map(str, members)) + r"\}"
    assert answers_agree(", ".join(map(str, shuffled)), gold)
    assert answers_agree(r"\left\{" + ",".join(map(str, shuffled)) + r"\right\}", gold)
    assert not answers_agree(", ".join(map(str, shuffled[1:])), gold)
    assert not answers_agree(", ".join(map(str, [*shuffled[1:], 51])), gold)
    as_tuple = answers_agree(f"({', '.join(map(str, shuffled))})", f"({', '.join(map(str, members))})")
    assert as_tuple == (shuffled == members)


@settings(max_examples=100, deadline=None)
@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 9))
def test_a_polynomial_is_right_in_every_form(a: int, b: int, k: int) -> None:
    gold = f"({k}x + ({a}))(x + ({b}))"
    expanded = f"{k}x^2 + ({k * b + a})x + ({a * b})"
    assert answers_agree(expanded, gold) and answers_agree(gold, expanded)
    assert answers_agree(f"y = {expanded}", gold)
    assert not answers_agree(f"{k}x^2 + ({k * b + a})x + ({a * b + 1})", gold)
    assert not answers_agree(f"{k}x^2 + ({k * b + a + 1})x + ({a * b})", gold)


@settings(max_examples=100, deadline=None)
@given(st.integers(-999, 999), st.integers(-999, 999))
def test_a_sum_is_answered_by_its_value_alone(left: int, right: int) -> None:
    total = str(left + right)
    assert answers_agree(total, total)
    assert answers_agree(f"{left} + ({right}) = {total}", total)
    assert not answers_agree(f"{left} + {right}", total)
    assert not answers_agree(f"{total} or {left + right + 1}", total)
    assert not answers_agree(f"{left + right + 1} = {total}", total)


@settings(max_examples=100, deadline=None)
@given(st.integers(-50, 50), st.integers(1, 50), st.booleans(), st.booleans())
def test_an_interval_is_an_inequality(low: int, width: int, low_closed: bool, high_closed: bool) -> None:
    high = low + width
    gold = f"{'[' if low_closed else '('}{low}, {high}{']' if high_closed else ')'}"
    below, above = (r"\le" if low_closed else "<"), (r"\le" if high_closed else "<")
    assert answers_agree(rf"{low} {below} x {above} {high}", gold)
    assert answers_agree(rf"x \in \left{gold[0]}{low},{high}\right{gold[-1]}", gold)
    other = "<" if low_closed else r"\le"
    assert not answers_agree(rf"{low} {other} x {above} {high}", gold)
    assert not answers_agree(rf"{low} {below} x {above} {high + 1}", gold)
