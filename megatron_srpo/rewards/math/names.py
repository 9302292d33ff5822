"""The signs, functions and brackets that the reader knows."""

from __future__ import annotations

RELATIONS = {
    **{sign: sign for sign in "=<>"},
    "<=": "<=", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=", "\\leqq": "<=",
    ">=": ">=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\geqq": ">=",
    "\\lt": "<", "\\gt": ">", "!=": "!=", "\\ne": "!=", "\\neq": "!=", "\\approx": "~", "\\in": "in",
}  # fmt: skip
SET_SIGNS = {"\\cup": "cup", "\\cap": "cap", "\\setminus": "minus", "\\backslash": "minus"}
_FUNCTIONS = (
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log lg exp arsinh arcosh artanh"
)
FUNCTIONS = _FUNCTIONS.split()
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell"
)
GREEK = _GREEK.split()
CONSTANTS = {"\\pi": "pi", "pi": "pi", "\\infty": "oo", "infinity": "oo", "inf": "oo", "infty": "oo", "e": "e"}
CONSTANTS |= {"i": "i", "\\imath": "i"}
ACCENTS = ("\\vec", "\\overline", "\\bar", "\\hat", "\\tilde", "\\widehat", "\\overrightarrow")
MATRICES = ("matrix", "pmatrix", "bmatrix", "vmatrix", "Bmatrix", "smallmatrix", "array")
CLOSES = {"(": (")", "]"), "[": ("]", ")"), "\\{": ("\\}",), "{": ("}",), "\\langle": ("\\rangle",)}
CLOSES |= {"\\lbrace": ("\\rbrace",), "\\lbrack": ("\\rbrack",)}
AROUND = {"\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil"), "\\lvert": ("\\rvert", "abs")}
AROUND |= {"\\lVert": ("\\rVert", "abs"), "\\|": ("\\|", "abs"), "|": ("|", "abs"), "\\vert": ("\\vert", "abs")}
# What begins no factor.
_CLOSING = r"\\ \end \mid \pm \mp \} \rbrace \rangle \rfloor \rceil \rvert \rVert"
ENDS = frozenset(")]}|,;:%!°'&_^+-") | frozenset(_CLOSING.split())
OR, AND = ("or", "\\lor", "\\vee", "«or»"), ("and", "\\land", "\\wedge", "«and»")
