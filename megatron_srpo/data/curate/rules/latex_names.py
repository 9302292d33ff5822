"""Names of LaTeX that tell a broken command from anything else."""

from __future__ import annotations

# By the escape sequence that a command's first letter made: the rest of commands that begin with it.
RESTS = {
    "\x07": "lpha|ngle|pprox|rcsin|rccos|rctan|rg|st|ligned",
    "\x08": (
        "eta|egin|inom|ar|oxed|igl|igr|iggl|iggr|igg|igcup|igcap|ig|ullet|ecause|oldsymbol|ot|mod|mathbf"
        "|m|f|ackslash"
    ),
    "\x0b": "ec|arepsilon|artheta|arphi|arnothing|ee|dots|ert|phantom|space",
    "\x0c": "rac|orall|loor|box",
}
EATEN = "(?:" + "|".join(f"{escape}(?=(?:{rest})(?![a-z]))" for escape, rest in RESTS.items()) + ")"
"""A control character that was a backslash and a letter."""
LETTER = {"\x07": "a", "\x08": "b", "\x0b": "v", "\x0c": "f", "\t": "t", "\r": "r", "\n": "n"}

# White space that was the start of a command: these rests are no words, and stand anywhere.
EATEN_SPACE = {
    "\t": r"imes|heta|frac|riangle|riangleq|ilde|extbf|extit|extrm|herefore|binom|hickspace|ext(?=\s?\{)",
    "\r": r"ho|ightarrow|ight(?=\s?[)\]|}.\\>])|floor|ceil|angle(?=\s?[$\\.,])|brace",
    "\n": r"eq|abla|otin|earrow|subseteq|leq|geq|mid",
}
# These are words or letters, so only within a formula.
EATEN_SPACE_IN_FORMULA = {"\t": "an|au|o|op", "\n": "e|u|i|parallel"}

COMMANDS = (
    "frac|dfrac|tfrac|cfrac|sqrt|cdot|cdots|ldots|dots|times|div|left|right|begin|end|text|textbf"
    "|textit|textrm|mathrm"
    "|mathbf|mathbb|mathcal|mathfrak|operatorname|overline|underline|widehat|widetilde|vec|hat|bar"
    "|tilde|sum|prod|int"
    "|iint|oint|lim|infty|alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota"
    "|kappa|lambda|mu|nu|xi"
    "|pi|rho|sigma|tau|upsilon|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega"
    "|leq|geq|neq|le|ge"
    "|ne|equiv|approx|cong|sim|simeq|propto|subset|subseteq|supset|supseteq|notin|cup|cap|setminus"
    "|emptyset|varnothing"
    "|forall|exists|implies|iff|to|rightarrow|leftarrow|Rightarrow|Leftarrow|Leftrightarrow|mapsto|angle|triangle"
    "|parallel|perp|circ|degree|pm|mp|binom|dbinom|tbinom|pmod|bmod|boxed|quad|qquad|displaystyle"
    "|lfloor|rfloor|lceil"
    "|rceil|langle|rangle|mid|nmid|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|max|min|gcd"
    "|lcm|det|in|star|ast"
    "|prime|partial|nabla|therefore|because|stackrel|overrightarrow|mathit|mathsf|ell|Re|Im|bullet"
    "|square|dotsb|dotsc"
    "|limits|space|hspace|phantom|overbrace|underbrace|xrightarrow|sinh|cosh|tanh|deg|arg|exp|inf|sup"
    "|wedge|vee|neg|oplus"
)
"""Commands that a formula of a problem may hold."""
