"""The parts of the mathematics judge by themselves: spelling, reading, values, units."""

from __future__ import annotations

from fractions import Fraction

import pytest

from megatron_srpo.rewards.math.reader import read
from megatron_srpo.rewards.math.reals import NoRealSet, pieces
from megatron_srpo.rewards.math.text import readings, tidy
from megatron_srpo.rewards.math.tokens import Unreadable
from megatron_srpo.rewards.math.tree import Const, Num, Op, Seq, Sym, is_deeper, is_label, symbols
from megatron_srpo.rewards.math.units import read_label, read_unit
from megatron_srpo.rewards.math.values import NotWorkedOut, approximate, exact, point
from megatron_srpo.rewards.math.words import squeezed, words_agree


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("$42$", "42"),
        ("**42**.", "42"),
        (r"\left( 1 ,\, 2 \right)", "( 1 ,  2 )"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        ("x² − ½", r"x^{2} - \frac{1}{2}"),  # noqa: RUF001
        (r"5\text{ cm}", "5«cm»"),
        (r"90^{\circ}", "90°"),
        (r"50\%", "50%"),
        ("١٢", "12"),
        (r"\text{1/2}", "1/2"),
        (r"\text{yes}", "«yes»"),
        (r"not \boxed{12}", None),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        ("The answer is $\\boxed{42}$.", "42"),
        (r"1{,}000", "1{,}000"),
        (r"\begin{pmatrix}1\\ 2\end{pmatrix}", r"\begin{pmatrix}1\\ 2\end{pmatrix}"),
        ("0.333...", "0.333"),
        ("a«b»c", "a\x00b\x00c"),
        (r"12 or \boxed{15}", None),
        (r"\boxed{12} \boxed{15}", None),
        (r"\boxed{12", None),
    ],
)
def test_a_text_gets_one_spelling(text: str, plain: str | None) -> None:
    assert tidy(text) == plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", Fraction(42)),
        ("-1.50", Fraction(-3, 2)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        (r"\frac12", Fraction(1, 2)),
        (r"2\frac{3}{2}", Fraction(3)),
        (r"33\frac{1}{3}%", Fraction(1, 3)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("2^{10}", Fraction(1024)),
        ("-2^2", Fraction(-4)),
        ("(-2)^2", Fraction(4)),
        ("2^{-1}", Fraction(1, 2)),
        ("2^3^2", Fraction(512)),
        ("1-2-3", Fraction(-4)),
        ("8/4/2", Fraction(1)),
        ("1/2*4", Fraction(2)),
        ("5!", Fraction(120)),
        ("3!!", Fraction(3)),
        (r"\binom{5}{2}", Fraction(10)),
        (r"\sqrt{\frac{4}{9}}", Fraction(2, 3)),
        (r"\sqrt[3]{8}", Fraction(2)),
        ("8^{2/3}", Fraction(4)),
        (r"\lfloor -1.5 \rfloor", Fraction(-2)),
        (r"\lceil 1.5 \rceil", Fraction(2)),
        ("|2-5|", Fraction(3)),
        ("0^0", Fraction(1)),
        ("50%", Fraction(1, 2)),
        ("(1+1)%", Fraction(1, 50)),
        (r"1.5\times10^{-3}", Fraction(3, 2000)),
    ],
)
def test_what_is_rational_is_exact(text: str, value: Fraction) -> None:
    assert exact(read(text)) == value


@pytest.mark.parametrize(
    "text", ["1/0", "0^{-1}", r"\sqrt{2}", r"\pi", "x", "2^{99999}", "2000!", "(-1)^{1/2}", "(1/2)!"]
)
def test_what_is_not_is_not(text: str) -> None:
    assert exact(read(text)) is None


@pytest.mark.parametrize(
    "text", ["1/0", "0^{-1}", r"\ln 0", "9^{9^9}", r"\infty", r"\sin(10^{999})", "(1,2)", "x>1", "10001!"]
)
def test_what_has_no_value_is_not_worked_out(text: str) -> None:
    node = read(text)
    with pytest.raises(NotWorkedOut):
        approximate(node, point(symbols(node), 0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12 15",
        "12 +",
        "(1",
        "1)",
        "1 2/x",
        "x 2",
        r"\foo",
        r"\int x",
        "1__2",
        "a_{",
        "{1,2",
        "1e9999",
        "(1]",
        "&",
        "(" * 30 + "1" + ")" * 30,
        "x" + "!" * 140,
        "\x00",
        "\ud800",
        "1..2",
        r"\sin",
        r"\frac{1}",
        r"\begin{foo}1\end{foo}",
    ],
    ids=ascii,
)
def test_what_is_no_mathematics_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read(text)


def test_trees() -> None:
    assert read("f(x)") == Op("product", (Sym("f"), Sym("x"))) and is_label(read("f(x)"))
    assert not is_label(read("2x")) and not is_label(read("x+1"))
    assert read("1,234") == Num(Fraction(1234)) and read("1,234", grouped=False) != Num(Fraction(1234))
    assert isinstance(read("(1,234)"), Seq) and read("(1,234, 5)") == read("(1234, 5)")
    assert read(r"\{\}") == Seq("{}", ()) and read(r"\infty") == Const("oo")
    assert is_deeper(read("((x+1)^2+1)^2"), 3) and not is_deeper(read("x+1"), 2)


def test_points_have_both_signs_and_are_the_same_each_time() -> None:
    names = frozenset({"x", "y"})
    assert all(value > 0 for value in point(names, 0).values())
    assert all(value < 0 for value in point(names, 1).values())
    assert point(names, 3) == point(names, 3) != point(names, 4)


@pytest.mark.parametrize(
    "text", ["(2,1)", "x", r"\mathbb{Z}", "x+y>1", r"1 < x < y", "(1,2,3)", r"x \approx 3", r"(i, 2)"]
)
def test_what_is_no_set_of_real_numbers(text: str) -> None:
    with pytest.raises(NoRealSet):
        pieces(read(text))


def test_units() -> None:
    for same in ("cm^2", "square centimeters", "sq cm", "centimeters squared", "cm2", "cm*cm"):
        assert read_unit(same) == read_unit("cm^{2}"), same
    assert read_unit("km/h") == read_unit("kilometers per hour") == read_unit("kph")
    assert read_unit("m/s^2") == read_unit("meters per second squared")
    assert (
        read_unit("^2 cm") is None
        and read_unit("foo") is None
        and read_unit("") is None
        and read_unit("cm^2^2") is None
    )
    assert read_label("red apples") == read_label("Red apple")
    for statement in ("or so", "is wrong", "x1", "minus one", "", "a b c d e f g h"):
        assert read_label(statement) is None, statement
    ways = readings("5 million dollars")
    assert [way.scale for way in ways] == [1, 10**6]


def test_words() -> None:
    assert squeezed("1 2 x  y «cm»") == "1 2xycm"
    assert words_agree("Yes!", "yes") is True and words_agree("no", "yes") is False
    assert words_agree("4", "2x") is None and words_agree("q - p", "p - q") is None
    assert words_agree("(B)", "B") is True and words_agree("B. 12", "B") is True
    assert words_agree("B or C", "B") is None and words_agree("A B", "B") is None
