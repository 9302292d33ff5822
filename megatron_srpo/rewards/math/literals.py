"""Numbers as they are written, and how two things that stand together become one."""

from __future__ import annotations

from fractions import Fraction

from megatron_srpo.rewards.math.tokens import Unreadable
from megatron_srpo.rewards.math.tree import Node, Num, Op

LONGEST_NUMBER = 4_000  # digits; Python refuses to read more than 4300
LONGEST_EXPONENT = 3  # digits of a power of ten that is part of a number
LARGEST_EXPONENT = 100  # of ten, in scientific notation


def literal(text: str) -> Num:
    """The number that a token is.

    Raises:
        Unreadable: when it has too many digits.
    """
    if len(text) > LONGEST_NUMBER:
        raise Unreadable
    if "\\" not in text:
        mantissa, _, exponent = text.lower().partition("e")
        if len(exponent.lstrip("+-")) > LONGEST_EXPONENT:
            raise Unreadable
        return Num(Fraction(text), decimal="." in mantissa or bool(exponent))
    digits, _, repeating = text.partition("\\overline")
    repeating = repeating.strip(" {}")
    places = len(digits.partition(".")[2])
    value = Fraction(digits + "0") + Fraction(int(repeating), (10 ** len(repeating) - 1) * 10**places)
    return Num(value, fraction=True)


def times(left: Node, right: Node) -> Node:
    """A product; a number in scientific notation is one number."""
    match left, right:
        case Num(value, percent=False, fraction=False), Op("pow", (Num(value=base), Num(value=power))):
            if base == 10 and power.denominator == 1 and abs(power) < LARGEST_EXPONENT:
                return Num(value * Fraction(10) ** int(power), decimal=True)
    return joined(left, "times", right)


def joined(left: Node, name: str, right: Node) -> Node:
    """One more term of a sum, or factor of a product."""
    if isinstance(left, Op) and left.name == name:
        return Op(name, (*left.args, right))
    return Op(name, (left, right))


def divided(left: Node, right: Node) -> Node:
    """A quotient; one of two integers is a fraction, which is one number."""
    match left, right:
        case Num(upper, False, False, False), Num(lower, False, False, percent) if lower:
            # 1/2 % is half a per cent.
            return Num(upper / lower / (10_000 if percent else 1), fraction=True, percent=percent)
    return Op("divided", (left, right))


def mixed(left: Node, right: Node) -> Node:
    """An integer beside a fraction: a mixed number if the fraction is less than one.

    Raises:
        Unreadable: for any other number that stands beside something.
    """
    if not isinstance(right, Num) or not right.fraction:
        raise Unreadable
    if isinstance(left, Num) and not (left.decimal or left.fraction or left.percent) and 0 < right.value < 1:
        whole = left.value / 100 if right.percent else left.value
        return Num(whole + right.value, fraction=True, percent=right.percent)
    return Op("product", (left, right))


def in_percent(node: Node) -> Node:
    """A hundredth; a percentage that is written out is one number."""
    if isinstance(node, Num):
        return Num(node.value / 100, node.decimal, node.fraction, percent=True)
    return Op("percent", (node,))
