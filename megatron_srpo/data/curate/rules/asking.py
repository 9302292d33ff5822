"""Where a problem asks for something: questions, commands and blanks to fill in.

All functions take prose as `segments.prose_of` makes it.
"""

from __future__ import annotations

import re

from megatron_srpo.data.curate.rules.segments import MARK

# Commands that ask for a value wherever they stand as one.
_VALUE = (
    "find|compute|calculate|evaluate|determine|simplify|solve|what|how many|how much|how long|how far|how old|how"
    "|which|express|factori[sz]e|factor|expand|estimate|approximate|round|convert|integrate"
    "|differentiate|minimi[sz]e"
    "|maximi[sz]e|reduce|rationali[sz]e|count|work out|derive|obtain|rewrite|identify|figure out|deduce the|decide"
    "|give|name|state|list|write|enter|report|choose|select|arrange|order|classify|compare|complete|fill in|fill"
    "|add|subtract|multiply|divide|sum|characteri[sz]e|specify|guess|indicate|translate|represent|use|insert|place"
    "|replace|locate|answer|search|let us find|tell|form|rank|sort|match|perform|put|make|turn|change"
    "|break|cut|split"
    "|combine|graph|infer|investigate|examine|is|are|does|do|did|can|could|will|would|who|whose|whom"
    "|when|where|why"
)
# Commands whose result is a text or a drawing.
_OPEN = "prove|show|verify|demonstrate|establish|justify|explain|describe|draw|sketch|plot|construct|discuss|check"
# A command or question starts a sentence, or follows `and`, `then` and the like.
_START = (
    rf"(?:^|[.!?:;][)\"”]?\s+|\n[-*•>#\s]{{0,4}}|[{MARK}][.,]?\s+(?=(?-i:[A-Z]))|\s[-–—]\s"
    r"|[(\[]\s?[a-z\d]{1,4}\s?[)\]]\s?|\b(?:\d{1,2}|[a-z])[.)]\s"
    r"|\b(?:and|then|also|hence|please|to|now|or|thus|first|next|finally|moreover|otherwise|must"
    r"|should|if so|i\.e\.)"
    r",?\s(?:also\s|then\s|hence\s|thus\s|to\s)?)"
)
_POLITE = (
    r"(?:(?:please|hence|now|then|also|first|next|thus|therefore|use this to|your task is to"
    r"|you are to|let us|and)"
    r",?\s(?:or otherwise,?\s)?)?"
)
VALUE_ASKED = re.compile(rf"{_START}{_POLITE}(?:{_VALUE})\b", re.IGNORECASE)
OPEN_ASKED = re.compile(rf"{_START}{_POLITE}(?:{_OPEN})\b", re.IGNORECASE)
# Of these, what is a question of its own; `list them in order` and `round to tenths` are not.
COUNTED = re.compile(
    rf"{_START}{_POLITE}(?:find|compute|calculate|evaluate|determine|simplify|solve|what|how many|how much"
    r"|factor|state)\b",
    re.IGNORECASE,
)
NAMED = re.compile(
    r"(?:the )?(?:half|twice|double|derivative|integral|area|sum|product|square root|cube root|difference"
    r"|quotient|volume|perimeter|inverse|limit|roots|solutions?|number) of\b[^.]{1,80}\.?$",
    re.IGNORECASE,
)
"""What is asked for is named and nothing else: `Derivative of x^3`."""
STRONG = re.compile(
    r"\b(?:find|compute|calculate|evaluate|determine|simplify|solve|how many|how much|what|prove"
    r"|show that|verify that|asked|output|print|return|name the|subtract|respond with|copy|format"
    r"|establish|proved)\b",
    re.IGNORECASE,
)
BLANK = re.compile(
    r"_{2,}|(?:\\_\s?){2,}|\\underline|\\(?:hspace|qquad)\b|\(\s+\)|\[\s+\]|…{2,}|\.{5,}|\\blank|□|\\square"
)
"""What is to be filled in."""
FILL_IN = re.compile(
    rf"(?:\b(?:is|are|equals?|be|as|to|was|=)|[{MARK}]\s?=)\s?:?\s?(?:\(\s?\))?[.:]?$", re.IGNORECASE
)
"""A statement that the answer completes: `then the value of x is`."""
FILL_IN_STARTS = re.compile(
    r"\b(?:then|the (?:\w+[ -]){0,3}(?:value|values|number|sum|area|range|length|maximum|minimum"
    r"|product|probability|equation"
    r"|solution|solutions|set|answer|remainder|result|ratio|coordinates|volume|radius|angle|distance"
    r"|domain|perimeter"
    r"|coefficient|term|slope|size|magnitude|interval|roots?)) ",
    re.IGNORECASE,
)
EQUALS_WHAT = re.compile(r"=\s?(?:\?|_|\\_|□|\\square|\.{3}|…|\$?$)|\?\s?=")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])|\n")


def sentences(prose: str) -> list[str]:
    """The sentences and lines of a text."""
    return [sentence for sentence in SENTENCE.split(prose) if sentence]


def asks_for_value(prose: str) -> bool:
    """Whether a value is asked for: not (only) a proof, an explanation or a drawing."""
    return "?" in prose or VALUE_ASKED.search(prose) is not None or asks_blank(prose)


def asks_blank(prose: str) -> bool:
    """Whether there is a blank, or the text's end waits for the answer."""
    if BLANK.search(prose):
        return True
    last = prose[-400:]
    return FILL_IN.search(last) is not None and FILL_IN_STARTS.search(last) is not None


def asks_anything(prose: str) -> bool:
    """Whether there is any question, command or blank."""
    if "?" in prose or NAMED.match(prose):
        return True
    return any(pattern.search(prose) for pattern in (STRONG, VALUE_ASKED, OPEN_ASKED)) or asks_blank(prose)


def count_asked(prose: str) -> int:
    """How many questions and commands there are."""
    asked = 0
    for sentence in sentences(prose):
        if "?" in sentence:
            asked += max(1, sentence.count("?"))
        else:
            asked += len(COUNTED.findall(sentence))
    return asked
