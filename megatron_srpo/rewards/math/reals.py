"""Sets of real numbers: intervals, unions, what an inequality says.  All become one sorted list of pieces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from megatron_srpo.rewards.math.tree import LISTS, Const, Node, Op, Rel, Seq, Sym, negated, symbols
from megatron_srpo.rewards.math.values import NotWorkedOut, approximate, context

MOST_PIECES = 60
CLOSE = 1e-40  # relative; the same number worked out in two ways
INFINITY = Const("oo")
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True)
class End:
    """One end of a piece: where it is, and whether the piece holds it."""

    node: Node
    key: Any
    closed: bool


@dataclass(frozen=True)
class Piece:
    """All numbers between two ends; a single number where they are the same."""

    low: End
    high: End


class NoRealSet(Exception):
    """Something that is no set of real numbers whose ends are known."""


def is_set_like(node: Node) -> bool:
    """Whether a node can only mean a set of real numbers."""
    match node:
        case Rel(_, signs):
            return any(sign in MIRRORED or sign == "!=" for sign in signs)
        case Op("cup" | "cap" | "minus", _) | Const("R"):
            return True
        case Seq("(]" | "[)", items):
            return len(items) == 2
        case Seq(kind, items) if kind in LISTS:
            return any(is_set_like(item) for item in items)
        case Seq("()" | "[]", items):
            return len(items) == 2 and any(infinite(item) for item in items)
        case _:
            return False


def infinite(node: Node) -> int:
    """1 for infinity, -1 for minus infinity, else 0."""
    match node:
        case Const("oo"):
            return 1
        case Op("neg", (Const("oo"),)):
            return -1
        case _:
            return 0


def pieces(node: Node) -> list[Piece]:
    """The pieces of a set, sorted and apart from each other.

    Raises:
        NoRealSet: when the node is none.
    """
    match node:
        case Const("R"):
            return [_piece(negated(INFINITY), False, INFINITY, False)]
        case Seq("()" | "[]" | "(]" | "[)" as kind, (low, high)):
            piece = _piece(low, kind[0] == "[", high, kind[1] == "]")
            if piece.low.key >= piece.high.key:
                raise NoRealSet
            return [piece]
        case Seq("{}", items):
            return _joined([_piece(item, True, item, True) for item in items])
        case Seq("or" | ",", items):
            return _joined([piece for item in items for piece in pieces(item)])
        case Seq("and", items):
            return _common([pieces(item) for item in items])
        case Op("cup", args):
            return _joined([piece for arg in args for piece in pieces(arg)])
        case Op("cap", args):
            return _common([pieces(arg) for arg in args])
        case Op("minus", (left, right)):
            return _common([pieces(left), _rest(pieces(right))])
        case Rel():
            return _from_relation(node)
        case _:
            raise NoRealSet


def _end(node: Node, closed: bool) -> End:
    if sign := infinite(node):
        return End(node, context(60).inf * sign, closed)
    if symbols(node):
        raise NoRealSet
    try:
        key = approximate(node, {})
    except NotWorkedOut:
        raise NoRealSet from None
    if context(60).im(key) != 0:
        raise NoRealSet
    return End(node, context(60).re(key), closed)


def _piece(low: Node, low_closed: bool, high: Node, high_closed: bool) -> Piece:
    return Piece(_end(low, low_closed), _end(high, high_closed))


def _joined(found: list[Piece]) -> list[Piece]:
    """The union: sorted, and one piece where two overlap or touch."""
    if len(found) > MOST_PIECES:
        raise NoRealSet
    joined: list[Piece] = []
    for piece in sorted(found, key=lambda one: (one.low.key, not one.low.closed)):
        last = joined[-1] if joined else None
        if last is None or not _touch(last.high, piece.low):
            joined.append(piece)
            continue
        joined[-1] = replace(last, high=max(last.high, piece.high, key=lambda end: (end.key, end.closed)))
    return joined


def _touch(high: End, low: End) -> bool:
    return bool(low.key < high.key or (_same(low, high) and (low.closed or high.closed)))


def _same(one: End, other: End) -> bool:
    """Ends at one number, which may be written in two ways."""
    if one.key == other.key:
        return True
    return bool(abs(one.key - other.key) <= abs(one.key) * CLOSE)


def _rest(found: list[Piece]) -> list[Piece]:
    """All real numbers that are in none of the sorted pieces."""
    rest, low = [], _end(negated(INFINITY), False)
    for piece in found:
        high = replace(piece.low, closed=not piece.low.closed)
        if low.key < high.key or (low.closed and high.closed and low.key == high.key):
            rest.append(Piece(low, high))
        low = replace(piece.high, closed=not piece.high.closed)
    if low.key < context(60).inf:
        rest.append(Piece(low, _end(INFINITY, False)))
    return rest


def _common(sets: list[list[Piece]]) -> list[Piece]:
    """The intersection: what is in none of the complements."""
    return _rest(_joined([piece for found in sets for piece in _rest(found)]))


def _from_relation(relation: Rel) -> list[Piece]:
    """What an inequality says about the one variable in it: x > 3, 1 < x <= 2, x in a set, x != 0."""
    sides, signs = relation.sides, relation.signs
    at = [index for index, side in enumerate(sides) if isinstance(side, Sym)]
    if len(at) != 1 or len(signs) > 2:
        raise NoRealSet
    if signs[0] == "in" and at == [0] and len(signs) == 1:
        return pieces(sides[1])
    limits = []
    for index, sign in enumerate(signs):
        if at[0] not in (index, index + 1):
            raise NoRealSet
        is_left = at[0] == index
        limit = sides[index + 1] if is_left else sides[index]
        limits.append(_half_line(sign if is_left else MIRRORED.get(sign, sign), limit))
    return _common(limits)


def _half_line(sign: str, limit: Node) -> list[Piece]:
    """All x with `x sign limit`."""
    if sign == "=":
        return [_piece(limit, True, limit, True)]
    if sign == "!=":
        return _rest([_piece(limit, True, limit, True)])
    if sign not in MIRRORED:
        raise NoRealSet
    if sign.startswith("<"):
        return [_piece(negated(INFINITY), False, limit, sign == "<=")]
    return [_piece(limit, sign == ">=", INFINITY, False)]
