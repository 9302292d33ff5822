"""Problems that cannot be understood without a picture or a table."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.rules.segments import mentions, prose_of, without_code

DRAWN = re.compile(
    r"!\[[^\]\n]{0,200}\]\s?[(\[]|<img\b|<image>|<svg\b|\[(?:asy|img)\b|<asy>|\[/asy\]|\\includegraphics"
    r"|\\begin\s?\{(?:tikzpicture|asy|picture|pspicture|figure)\}|\[(?:image|figure|diagram"
    r"|picture)(?::[^\]\n]{0,80})?\]"
    r"|<figure\b|\bcdn\.mathpix\.com",
    re.IGNORECASE,
)
FENCED_DRAWING = re.compile(r"```\s?(?:asy|tikz|svg)", re.IGNORECASE)
_PICTURE = r"(?:figures?|fig\.|diagrams?|pictures?|illustrations?|sketch|photo(?:graph)?s?)"
_SHOWN = (
    r"(?:graphs?|images?|drawings?|charts?|pie chart|bar graph|line graph|histogram|number lines?"
    r"|maps?|plots?|shapes?|grids?|spinners?)"
)
_ANY = rf"(?:{_PICTURE}|{_SHOWN})"
_WHERE = (
    r"(?:below|above|shown|(?:to|on|at) (?:the |its )?(?:right|left|bottom|top|side)|on the next page"
    r"|opposite|here|attached"
    r"|provided|depicted|displayed|given below)"
)
_KIND = r"(?:(?!table)[a-z-]{2,14} ){0,2}"
_NOT_SHAPE = (
    r"(?! (?:formed|bounded|enclosed|obtained|consisting|gallery|frame|book|skat|of (?:the |a |an |its )?"
    r"(?:function|equation|curve|number|integer|year|digit|[a-z]\b)))"
)
NAMED = re.compile(
    rf"\b(?:in|see|refer to|from|using|consider|on|as in|by|of|use|study|observe|look at) (?:the |each |this )?"
    r"(?:accompanying |following |adjacent |given |adjoining |attached |provided |corresponding "
    r"|above |right |left )?"
    rf"(?:{_PICTURE})(?=[\s,.;:?)]|$){_NOT_SHAPE}"
    rf"|\b(?:the|this|these|each) {_KIND}(?:{_ANY}) {_WHERE}"
    rf"|\b(?:the|an?|each of the) (?:accompanying|adjacent|adjoining|attached) {_KIND}{_ANY}\b"
    rf"|\bfollowing (?:[a-z-]{{2,14}} )?{_PICTURE}\b(?! numbers)"
    rf"|\bfollowing (?:[a-z-]{{2,14}} )?(?:image|chart|drawing|histogram)s?\b"
    rf"|\bthe (?:[a-z-]{{2,14}} )?(?:{_PICTURE}|graph|chart|histogram|image|pie chart|map|drawing) "
    r"(?:shows?|depicts?|illustrates?|represents the|displays|gives the)\b"
    rf"|\b(?:shown|drawn|pictured|depicted|illustrated|displayed|marked|labell?ed|indicated|given|seen|sketched) "
    r"(?:below |above )?(?:in|on|by|as in) (?:the |this |each )?(?:following |accompanying |adjacent "
    r"|given |right |left )?"
    rf"(?:[a-z-]{{2,14}} )?{_ANY}\b"
    rf"|(?<!the )\b(?:figure|fig\.|diagram|picture) ?(?:\(?\d{{1,2}}(?:[-.]\d{{1,2}})?\)?(?:[\s,.;:)a]|$)"
    r"|[A-D](?=[,.;:) ]))"
    r"|\b(?:pictured|depicted|illustrated|drawn|sketched|graphed|plotted)(?: (?:below|above|here"
    r"|at right|on the right))"
    rf"|\b{_ANY} (?:is|are) (?:shown|given|drawn|displayed|depicted|provided)\b(?! (?:by|to (?:be|have)"
    r"|that|as an?\b|in the (?:example|sample)))"
    r"|\bas in the drawing\b|\b(?:lengths?|angles?|points?|lines?|numbers?|sizes?) in the drawing\b"
    r"|\bin the (?:(?:given|accompanying|right|left|above) )?(?:figure|diagram|picture)s?\b"
    rf"{_NOT_SHAPE}",
    re.IGNORECASE,
)
SHOWN = re.compile(
    r"\b(?:in|on|of|the|each) (?:[a-z]{3,14} ){1,2}shown(?=[.,?])"
    r"|\b(?:based on|according to|from|using|use) the (?:graph|chart|drawing|map|image|number line)(?=[,.]|$)|"
    r"\b(?:as|is|are) (?:shown|pictured|depicted|illustrated)(?:,|\.| below(?![^.]{0,40}:)| above"
    r"| here| at (?:the )?(?:right|left)"
    r"| (?:to|on) the (?:right|left)|\?|$)"
    r"|,? shown (?:below|above|at (?:the )?right|to the right|on the right)(?![^.\n]{0,30}:)",
    re.IGNORECASE,
)
SHADED = re.compile(
    r"\b(?:the|each|of|total) (?:\w+ ){0,2}(?:un)?shaded (?:\w+ )?(?:regions?|areas?|parts?|portions?"
    r"|sections?|triangles?|squares?"
    r"|figures?|sectors?|rings?|circles?|rectangles?|cells?)\b",
    re.IGNORECASE,
)
SHADING = re.compile(
    r"\b(?:is|are|be|we|been|being|he|she|they|then|and) (?:then )?shade[ds]?\b|\bshad(?:es|ing)\b"
    r"|\bis the shaded\b"
    r"|\bshaded (?:\w+ )?(?:so|by|with|in (?:blue|red|gr[ae]y|black))\b",
    re.IGNORECASE,
)
WORTH_A_LOOK = (
    *(
        "figure",
        "fig.",
        "diagram",
        "picture",
        "illustrat",
        "image",
        "sketch",
        "photo",
        "graph",
        "drawing",
        "chart",
    ),
    *("map", "plot", "histogram", "number line", "shade", "shown", "depict", "spinner", "grid", "drawn", "shape"),
)
DRAWN_SIGNS = (
    *("![", "<im", "<svg", "<asy", "<fig", "[asy", "[img", "[/asy", "[image", "[fig", "[diag", "[pic", "graphics"),
    *("{tikz", "{asy", "{ps", "{pic", "{fig", "begin {", "mathpix"),
)

MARKDOWN_TABLE = re.compile(
    r"(?m)^ ?\|? ?:?-{2,200}:? ?(?:\| ?:?-{2,200}:? ?){1,50}\|? ?$|^ ?\|(?: ?:?-{2,200}:? ?\|){1,50} ?$"
)
PIPED_LINES = re.compile(r"(?m)^\|(?! ?\|)(?:[^|\n]{0,200}\|){2,30} ?\n\|(?! ?\|)(?:[^|\n]{0,200}\|){2,30} ?$")
DRAWN_TABLE = re.compile(
    r"<t(?:able|r|d|head|body)\b|\\begin\s?\{(?:tabular[x*]?|longtable|tabu|table)\}|\+-{2,200}\+-{2,200}\+",
    re.IGNORECASE,
)
NO_TABLE = r"(?! (?:tennis|cloth|top|manners|of contents|spoons?))"
NAMED_TABLE = re.compile(
    r"\b(?:the|this|each) (?:(?!(?:dining|round|dinner)\b)[a-z-]{2,15} ){0,2}tables? (?:below|above"
    r"|on the (?:right|left)|at (?:the )?right"
    r"|shows?\b|lists?\b|gives\b|displays\b|summari[sz]es\b|describes\b|records\b|provides\b"
    r"|represents the\b|contains some|"
    r"(?:is|are) (?:shown|given|provided)(?: below| above|\.)?)"
    r"|\b(?:following|accompanying|attached|adjacent|given below is a) (?:(?!round|multiplication"
    rf"|hash)[a-z-]{{2,15}} ){{0,2}}tables?\b{NO_TABLE}"
    r"|\b(?:shown|given|listed|summari[sz]ed|recorded|displayed|presented|described|provided|defined"
    r"|seen) (?:below )?(?:in|by) "
    r"(?:the |this )?(?:following |above )?(?:[a-z-]{2,15} )?tables?\b(?! (?:tennis|of contents))"
    r"|\b(?:according to|based on|refer to|see|consult|use|using|complete|look at|as in|data (?:in"
    r"|from)|values? (?:in|from)|information (?:in|from)"
    r"|entries (?:in|from)) (?:the|this) (?:(?!multiplication|hash|dining"
    r"|round)[a-z-]{2,15} )?table\b(?! of contents)"
    r"|\b[Tt]able (?:\d{1,2}(?:\.\d)?|[IVX]{1,4}) (?:shows|lists|gives|below)|\b(?:in|see|from) [Tt]able \d"
    r"|\btable of values\b(?! (?:is|for) (?:not|how))",
    re.IGNORECASE,
)


def image(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses what needs a picture."""
    prompt = without_code(draft.prompt)
    drawn = (DRAWN.search(prompt) if mentions(prompt, DRAWN_SIGNS) else None) or (
        "```" in draft.prompt and FENCED_DRAWING.search(draft.prompt)
    )
    if drawn:
        return f"has a picture: {drawn[0][:40]}"
    if not mentions(prompt, WORTH_A_LOOK):
        return None
    prose = prose_of(draft.prompt)
    named = NAMED.search(prose) or (SHOWN.search(prose) if draft.domain == "math" else None)
    if named is None and draft.domain == "math" and SHADED.search(prose) and not SHADING.search(prose):
        named = SHADED.search(prose)
    return f"needs a picture: {named[0][:60]}" if named else None


def table(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses what needs a table."""
    prompt = without_code(draft.prompt)
    if "|" in prompt:
        found = MARKDOWN_TABLE.search(prompt) or PIPED_LINES.search(prose_of(draft.prompt))
        if found:
            return "has a table in Markdown"
    if "<t" in prompt or "<T" in prompt or "\\" in prompt or "+--" in prompt:
        drawn = DRAWN_TABLE.search(prompt)
        if drawn:
            return f"has a table: {drawn[0][:40]}"
    if "able" not in prompt:
        return None
    named = NAMED_TABLE.search(prose_of(draft.prompt))
    return f"needs a table: {named[0][:60]}" if named else None
