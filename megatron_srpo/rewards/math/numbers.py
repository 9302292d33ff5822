"""Do two expressions have the same value?

Where both are fractions, exactly.  Else at 60 digits, with variables at a few chosen points: two different
formulas that agree at all of them do not occur.  The recipe's tolerance is for one case alone, a decimal
against a value that no short decimal can write, as 0.3333 against 1/3.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from megatron_srpo.rewards.math.tree import Const, Node, Num, symbols, walk
from megatron_srpo.rewards.math.values import (
    DIGITS,
    MORE_DIGITS,
    NotWorkedOut,
    Point,
    approximate,
    context,
    exact,
    point,
)

POINTS = 5
FEWEST_POINTS = 2
SHORT = 10  # decimal places
SAME = 1e-25  # relative; leaves room for cancellation in 60 digits
SMALL = 1e-30  # a difference of large numbers, perhaps: more digits tell
NEAR_DECIMAL = 1e-40


def same_number(gold: Node, answer: Node, tolerance: Fraction) -> bool:
    """Whether an answer has the value of the reference.

    Where the reference is written out as a number, the answer must be too, and a fraction only where the
    reference is none that is whole: an answer is no sum or product that is still to be worked out.

    Raises:
        NotWorkedOut: when one has no value that can be worked out.
    """
    if isinstance(gold, Num):
        if not isinstance(answer, Num) or _is_open_fraction(gold, answer):
            return False
        return gold.value == answer.value or _nearly(gold, answer, tolerance) or _in_percent(gold, answer)
    left, right = exact(gold), exact(answer)
    if left is not None and right is not None:
        return left == right or _nearly_exact(gold, answer, left, right, tolerance)
    names = symbols(gold) | symbols(answer)
    if not names:
        return _same_constant(gold, answer, tolerance)
    return _agree_at_points(gold, answer, names)


def _is_open_fraction(gold: Num, answer: Num) -> bool:
    """84/2 where 42 is asked."""
    return answer.fraction and not gold.fraction and gold.value.denominator == 1


def _in_percent(gold: Num, answer: Num) -> bool:
    """The same numeral, with the sign on one side alone: 50 for 50%, and 42% for 42, but not 1% for 1."""
    if gold.percent == answer.percent:
        return False
    if gold.percent:
        return gold.value * 100 == answer.value
    return abs(gold.value) > 1 and gold.value == answer.value * 100


def _nearly(gold: Num, answer: Num, tolerance: Fraction) -> bool:
    return _nearly_exact(gold, answer, gold.value, answer.value, tolerance)


def _nearly_exact(gold: Node, answer: Node, left: Fraction, right: Fraction, tolerance: Fraction) -> bool:
    """A decimal against a fraction that no short decimal can write."""
    if _is_decimal(answer) and not is_short_decimal(left):
        return abs(left - right) <= tolerance * abs(left)
    if _is_decimal(gold) and not is_short_decimal(right):
        return abs(left - right) <= tolerance * abs(right)
    return False


def _is_decimal(node: Node) -> bool:
    return isinstance(node, Num) and node.decimal


def is_short_decimal(value: Fraction) -> bool:
    """Whether ten decimal places are enough to write a value."""
    return bool(10**SHORT % value.denominator == 0)


def _same_constant(gold: Node, answer: Node, tolerance: Fraction) -> bool:
    """Two expressions without variables, of which one at least is no fraction."""
    if _agree(gold, answer, {}):
        return True
    for one, other in ((gold, answer), (answer, gold)):
        if _is_decimal(one):
            value = approximate(other, {})
            if _is_near_short_decimal(value):
                return False
            return bool(abs(approximate(one, {}) - value) <= abs(value) * _float(tolerance))
    return False


def _float(tolerance: Fraction) -> Any:
    return context(DIGITS).mpf(tolerance.numerator) / tolerance.denominator


def _is_near_short_decimal(value: Any) -> bool:
    """An expression such as cos 60 degrees, which is worth a short decimal."""
    mp = context(DIGITS)
    if mp.im(value) != 0:
        return True
    scaled = mp.re(value) * 10**SHORT
    return bool(abs(scaled - mp.nint(scaled)) <= NEAR_DECIMAL * max(1, abs(scaled)))


def _agree_at_points(gold: Node, answer: Node, names: frozenset[str]) -> bool:
    """Whether two formulas have the same value wherever both have one."""
    compared = 0
    is_complex = _is_complex(gold) or _is_complex(answer)
    for number in range(POINTS):
        at = point(names, number)
        try:
            if not is_complex and _is_real(gold, at) != _is_real(answer, at):
                continue  # outside of where one of them is defined
            if not _agree(gold, answer, at):
                return False
        except NotWorkedOut:
            continue
        compared += 1
    if not compared:
        raise NotWorkedOut
    return compared >= FEWEST_POINTS


def _is_complex(node: Node) -> bool:
    return any(part == Const("i") for part in walk(node))


def _is_real(node: Node, at: Point) -> bool:
    return bool(context(DIGITS).im(approximate(node, at)) == 0)


def _agree(gold: Node, answer: Node, at: Point) -> bool:
    """Whether two expressions have the same value at one point."""
    left, right = approximate(gold, at), approximate(answer, at)
    size = max(abs(left), abs(right))
    if abs(left - right) <= SAME * size:
        return True
    if size > SMALL:
        return False
    # Tiny values are true, or what rounding left of zero: that shrinks with more digits.
    left, right = approximate(gold, at, MORE_DIGITS), approximate(answer, at, MORE_DIGITS)
    if max(abs(left), abs(right)) <= SMALL * size:
        return True
    return bool(abs(left - right) <= SAME * max(abs(left), abs(right)))


def ratio(gold: Node, answer: Node) -> Any:
    """The one number by which the answer's formula is the reference's times it; None where there is none."""
    names = symbols(gold)
    if names != symbols(answer):
        return None
    ratios = []
    for number in range(POINTS):
        at = point(names, number)
        try:
            left, right = approximate(gold, at), approximate(answer, at)
        except NotWorkedOut:
            continue
        if abs(left) <= SMALL or abs(right) <= SMALL:
            return None
        ratios.append(right / left)
    if len(ratios) < FEWEST_POINTS or any(abs(one - ratios[0]) > SAME * abs(ratios[0]) for one in ratios):
        return None
    return ratios[0]
