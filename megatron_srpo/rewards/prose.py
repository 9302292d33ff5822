"""What of a response is prose: neither mathematics nor code nor markup.

Everything here takes time linear in the response, whatever is in it: a policy under training writes what no
one would, and a worker waits for it.
"""

from __future__ import annotations

import re

ENVIRONMENTS = (
    "equation|align(?:ed|at)?|gather(?:ed)?|multline|eqnarray|cases|array|split|(?:small)?[pbvBV]?matrix"
    "|tabular|tikzpicture|asy|verbatim|lstlisting|minted"
)
OPENER = re.compile(
    r"\\\\|\\\$"  # a line break and a dollar, which open nothing
    rf"|```|`|\$\$|\$(?=\S)|\\\(|\\\[|\\begin\{{(?:{ENVIRONMENTS})\*?\}}"
)
# By opener, what ends it.  A blank line (for inline code, a line's end) says that it was no opener at all,
# and a dollar before a digit is money: `it costs $5 or $7`.
BLANK_LINE = r"\n[ \t]*+\n"
CLOSERS = {
    "```": re.compile("```"),
    "`": re.compile(r"`|\n"),
    "$$": re.compile(r"\$\$"),
    "$": re.compile(rf"(?<=\S)\$(?!\d)|{BLANK_LINE}"),
    "\\(": re.compile(rf"\\\)|{BLANK_LINE}"),
    "\\[": re.compile(r"\\\]"),
    "\\begin": re.compile(rf"\\end\{{(?:{ENVIRONMENTS})\*?\}}"),
}
INLINE = ("`", "$", "\\(")
# A line of code without a fence: only what prose hardly looks like.
CODE_LINE = re.compile(
    r"^[ \t]*+(?:"
    r"(?:def|class)[ \t]+\w.*:"
    r"|(?:from[ \t]+[\w.]++[ \t]+)?import[ \t]+\w.*"
    r"|(?:if|elif|else|for|while|with|try|except|return|print|assert)\b.*[:)\]]"
    r"|return[ \t]+\S+"
    r"|using[ \t]+namespace\b.*"
    r"|(?:int|long|double|float|char|bool|auto|void|const|std|cin|cout)\b.*[;{]"
    r"|.*[)\]}\"'0-9];"
    r"|.*[{}]"
    r"|(?://|#(?![# \t])).*"
    r"|[A-Za-z_][\w.\[\]]*+[ \t]*+[-+*/%]?=[ \t]*+(?:\S++|.*[)\]}])"
    r")[ \t]*$",
    re.MULTILINE,
)
ASCII_LETTERS = re.compile("[A-Za-z]+")
MARKUP = re.compile(
    r"</?[A-Za-z][^<>\n]*+>"
    r"|(?:https?|ftp)://\S++|\bwww\.\S++"
    # Commands without delimiters, and the arguments that are names.
    r"|\\(?:begin|end|mathrm|mathbb|mathcal|operatorname|label|ref|tag|documentclass|usepackage)\*?\{[^{}\n]*+\}"
    r"|\\[A-Za-z]++\*?"
    # Identifiers: x_1, snake_case, dp2, camelCase, NaCl, obj.method(...
    r"|(?<![A-Za-z0-9_])(?=[A-Za-z0-9_])(?:[0-9_]++[A-Za-z]|[A-Za-z]++[0-9_]|[A-Z]?[a-z]++[A-Z])[A-Za-z0-9_]*+"
)


def prose(response: str) -> str:
    """The response without mathematics, code, tags, addresses and identifiers; white space takes their places."""
    text = _without_enclosed(response)
    # Of code only the ASCII letters, keywords and names, or `//` would hide a sentence in another script.
    text = CODE_LINE.sub(lambda line: ASCII_LETTERS.sub(" ", line.group()), text)
    return MARKUP.sub(" ", text)


def _without_enclosed(text: str) -> str:
    """Without what stands between delimiters; a delimiter that nothing closes opens nothing."""
    kept: list[str] = []
    kept_to = at = 0
    upcoming: dict[str, re.Match[str] | None] = {}
    while found := OPENER.search(text, at):
        at = found.end()
        kind = "\\begin" if found.group().startswith("\\begin") else found.group()
        if kind not in CLOSERS:
            continue
        # The last search's result serves until we are past it, so that all searches together are one pass.
        closer = upcoming.get(kind)
        if kind not in upcoming or (closer is not None and closer.start() < at):
            closer = upcoming[kind] = CLOSERS[kind].search(text, at)
        if closer is not None and "\n" not in closer.group():
            # A formula of its own often ends the sentence, with a full stop that goes with it.
            kept += text[kept_to : found.start()], " " if kind in INLINE else "\n"
            kept_to = at = closer.end()
    kept.append(text[kept_to:])
    return "".join(kept)
