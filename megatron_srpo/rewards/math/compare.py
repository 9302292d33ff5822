"""Does an answer say what the reference says?  Sets, tuples, matrices and equations, down to numbers."""

from __future__ import annotations

from fractions import Fraction

from megatron_srpo.rewards.math.numbers import ratio, same_number
from megatron_srpo.rewards.math.reals import MIRRORED, NoRealSet, is_set_like, pieces
from megatron_srpo.rewards.math.tree import (
    BRACKETS,
    LISTS,
    Const,
    Matrix,
    Node,
    Num,
    Op,
    Rel,
    Seq,
    Sym,
    is_label,
    negated,
)
from megatron_srpo.rewards.math.values import NotWorkedOut

MOST_MEMBERS = 60


def agree(gold: Node, answer: Node, tolerance: Fraction) -> bool:
    """Whether an answer says the same as the reference.

    Raises:
        NotWorkedOut: when one of them has no value, or one of astronomical size.
    """
    return _Comparison(tolerance).agree(gold, answer)


def candidates(node: Node) -> int:
    """How many things an answer lists."""
    return len(node.items) if isinstance(node, Seq) and node.kind in LISTS else 1


class _Comparison:
    def __init__(self, tolerance: Fraction) -> None:
        self._tolerance = tolerance

    def agree(self, gold: Node, answer: Node) -> bool:
        """The reference decides what kind of thing is asked for."""
        if gold == answer:
            return True
        if is_set_like(gold) or is_set_like(answer):
            return self._same_real_set(gold, answer) or self._same_inequality(gold, answer)
        match gold:
            case Rel():
                return self._same_equation(gold, answer)
            case Seq(kind, items) if kind in LISTS and all(isinstance(item, Rel) for item in items):
                return self._same_solutions(items, answer)
            case Matrix(rows):
                return self._same_matrix(rows, answer)
        sides = self._sides(gold, answer)
        if len(sides) > 1:
            # 40 + 2 = 42: each side is right, and the last one is worked out.
            return all(self._side_is_right(gold, side) for side in sides[:-1]) and self.agree(gold, sides[-1])
        answer = _only_member(sides[0])
        if isinstance(gold, Seq):
            return self._same_seq(gold, sides[0])
        return self._same_value(gold, answer)

    def _sides(self, gold: Node, answer: Node) -> tuple[Node, ...]:
        """What an answer gives as the value: all sides of an equation but a name, as in x = 6 * 7 = 42."""
        if isinstance(answer, Seq) and answer.kind in LISTS and isinstance(gold, Seq):
            return (self._common_name(answer),)
        if not isinstance(answer, Rel) or any(sign not in ("=", "~", "in") for sign in answer.signs):
            return (answer,)
        if "in" in answer.signs and not is_label(answer.sides[0]):
            return (answer,)
        sides = answer.sides[1:] if is_label(answer.sides[0]) else answer.sides
        if "~" in answer.signs:
            sides = self._without_roundings(answer, sides)
        return sides

    def _without_roundings(self, answer: Rel, sides: tuple[Node, ...]) -> tuple[Node, ...]:
        """Without a decimal that is what the side before it is, rounded to the places it has."""
        last, before = answer.sides[-1], answer.sides[-2]
        if answer.signs[-1] != "~" or len(sides) < 2 or not isinstance(last, Num) or not last.decimal:
            return sides
        places = next(n for n in range(400) if 10**n % last.value.denominator == 0)
        rounding = Fraction(51, 100) / 10**places / abs(last.value) if last.value else Fraction(0)
        return sides[:-1] if _Comparison(rounding)._same_value(before, last) else sides

    def _common_name(self, answer: Seq) -> Node:
        """The members of x = 3, x = 5, or of x = 3, 5, without the name."""
        rels = [item for item in answer.items if isinstance(item, Rel)]
        names = {item.sides[0] for item in rels}
        if len(names) != 1 or not all(
            len(r.sides) == 2 and r.signs == ("=",) and is_label(r.sides[0]) for r in rels
        ):
            return answer
        if len(rels) not in (1, len(answer.items)) or answer.items[0] is not rels[0]:
            return answer
        return Seq(answer.kind, tuple(i.sides[1] if isinstance(i, Rel) else i for i in answer.items))

    def _side_is_right(self, gold: Node, side: Node) -> bool:
        if isinstance(gold, Num):
            gold = Op("times", (gold, Num(Fraction(1))))  # it need not be worked out
        return self.agree(gold, side)

    def _same_value(self, gold: Node, answer: Node) -> bool:
        match gold, answer:
            case (Op("degree", (inner,)), Op("degree", (other,))):
                return self._same_value(inner, other)
            case (Op("degree", (inner,)), Num()) if self._same_value(inner, answer):
                return True
            case (Num(), Op("degree", (other,))) if self._same_value(gold, other):
                return True
            case (Op("base", (inner, base)), Op("base", (other, its))):
                return base == its and inner == other
            case (Op("base", (inner, _)), Num()) | (Num() as inner, Op("base", _)):
                return inner == (answer.args[0] if isinstance(answer, Op) else answer)
            case (Num(), Op("radian", (other,))):
                return self._same_value(gold, other)
            case (_, Seq(":", (upper, lower))):
                return self._same_value(gold, _quotient(upper, lower))
            case (_, Seq() | Matrix() | Rel()):
                return False
        return same_number(gold, answer, self._tolerance)

    def _same_seq(self, gold: Seq, answer: Node) -> bool:
        if isinstance(answer, Matrix):
            answer = _as_tuple(answer)
        if gold.kind in (*LISTS, "{}") and gold.items and not isinstance(answer, Seq):
            return all(self.agree(item, answer) for item in gold.items)  # a double root
        if gold.kind == ":":
            return self._same_ratio(gold, answer)
        if gold.kind in BRACKETS:
            answer = _coordinates(answer)
            alike = isinstance(answer, Seq) and (
                answer.kind == gold.kind or (len(gold.items) > 2 and answer.kind in BRACKETS)
            )
            return alike and isinstance(answer, Seq) and self._same_in_order(gold.items, answer.items)
        if isinstance(answer, Seq) and answer.kind in (*LISTS, "{}") and len(_names(answer)) < 2:
            return self._same_members(gold.items, answer.items)
        return False

    def _same_in_order(self, gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
        return len(gold) == len(answer) and all(map(self.agree, gold, answer))

    def _same_members(self, gold: tuple[Node, ...], answer: tuple[Node, ...]) -> bool:
        """The same members in any order; one that is repeated counts once."""
        if max(len(gold), len(answer)) > MOST_MEMBERS:
            return self._same_in_order(gold, answer)
        left = list(answer)
        for member in gold:
            same = [other for other in left if self.agree(member, other)]
            if not same and not any(self.agree(member, other) for other in answer):
                return False
            left = [other for other in left if not any(other is one for one in same)]
        return not left

    def _same_ratio(self, gold: Seq, answer: Node) -> bool:
        if not isinstance(answer, Seq):
            two = len(gold.items) == 2
            return two and self._same_value(_quotient(*gold.items), answer)
        if answer.kind != ":" or len(answer.items) != len(gold.items):
            return False
        return all(
            self._same_value(_quotient(gold.items[0], one), _quotient(answer.items[0], other))
            for one, other in zip(gold.items[1:], answer.items[1:], strict=True)
        )

    def _same_matrix(self, rows: tuple[tuple[Node, ...], ...], answer: Node) -> bool:
        if isinstance(answer, Rel):
            sides = self._sides(Matrix(rows), answer)
            return len(sides) == 1 and self._same_matrix(rows, sides[0])
        if isinstance(answer, Seq) and answer.kind in ("()", "[]"):
            flat = _as_tuple(Matrix(rows))
            return isinstance(flat, Seq) and self._same_in_order(flat.items, answer.items)
        if not isinstance(answer, Matrix) or len(answer.rows) != len(rows):
            return False
        return all(map(self._same_in_order, rows, answer.rows))

    def _same_solutions(self, gold: tuple[Node, ...], answer: Node) -> bool:
        """Equations joined by or, and, or commas: x = 3 or x = 5; x = 3, y = 5."""
        rels = [item for item in gold if isinstance(item, Rel)]
        names = [item.sides[0] for item in rels]
        if not all(is_label(name) for name in names) or any(len(item.sides) != 2 for item in rels):
            return isinstance(answer, Seq) and self._same_members(gold, answer.items)
        values = tuple(item.sides[1] for item in rels)
        if isinstance(answer, Rel) and len(answer.sides) == 2 and is_label(answer.sides[0]):
            answer = answer.sides[1]
        if len(set(names)) == 1:
            return _names(answer) <= set(names) and self.agree(Seq("{}", values), answer)
        if isinstance(answer, Seq) and answer.kind in ("()", ",", "and") and not isinstance(answer.items[0], Rel):
            return self._same_in_order(values, answer.items)
        return isinstance(answer, Seq) and self._same_members(gold, answer.items)

    def _same_equation(self, gold: Rel, answer: Node) -> bool:
        if is_label(gold.sides[0]) and set(gold.signs) <= {"=", "in"}:
            value = gold.sides[-1]
            named = isinstance(answer, Rel) and is_label(answer.sides[0])
            if not isinstance(answer, Rel) or (named and answer.sides[0] == gold.sides[0]):
                return self.agree(value, answer)
            if named and not isinstance(gold.sides[1], Op):
                return False
            if isinstance(value, Num) and not named:
                # 5 = x, but not an equation that is yet to be solved, as 3x - 4 = 11.
                return answer.sides[-1] == gold.sides[0] and self.agree(value, answer.sides[0])
        if not isinstance(answer, Rel) or len(gold.sides) != 2 or len(answer.sides) != 2:
            return False
        if gold.signs != ("=",) or answer.signs != ("=",):
            return False
        return ratio(_difference(gold), _difference(answer)) is not None

    def _same_inequality(self, gold: Node, answer: Node) -> bool:
        """Inequalities with more in them than one variable: both differences are the same but for a factor."""
        if not isinstance(gold, Rel) or not isinstance(answer, Rel) or len(gold.sides) != 2:
            return False
        (sign,) = gold.signs
        if len(answer.signs) != 1 or sign not in MIRRORED:
            return False
        factor = ratio(_difference(gold), _difference(answer))
        if factor is None or getattr(factor, "imag", 0) != 0:
            return False
        return bool(answer.signs[0] == (sign if factor > 0 else MIRRORED[sign]))

    def _same_real_set(self, gold: Node, answer: Node) -> bool:
        """A comma between inequalities can mean or, and it can mean and."""
        ways = [answer]
        if isinstance(answer, Seq) and answer.kind == ",":
            ways = [Seq("or", answer.items), Seq("and", answer.items)]
        return any(self._same_pieces(gold, way) for way in ways)

    def _same_pieces(self, gold: Node, answer: Node) -> bool:
        try:
            left, right = pieces(_unnamed(gold)), pieces(_unnamed(answer))
        except NoRealSet:
            return False
        if len(left) != len(right):
            return False
        for one, other in zip(left, right, strict=True):
            for end, its in ((one.low, other.low), (one.high, other.high)):
                if end.closed != its.closed or not self._same_end(end.node, its.node):
                    return False
        return True

    def _same_end(self, gold: Node, answer: Node) -> bool:
        return gold == answer or self._same_value(gold, answer)


def _difference(relation: Rel) -> Node:
    left, right = relation.sides
    return Op("add", (left, negated(right)))


def _quotient(upper: Node, lower: Node) -> Node:
    if isinstance(upper, Num) and isinstance(lower, Num) and lower.value:
        return Num(upper.value / lower.value, fraction=True)
    return Op("divided", (upper, lower))


def _unnamed(node: Node) -> Node:
    """The right side of an equation that names a set."""
    if isinstance(node, Rel) and node.signs == ("=",) and isinstance(node.sides[0], Sym | Op):
        return node.sides[1] if is_set_like(node.sides[1]) or isinstance(node.sides[1], Seq | Const) else node
    return node


def _names(node: Node) -> set[Node]:
    """The names of which the members of a list are the values: x in x = 3 or x = 5."""
    items = node.items if isinstance(node, Seq) else (node,)
    return {item.sides[0] for item in items if isinstance(item, Rel) and is_label(item.sides[0])}


def _coordinates(node: Node) -> Node:
    """The pair that x = 1, y = 2 is, where the names are in the order of the alphabet."""
    if not isinstance(node, Seq) or node.kind not in (",", "and"):
        return node
    values, names = [], []
    for item in node.items:
        if not isinstance(item, Rel) or item.signs != ("=",) or not isinstance(item.sides[0], Sym):
            return node
        names.append(item.sides[0].name)
        values.append(item.sides[1])
    return Seq("()", tuple(values)) if names == sorted(set(names)) else node


def _only_member(node: Node) -> Node:
    """The member of a set of one, as in {12}."""
    return node.items[0] if isinstance(node, Seq) and node.kind == "{}" and len(node.items) == 1 else node


def _as_tuple(matrix: Matrix) -> Node:
    """A matrix of one row or column as a tuple."""
    if len(matrix.rows) == 1 or len(matrix.rows[0]) == 1:
        return Seq("()", tuple(entry for row in matrix.rows for entry in row))
    return matrix


__all__ = ["NotWorkedOut", "agree", "candidates"]
