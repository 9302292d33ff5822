"""Reads mathematics: a tidy text becomes a tree, in time proportional to its length.

Nothing is worked out here: `2*6` stays a product, as an answer that only repeats the question must be told from
one that answers it.
"""

from __future__ import annotations

from fractions import Fraction

from megatron_srpo.rewards.math.literals import divided, in_percent, joined, literal, mixed, times
from megatron_srpo.rewards.math.names import (
    ACCENTS,
    AND,
    AROUND,
    CLOSES,
    CONSTANTS,
    ENDS,
    FUNCTIONS,
    GREEK,
    MATRICES,
    OR,
    RELATIONS,
    SET_SIGNS,
)
from megatron_srpo.rewards.math.tokens import Token, Unreadable, tokens
from megatron_srpo.rewards.math.tree import (
    Const,
    Matrix,
    Node,
    Num,
    Op,
    Rel,
    Seq,
    SeqKind,
    Sym,
    choose,
    is_deeper,
    negated,
    walk,
)

DEEPEST = 24  # brackets, roots and fractions within each other
MOST_LEVELS = 60  # of a tree, which later steps walk recursively


def _unreadable() -> Node:
    raise Unreadable


def read(text: str, grouped: bool = True) -> Node:
    """The tree of a tidy text; `grouped` says whether 1,234 is one number.

    Raises:
        Unreadable: when it is no mathematics, or nested too deeply.
    """
    reader = _Reader(tokens(text, grouped))
    node = reader.sequence()
    if not reader.at_end() or is_deeper(node, MOST_LEVELS):
        raise Unreadable
    return node


class _Reader:
    """Reads tokens from left to right, one function for each level of binding."""

    def __init__(self, found: list[Token]) -> None:
        self._tokens = found
        self._at = 0
        self._depth = 0
        self._bars = 0

    def at_end(self) -> bool:
        return self._at >= len(self._tokens)

    def _next(self) -> str:
        """The text of the next token; empty at the end."""
        return "" if self.at_end() else self._tokens[self._at].text

    def _kind(self) -> str:
        return "" if self.at_end() else self._tokens[self._at].kind

    def _take(self, *texts: str) -> str:
        """The next token if it is one of these, else an empty text."""
        text = self._next()
        if text not in texts or not text:
            return ""
        self._at += 1
        return text

    def _expect(self, *texts: str) -> str:
        taken = self._take(*texts)
        if not taken:
            raise Unreadable
        return taken

    def sequence(self) -> Node:
        """Things joined by commas, semicolons, or and and."""
        items, joint = self._alternatives(), ""
        while not self.at_end():
            if self._take(",", ";"):
                joint = joint or ","
                if self._take(*OR):
                    joint = "or"
                elif self._take(*AND):
                    joint = "and"
            elif self._take(*OR):
                joint = "or"
            elif self._take(*AND):
                joint = "and"
            else:
                break
            items += self._alternatives()
        if len(items) == 1:
            return items[0]
        kind: SeqKind = "and" if joint == "and" else "or" if joint == "or" else ","
        return Seq(kind, tuple(items))

    def _alternatives(self) -> list[Node]:
        """One thing, or two where it has plus-minus signs."""
        node = self._relation()
        if any(isinstance(part, Op) and part.name in ("pm", "mp") for part in walk(node)):
            return [choose(node, 1), choose(node, -1)]
        return [node]

    def _relation(self) -> Node:
        sides, signs = [self._ratio()], []
        while self._next() in RELATIONS:
            signs.append(RELATIONS[self._next()])
            self._at += 1
            sides.append(self._ratio())
        return Rel(tuple(sides), tuple(signs)) if signs else sides[0]

    def _ratio(self) -> Node:
        parts = [self._set()]
        while self._take(":"):
            parts.append(self._set())
        return Seq(":", tuple(parts)) if len(parts) > 1 else parts[0]

    def _set(self) -> Node:
        left = self._sum()
        while self._next() in SET_SIGNS:
            name = SET_SIGNS[self._next()]
            self._at += 1
            left = joined(left, name, self._sum()) if name == "cup" else Op(name, (left, self._sum()))
        return left

    def _sum(self) -> Node:
        sign = self._take("+", "-", "\\pm", "\\mp")
        left = self._signed(sign, self._product())
        while sign := self._take("+", "-", "\\pm", "\\mp"):
            right = self._product()
            if sign in ("\\pm", "\\mp"):
                left = Op(sign[1:], (left, right))
            else:
                left = joined(left, "add", right if sign == "+" else negated(right))
        return left

    def _signed(self, sign: str, node: Node) -> Node:
        if sign in ("\\pm", "\\mp"):
            return Op(sign[1:], (node,))
        return negated(node) if sign == "-" else node

    def _product(self) -> Node:
        left = self._power()
        while True:
            if self._take("*", "\\cdot", "\\times", "\\ast"):
                left = times(left, self._factor())
            elif self._take("/", "\\div"):
                left = divided(left, self._factor())
            elif self._begins_factor():
                left = self._beside(left)
            else:
                return left

    def _factor(self) -> Node:
        """What follows a sign of multiplication, which may have a sign of its own."""
        sign = self._take("+", "-")
        return self._signed(sign, self._power())

    def _begins_factor(self) -> bool:
        text, kind = self._next(), self._kind()
        if not text or text in ENDS or text in RELATIONS or text in SET_SIGNS or text in OR + AND:
            return text == "|" and self._bars == 0
        return kind != "sign" or text in ("(", "[", "{")

    def _beside(self, left: Node) -> Node:
        """A product without a sign; a mixed number; two numbers side by side are neither."""
        if self._kind() not in ("number", "repeating"):
            is_fraction = self._next() == "\\frac"
            right = self._power()
            if is_fraction and isinstance(right, Num):
                return mixed(left, right)
            return joined(left, "product", right)
        right = self._power()
        if isinstance(left, Op) and left.name == "factorial":  # 3!7!
            return joined(left, "product", right)
        if isinstance(right, Num) and self._take("/"):
            return mixed(left, divided(right, self._power()))
        raise Unreadable

    def _power(self) -> Node:
        """A factor with what stands behind it: powers, factorials, per cent, degrees."""
        node = self._primary()
        while True:
            if self._take("^", "**"):
                node = Op("pow", (node, self._exponent()))
            elif self._take("!"):
                node = Op("factorial", (node,))
            elif self._take("!!"):
                node = Op("double_factorial", (node,))
            elif self._take("%"):
                node = in_percent(node)
            elif self._take("°"):
                node = Op("degree", (node,))
            elif isinstance(node, Num) and self._take("_"):
                node = self._in_base(node)
            elif self._next() in ("_", "'") and isinstance(node, Sym):
                node = Sym(node.name + self._mark())
            else:
                return node

    def _in_base(self, digits: Num) -> Node:
        base = self._argument()
        if not isinstance(base, Num) or base.value.denominator != 1 or not 2 <= base.value <= 36:
            raise Unreadable
        return Op("base", (digits, base))

    def _exponent(self) -> Node:
        self._enter()
        sign = self._take("+", "-")
        node = self._signed(sign, self._primary())
        if self._take("^"):  # a^b^c; LaTeX does not allow it, people write it
            node = Op("pow", (node, self._exponent()))
        self._depth -= 1
        return node

    def _mark(self) -> str:
        """A prime, or a subscript, which is part of a name."""
        if self._take("'"):
            return "'"
        self._expect("_")
        if not self._take("{"):
            return "_" + self._one().text
        name = "_"
        while not self._take("}"):
            name += self._one().text
        return name

    def _one(self) -> Token:
        if self.at_end():
            raise Unreadable
        self._at += 1
        return self._tokens[self._at - 1]

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise Unreadable

    def _primary(self) -> Node:
        self._enter()
        node = self._read_primary(self._one())
        self._depth -= 1
        return node

    def _read_primary(self, token: Token) -> Node:
        text = token.text
        if token.kind in ("number", "repeating"):
            return literal(text)
        if text in CONSTANTS:
            return Const(CONSTANTS[text])
        if token.kind == "letter":
            return Sym(text)
        if token.kind == "text":
            return self._word(text[1:-1].strip())
        if text in CLOSES:
            return self._bracket(text)
        if text in AROUND:
            return self._around(text)
        return self._command(text.removeprefix("\\")) if token.kind in ("command", "word") else _unreadable()

    def _word(self, word: str) -> Node:
        if word in FUNCTIONS:
            return self._function(word)
        if word in CONSTANTS:
            return Const(CONSTANTS[word])
        return Sym(word) if word else _unreadable()

    def _bracket(self, opening: str) -> Node:
        bars, self._bars = self._bars, 0
        if self._take("}", "\\}", "\\rbrace") if opening in ("\\{", "\\lbrace") else False:
            node: Node = Seq("{}", ())
        else:
            node = self._in_brackets(opening, self.sequence())
        self._bars = bars
        return node

    def _in_brackets(self, opening: str, inner: Node) -> Node:
        if opening in ("\\{", "\\lbrace") and self._take("\\mid", ":", "|"):
            inner = self.sequence()  # {x | x > 1} is x > 1
        closing = self._expect(*CLOSES[opening])
        items = inner.items if isinstance(inner, Seq) and inner.kind == "," else (inner,)
        if opening in ("\\{", "\\lbrace"):
            return inner if isinstance(inner, Rel) else Seq("{}", items)
        if opening == "{":
            return Seq("{}", items) if len(items) > 1 else inner
        if len(items) == 1:
            if (opening, closing) in (("(", "]"), ("[", ")")):
                raise Unreadable
            return inner
        if opening == "[" or opening == "\\lbrack":
            return Seq("[)" if closing == ")" else "[]", items)
        return Seq("(]" if closing == "]" else "()", items)

    def _around(self, opening: str) -> Node:
        closing, name = AROUND[opening]
        self._bars += opening == closing
        node = self.sequence()
        self._bars -= opening == closing
        self._expect(closing)
        return Op(name, (node,))

    def _command(self, name: str) -> Node:
        if name == "frac":
            upper = self._argument()
            return divided(upper, self._argument())
        if name == "binom":
            upper = self._argument()
            return Op("binom", (upper, self._argument()))
        if name == "sqrt":
            return self._root()
        if name in FUNCTIONS:
            return self._function(name)
        if name in GREEK:
            return Sym(name)
        if name in ("emptyset", "varnothing"):
            return Seq("{}", ())
        if name == "mathbb":
            return self._number_set()
        if "\\" + name in ACCENTS:
            return Sym(name + self._mark_in_braces())
        return self._matrix() if name == "begin" else _unreadable()

    def _number_set(self) -> Node:
        self._expect("{")
        name = self._one().text
        self._expect("}")
        return Const(name) if name in "RZNQC" else Sym("bb" + name)

    def _mark_in_braces(self) -> str:
        self._expect("{")
        name = "("
        while not self._take("}"):
            name += self._one().text
        return name + ")"

    def _argument(self) -> Node:
        """What a fraction or root takes: braces, or one character."""
        if self._kind() == "number":
            text = self._next()
            if len(text) > 1 and text.isdigit():  # \frac12 is one half
                rest = Token("number", text[1:], False)
                self._tokens[self._at] = rest
                return literal(text[0])
        return self._primary()

    def _root(self) -> Node:
        index: Node = Num(Fraction(2))
        if self._take("["):
            index = self._sum()
            self._expect("]")
        return Op("root", (self._primary(), index))

    def _function(self, name: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        while self._next() in ("_", "^"):
            if self._take("_"):
                base = self._argument()
            else:
                self._expect("^")
                power = self._exponent()
        if base is not None and name != "log":
            raise Unreadable
        self._enter()
        argument = self._function_argument()
        self._depth -= 1
        if isinstance(power, Num) and power.value == -1:
            name, power = "arc" + name, None
        node = Op(name, (argument,) if base is None else (argument, base))
        return node if power is None else Op("pow", (node, power))

    def _function_argument(self) -> Node:
        """Brackets, or everything up to the next sign, bracket or function: sin 2x."""
        if self._next() in ("(", "[", "{"):
            return self._power()
        sign = self._take("-")
        node = self._power()
        while self._names_a_value():
            node = Op("product", (node, self._power()))
        return self._signed(sign, node)

    def _names_a_value(self) -> bool:
        name = self._next().removeprefix("\\")
        return (self._begins_factor() and self._kind() in ("letter", "text")) or name == "pi" or name in GREEK

    def _matrix(self) -> Node:
        name = self._name_in_braces()
        if name not in MATRICES:
            raise Unreadable
        if name == "array":
            self._name_in_braces()
        rows: list[tuple[Node, ...]] = []
        while not self._take("\\end"):
            row = [self._relation()]
            while self._take("&"):
                row.append(self._relation())
            rows.append(tuple(row))
            if not self._take("\\\\") and self._next() != "\\end":
                raise Unreadable
        if self._name_in_braces() != name or len({len(row) for row in rows}) != 1:
            raise Unreadable
        matrix = Matrix(tuple(rows))
        return Op("determinant", (matrix,)) if name == "vmatrix" else matrix

    def _name_in_braces(self) -> str:
        self._expect("{")
        name = ""
        while not self._take("}"):
            name += self._one().text
        return name
