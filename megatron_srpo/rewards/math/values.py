"""What an expression is worth: exactly where that is a fraction of moderate size, else to 60 digits.

Every operation looks at the size of its operands first, so that a tower of powers costs nothing: it is beyond
what is worked out.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from mpmath import MPContext

from megatron_srpo.rewards.math.tree import Const, Matrix, Node, Num, Op, Sym

DIGITS, MORE_DIGITS = 60, 120
LARGEST_EXACT = 20_000  # bits of a numerator or denominator
LARGEST_ROOT = 2_000  # bits of what an exact root is taken of
LARGEST_FACTORIAL = 1_500
LARGEST_POWER = 1_000_000  # bits of a value that is not exact
LARGEST_ANGLE = 1_000  # bits of an argument of sine or floor
LARGEST_DETERMINANT = 6  # rows

Point = Mapping[str, Fraction]


class NotWorkedOut(Exception):
    """An expression without a value: too large, undefined, or no number at all."""


class _Contexts(threading.local):
    """mpmath's settings are not safe to share between threads."""

    def __init__(self) -> None:
        self.by_digits: dict[int, Any] = {}


_CONTEXTS = _Contexts()


def context(digits: int) -> Any:
    """This thread's mpmath with so many digits."""
    if digits not in _CONTEXTS.by_digits:
        made = MPContext()
        made.dps = digits
        _CONTEXTS.by_digits[digits] = made
    return _CONTEXTS.by_digits[digits]


def point(names: frozenset[str], number: int) -> Point:
    """Values for variables: the same for the same names and number, with both signs among the numbers."""
    values: dict[str, Fraction] = {}
    for name in sorted(names):
        chance = zlib.crc32(f"{number} {name}".encode("utf-8", "surrogatepass"))
        size = Fraction(3 + chance % 9973, 4001)
        negative = number == 1 or (number > 2 and chance & 1 == 0)
        values[name] = -size if negative else size
    return values


def exact(node: Node) -> Fraction | None:
    """The value as a fraction; None where it is none, has variables, or is too large."""
    match node:
        case Num(value):
            return value
        case Op("percent", (inner,)):
            hundredfold = exact(inner)
            return None if hundredfold is None else hundredfold / 100
        case Op(name, args) if name in _EXACT:
            values = []
            for arg in args:
                known = exact(arg)
                if known is None or _bits(known) > LARGEST_EXACT:
                    return None
                values.append(known)
            return _exact_operation(name, values)
        case _:
            return None


_OPERATIONS = "add neg times product divided pow root factorial double_factorial binom abs floor ceil"
_EXACT = frozenset(_OPERATIONS.split())


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _exact_operation(name: str, values: list[Fraction]) -> Fraction | None:
    match name, values:
        case "add", _:
            return sum(values, start=Fraction(0)) if sum(map(_bits, values)) <= LARGEST_EXACT else None
        case "neg", [a]:
            return -a
        case "times" | "product", _:
            return math.prod(values, start=Fraction(1)) if sum(map(_bits, values)) <= LARGEST_EXACT else None
        case "divided", [a, b]:
            return a / b if b else None
        case "abs", [a]:
            return abs(a)
        case "floor", [a]:
            return Fraction(math.floor(a))
        case "ceil", [a]:
            return Fraction(math.ceil(a))
        case "pow", [a, b]:
            return _exact_power(a, b)
        case "root", [a, b]:
            return _exact_power(a, 1 / b) if b else None
        case "factorial", [a] if _is_count(a):
            return Fraction(math.factorial(int(a)))
        case "double_factorial", [a] if _is_count(a):
            return Fraction(math.prod(range(int(a), 0, -2)))
        case "binom", [a, b] if _is_count(a) and b.denominator == 1:
            return Fraction(math.comb(int(a), int(b))) if b >= 0 else Fraction(0)
        case _:
            return None


def _is_count(value: Fraction) -> bool:
    return value.denominator == 1 and 0 <= value <= LARGEST_FACTORIAL


def _exact_power(base: Fraction, power: Fraction) -> Fraction | None:
    """A rational power that is rational; 0^0 is 1, as everywhere in combinatorics."""
    if (base == 0 and power < 0) or (base < 0 and power.denominator != 1):
        return None
    if abs(power.numerator) * _bits(base) > LARGEST_EXACT:
        return None
    if power.denominator == 1:
        return base ** int(power)
    upper, lower = (_exact_root(part, power.denominator) for part in (base.numerator, base.denominator))
    return None if upper is None or lower is None else Fraction(upper, lower) ** power.numerator


def _exact_root(value: int, index: int) -> int | None:
    """The integer whose power is the value, if there is one."""
    if value < 2:
        return value
    if index > value.bit_length() or value.bit_length() > LARGEST_ROOT:
        return None
    low, high = 1, 1 << (value.bit_length() // index + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**index < value:
            low = middle + 1
        else:
            high = middle
    return low if low**index == value else None


def approximate(node: Node, at: Point, digits: int = DIGITS) -> Any:
    """The value as a real or complex number of mpmath.

    Args:
        node: an expression.
        at: the values of its variables.
        digits: how many are right, but for cancellation.

    Raises:
        NotWorkedOut: where there is no value, or one of astronomical size.
    """
    mp = context(digits)
    try:
        return _value(node, at, mp)
    except (ValueError, ZeroDivisionError, OverflowError, mp.NoConvergence):
        raise NotWorkedOut from None


def _value(node: Node, at: Point, mp: Any) -> Any:
    match node:
        case Num(value):
            return _fraction(value, mp)
        case Sym(name):
            return _fraction(at[name], mp)
        case Const("pi"):
            return +mp.pi
        case Const("e"):
            return +mp.e
        case Const("i"):
            return mp.mpc(0, 1)
        case Op("determinant", (Matrix(rows),)):
            return _determinant([[_value(entry, at, mp) for entry in row] for row in rows])
        case Op(name, args):
            values = [_value(arg, at, mp) for arg in args]
            if any(_size(value, mp) > 4 * LARGEST_POWER for value in values):
                raise NotWorkedOut
            return _operation(name, values, mp)
        case _:
            raise NotWorkedOut


def _fraction(value: Fraction, mp: Any) -> Any:
    return mp.mpf(value.numerator) / value.denominator


def _size(value: Any, mp: Any) -> float:
    """How many bits a value has before the point, or after it."""
    return abs(float(mp.mag(value))) if value and mp.isfinite(value) else 0.0


def _determinant(rows: list[list[Any]]) -> Any:
    if len(rows) != len(rows[0]) or len(rows) > LARGEST_DETERMINANT:
        raise NotWorkedOut
    if len(rows) == 1:
        return rows[0][0]
    minors = ([row[:at] + row[at + 1 :] for row in rows[1:]] for at in range(len(rows)))
    return sum((-1) ** at * rows[0][at] * _determinant(minor) for at, minor in enumerate(minors))


def _operation(name: str, values: list[Any], mp: Any) -> Any:
    match name, values:
        case "add", _:
            return sum(values, start=mp.mpf(0))
        case "neg", [a]:
            return -a
        case "times" | "product", _:
            return math.prod(values, start=mp.mpf(1))
        case "divided", [a, b]:
            return a / b
        case "percent", [a]:
            return a / 100
        case "degree", [a]:
            return a * mp.pi / 180
        case "radian", [a]:
            return a
        case "abs", [a]:
            return abs(a)
        case "pow", [a, b]:
            return _power(a, b, mp)
        case "root", [a, b]:
            return _root(a, b, mp)
        case "factorial", [a]:
            return mp.factorial(_moderate(a, 10_000))
        case "double_factorial", [a]:
            return mp.fac2(_moderate(a, 10_000))
        case "binom", [a, b]:
            return mp.binomial(_moderate(a, 10_000), _moderate(b, 10_000))
        case _:
            return _function(name, values, mp)


def _function(name: str, values: list[Any], mp: Any) -> Any:
    if name in ("ln", "lg", "log"):
        if not values[0]:
            raise NotWorkedOut
        if len(values) == 2:
            return mp.ln(values[0]) / mp.ln(values[1])
        return mp.ln(values[0]) if name == "ln" else mp.log10(values[0])
    if len(values) != 1 or name not in _FUNCTIONS or _size(values[0], mp) > LARGEST_ANGLE:
        raise NotWorkedOut
    (value,) = values
    if name in ("exp", "sinh", "cosh"):
        _moderate(value, LARGEST_POWER)
    return getattr(mp, _FUNCTIONS[name])(value)


_SAME_NAME = "sin cos tan cot sec csc exp sinh cosh tanh floor ceil"
_FUNCTIONS = {name: name for name in _SAME_NAME.split()}
_FUNCTIONS |= {"arc" + name: "a" + name for name in ("sin", "cos", "tan", "cot", "sec", "csc")}
_FUNCTIONS |= {"ar" + name: "a" + name for name in ("sinh", "cosh", "tanh")}


def _moderate(value: Any, largest: int) -> Any:
    if abs(value) > largest:
        raise NotWorkedOut
    return value


def _power(base: Any, power: Any, mp: Any) -> Any:
    if not base and mp.re(power) <= 0 and power:
        raise NotWorkedOut
    if base and abs(power) * max(1.0, _size(base, mp)) > LARGEST_POWER:
        raise NotWorkedOut
    return mp.power(base, power)


def _root(base: Any, index: Any, mp: Any) -> Any:
    """The real root of a negative number where there is one, as in school."""
    if not index:
        raise NotWorkedOut
    if mp.im(base) == 0 and mp.re(base) < 0 and mp.isint(index) and int(mp.re(index)) % 2 == 1:
        return -mp.power(-mp.re(base), 1 / index)
    return mp.sqrt(base) if index == 2 else _power(base, 1 / index, mp)
