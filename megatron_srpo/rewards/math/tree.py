"""What mathematics is made of once it has been read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

SeqKind = Literal[",", "or", "and", ":", "{}", "()", "[]", "(]", "[)"]


@dataclass(frozen=True, slots=True)
class Num:
    """A number that is written out: an integer, decimal, fraction or percentage, in scientific notation or not."""

    value: Fraction
    decimal: bool = False
    fraction: bool = False
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Sym:
    """A variable, or a word within mathematics."""

    name: str


@dataclass(frozen=True, slots=True)
class Const:
    """A number or set with a name: pi, e, i, oo, R, Z, N, Q, C."""

    name: str


@dataclass(frozen=True, slots=True)
class Op:
    """An operation or function."""

    name: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Seq:
    """Several things: a list by how it is joined, or a set, tuple or interval by its brackets."""

    kind: SeqKind
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Rel:
    """A chain of relations, as 1 < x <= 2."""

    sides: tuple[Node, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix by its rows."""

    rows: tuple[tuple[Node, ...], ...]


Node = Num | Sym | Const | Op | Seq | Rel | Matrix

LISTS = (",", "or", "and")
BRACKETS = ("()", "[]", "(]", "[)")


def walk(node: Node) -> Iterator[Node]:
    """The node and everything in it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(parts(node))


def is_deeper(node: Node, levels: int) -> bool:
    """Whether nodes stand within each other in more levels than this."""
    row = [node]
    for _ in range(levels):
        row = [part for one in row for part in parts(one)]
    return bool(row)


def parts(node: Node) -> tuple[Node, ...]:
    """What a node is made of."""
    match node:
        case Op(args=inner) | Seq(items=inner) | Rel(sides=inner):
            return inner
        case Matrix(rows=rows):
            return tuple(entry for row in rows for entry in row)
        case _:
            return ()


def symbols(node: Node) -> frozenset[str]:
    """The names of the variables."""
    return frozenset(part.name for part in walk(node) if isinstance(part, Sym))


def is_label(node: Node) -> bool:
    """Whether the left side of an equation only names what is on the right: x, f(2), AB, Area."""
    match node:
        case Sym() | Const("e" | "i"):
            return True
        case Op("abs", (inner,)):
            return is_label(inner)
        case Seq("()", items):  # (x, y) = (1, 2)
            return all(isinstance(item, Sym) for item in items)
        case Op("product", (first, *others)):
            if isinstance(first, Op) and first.name == "pow":  # the inverse of a function
                first = first.args[0] if first.args[1] == Num(Fraction(-1)) else first
            return is_label(first) and all(isinstance(arg, Num) or is_label(arg) for arg in others)
        case _:
            return False


def choose(node: Node, sign: int) -> Node:
    """The node with every plus-minus sign read as plus (1) or as minus (-1)."""
    match node:
        case Op("pm" | "mp" as name, args):
            chosen = tuple(choose(arg, sign) for arg in args)
            minus = (sign < 0) == (name == "pm")
            last = negated(chosen[-1]) if minus else chosen[-1]
            return last if len(chosen) == 1 else Op("add", (chosen[0], last))
        case Op(name, args):
            return Op(name, tuple(choose(arg, sign) for arg in args))
        case Seq(kind, items):
            return Seq(kind, tuple(choose(item, sign) for item in items))
        case Rel(sides, signs):
            return Rel(tuple(choose(side, sign) for side in sides), signs)
        case Matrix(rows):
            return Matrix(tuple(tuple(choose(entry, sign) for entry in row) for row in rows))
        case _:
            return node


def negated(node: Node) -> Node:
    """Minus the node."""
    if isinstance(node, Num):
        return Num(-node.value, node.decimal, node.fraction, node.percent)
    return Op("neg", (node,))
