"""Questions with choices: found, and turned into open questions where that is possible."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.asking import OPEN_ASKED, VALUE_ASKED
from megatron_srpo.data.curate.rules.latex import broken
from megatron_srpo.data.curate.rules.rule import Repaired, RuleSettings
from megatron_srpo.data.curate.rules.segments import prose_of

LETTERS = "ABCDEFGH"
_COMMAND = r"\\(?:text|textbf|mathrm|mathbf|textsf|textup|rm|bf|mathit)\s?\{?\s?\{?\s?"
# (A) \textbf{(A)} $\mathrm{(A)}$ **A.** A) A. A: -- the style is what stands around the letter.
MARKER = re.compile(
    rf"(?:(?<![A-Za-z\d\\])"
    rf"|(?=\\[tmrb]))(?:\$(?=[\\({{A-Ha-h*]))?(?:\*\*)?(?:\$(?=[\\({{A-Ha-h]))?(?P<command>{_COMMAND})?(?:(?P<open>[(（\[])\s?)?(?P<inner>{_COMMAND})?(?P<letter>[A-Ha-h])\s?(?(inner)\}}?)\s?"
    r"(?P<close>[)）\].:、．])(?:\s?\})?(?:\s?\})?(?:\*\*)?(?:\\?[:.])?(?:\\ |~|\\[,;:]|\\q?quad"
    r"|\s?\$(?=\s))?(?P<after>\s?)"
)
BEFORE_PLAIN = re.compile(
    r"(?:^|\n|[;,.]\s|\s{2}|\\q?quad\s?|\?\s|:\s|\$\s|\d\s|\\\\\s?|[a-z]\s|[.;]|^\s|\)\s)[\s>*-]{0,3}$"
)
EDGES = re.compile(r"^(?:\s|\\q?quad|\\[ ,;:]|~|\\\\|&|:)+|(?:\s|\\q?quad|\\[ ,;:]|~|\\\\(?![a-z])|&|[;,])+$")
MEANS_CHOICES = re.compile(
    r"\b(?:which|what|one|any|all|none|how many|some|each|two) (?:one |ones )?of (?:the )?(?:following"
    r"|these|those|below|answer|statements? below)\b"
    r"|\b(?:of|among|from|for) the (?:following|choices|options|given (?:options|choices)|above)\b"
    r"|\bwhich (?:of the |one of the |is the )?(?:\w+ )?(?:statements?|options?|choices?|conclusions?"
    r"|propositions?|expressions? below|answers?)\b"
    r"|\bthe (?:correct|incorrect|false|true|wrong|right|best) (?:\w+ )?(?:statements?|options?"
    r"|choices?|answers?|ones?|conclusions?|propositions?|one is)\b"
    r"|\b(?:select|choose|pick|mark|circle) (?:the|one|an|all)\b|\b(?:closest|nearest) to\b"
    r"|\bbest (?:describes|approximat|estimate)"
    r"|\b(?:could|can|cannot|may|might|must) (?:not )?(?:possibly )?be(?: the| an?)?(?= \w+|\s?\?|\s?:"
    r"|\s?$)(?=[^.?]{0,40}[?:]?\s?$)"
    r"|\bwhich (?:is|are) (?:correct|incorrect|true|false)\b|\bfollowing (?:statements?|options?"
    r"|choices?|propositions?|conclusions?)\b",
    re.IGNORECASE,
)
LISTED = re.compile(r"[:：]\s?\S|\n|\b(?:I|i|1)[.)]|\(?\b(?:I|i|1)\)|,[^,.?]+(?:,| or | and )")
ANSWER_LETTER = re.compile(
    r"(?:(?:the )?(?:correct )?(?:answer|option"
    r"|choice)(?: is)?:?\s)?(?:\$\s?)?(?:\\boxed\{)?(?:\\(?:text|textbf|mathrm"
    r"|mathbf)\s?\{)?\s?[(\[]?\s?"
    r"(?P<letter>[A-Ha-h])\s?[)\].:]?\s?\}{0,2}(?:\s?\$)?(?P<rest>(?:\\ |[\s:,~]|\\q?quad).{1,300})?",
    re.DOTALL,
)
SEVERAL_LETTERS = re.compile(r"\(?[A-H]\)?(?:\s?(?:,|and|&|;)?\s?\(?[A-H]\)?){1,6}")
META_OPTION = re.compile(
    r"\b(?:none|all|both|either|neither|any) (?:of|are|is|the)\b|\b(?:above|not enough information"
    r"|cannot be determined|can't be)\b"
    r"|\b(?:both|neither) [A-H1-4(]|\bnone\b|^[(]?[A-H][)]? (?:and|or) [(]?[A-H]|\bonly \(?(?:I|[A-D]"
    r"|1)|^I+(?:,| and| only)",
    re.IGNORECASE,
)
STEM_NEEDS_BLANK = re.compile(r"(?:[\w$\])}=]|[,:;—–-])$")
BLANK_BRACKETS = re.compile(r"[(（]\s{0,9}[)）]\s?\.?\s?$")
NAMES_SOMETHING = re.compile(r"(?:denotes?|be|represents?|stands? for|and|or)\b|[-+=]\s")
"""Behind a letter in brackets that is a name: (A) denote the area."""
LONGEST_OPTION = 400
LONGEST_PROMPT = 20_000  # a longer one is no question with choices


class Choices(NamedTuple):
    """A question and its choices."""

    stem: str
    options: tuple[str, ...]
    lower: bool = False
    """Whether the letters are small, as those of parts are."""


def open_choices(draft: Draft, settings: RuleSettings) -> Repaired | None:
    """Turns a question with choices into an open one: the choices go, the right one becomes the answer."""
    if settings.multiple_choice != "open":
        return None
    found = choices_of(draft)
    if found is None or MEANS_CHOICES.search(prose_of(found.stem)):
        return None
    answer = _right_option(draft.answer, found.options)
    if answer is None or META_OPTION.search(answer):
        return None
    stem = _asking(found.stem)
    if not stem or broken(stem) or broken(answer):
        return None
    return replace(
        draft, prompt=stem, answer=answer, options=()
    ), f"answer {draft.answer.strip()[:20]} -> {answer[:40]}"


def choices_left(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses choices that were not turned into an open question."""
    if draft.options:
        return f"{len(draft.options)} choices beside the prompt"
    found = choices_of(draft)
    if found is not None:
        return f"{len(found.options)} choices in the prompt"
    if len(draft.prompt) > LONGEST_PROMPT:
        return None
    prose = prose_of(draft.prompt)
    asked = re.search(r"\b[Ww]hich (?:one )?of (?:the following|these)\b", prose)
    if asked and (_letter(draft.answer) or SEVERAL_LETTERS.fullmatch(draft.answer.strip())):
        return "asks which of the following, and the answer is a letter"
    if asked and not LISTED.search(prose[asked.end() :]) and not re.search(r"[,\n]", prose[: asked.start()]):
        return "asks which of the following, and nothing follows"
    return None


def choices_of(draft: Draft) -> Choices | None:
    """The choices of a question, kept apart or in the prompt; None where there are none."""
    inside = _in_prompt(draft.prompt)
    if inside is not None and inside.lower and not _letter(draft.answer):
        inside = None
    if inside is None and len(draft.options) > 1:
        return Choices(draft.prompt, tuple(map(_clean, draft.options)))
    return inside


def _in_prompt(prompt: str) -> Choices | None:
    if len(prompt) > LONGEST_PROMPT or not re.search(r"[Bb]\s?\}?\s?[)）\].:、．]", prompt):
        return None
    run = _run(prompt)
    if len(run) < 3 and not (len(run) == 2 and run[0]["open"] and run[0]["letter"].isupper()):
        return None
    ends = [marker.start() for marker in run[1:]] + [len(prompt)]
    options = tuple(_clean(prompt[marker.end() : end]) for marker, end in zip(run, ends, strict=True))
    stem = _stem(prompt[: run[0].start()])
    if not all(options) or max(map(len, options)) > LONGEST_OPTION or _continues(prompt[run[-1].end() :]):
        return None
    if any(map(NAMES_SOMETHING.match, options)):
        return None
    if any(_asks(option) for option in options) or re.search(r"\n\s*\n\s*\S", options[-1]):
        return None
    return Choices(stem, options, run[0]["letter"].islower()) if stem else None


def _run(prompt: str) -> list[re.Match[str]]:
    """The last markers A, B, C, ... of one style, one after the other."""
    best: list[re.Match[str]] = []
    current: dict[tuple[str, str, bool], list[re.Match[str]]] = {}
    for marker in MARKER.finditer(prompt):
        if not _can_start(prompt, marker):
            continue
        style = (marker["open"] or "", marker["close"], marker["letter"].isupper())
        run = current.get(style, [])
        letter = marker["letter"].upper()
        if letter == "A":
            run = [marker]
        elif run and LETTERS.index(letter) == len(run):
            run = [*run, marker]
        else:
            continue
        current[style] = run
        if len(run) >= max(2, len(best)):
            best = run
    return best


def _can_start(prompt: str, marker: re.Match[str]) -> bool:
    """Whether a choice can start here: a letter without brackets only after a break."""
    if marker["open"] or marker["command"]:
        return marker["close"] in ")）]" or bool(marker["command"])
    before = prompt[max(0, marker.start() - 12) : marker.start()]
    if marker["close"] in ".:" and not marker["after"] and prompt[marker.end() : marker.end() + 1] != "$":
        return False
    if marker["close"] == ":" or marker["letter"].islower():
        ends = ("\n", "?", ":", ";") if marker["letter"].isupper() else ("\n", "?", ":")
        return before.strip(" *>-") == "" or before.rstrip(" *>-").endswith(ends)
    return BEFORE_PLAIN.search(before) is not None


def _continues(last: str) -> bool:
    """Whether the text goes on after the last choice with a line of its own that asks or tells something."""
    _, _, rest = last.strip().partition("\n")
    return (
        bool(rest.strip()) and len(rest.split()) > 2 and bool(re.search(r"[?.]|\b(?:find|who|what|how)\b", rest))
    )


def _asks(option: str) -> bool:
    prose = prose_of(option)
    if len(prose.split()) < 2:
        return False
    return (
        "?" in prose
        or bool(
            VALUE_ASKED.match(prose)
            and re.match(r"(?i)(?:find|compute|calc|determ|eval|solve|simpl|what|how|write|express)", prose)
        )
        or OPEN_ASKED.match(prose) is not None
    )


def _clean(option: str) -> str:
    """A choice without what separates it from the next, and without the dollars around all of it."""
    text = option.strip()
    for _ in range(4):
        before = text
        text = EDGES.sub("", text).strip().strip("*").strip()
        text = re.sub(r"(?<=\S)\.$", "", text) if not text.endswith("..") else text
        if text.count("$") % 2:
            text = text[:-1] if text.endswith("$") else text.removeprefix("$")
        if len(text) > 1 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
            text = text[1:-1]
        text = re.sub(r"\\end\{(?:array|tabular)\}$", "", text)
        if text == before:
            break
    return text


def _stem(text: str) -> str:
    stem = EDGES.sub("", text.rstrip().rstrip("*").rstrip()).strip()
    if stem.endswith("$") and stem.count("$") % 2:
        stem = stem[:-1].rstrip()
    stem = re.sub(r"(?:\n|(?<=[.?:])\s)(?:Answer )?(?:Options|Choices)\s?:?$", "", stem, flags=re.IGNORECASE)
    return re.sub(r"\\\\$|\\q?quad$", "", stem).rstrip()


def _asking(stem: str) -> str:
    """The question without choices; a statement that a choice completed gets a blank."""
    stem = BLANK_BRACKETS.sub("____", stem).rstrip()
    if stem.endswith(("____", "?", ".")) or not STEM_NEEDS_BLANK.search(stem):
        return stem
    stem = stem.rstrip(":;,—–- ")
    if re.search(r"\b(?:is|are|equals?|be|by|to|of|as|was|in)$|=\$?$", stem):
        return f"{stem} ____."
    return stem + "."


def _letter(answer: str) -> re.Match[str] | None:
    found = ANSWER_LETTER.fullmatch(answer.strip())
    return found if found and not found["rest"] else None


def _right_option(answer: str, options: tuple[str, ...]) -> str | None:
    """What the answer says: the option of its letter, or the option that it is."""
    same = [option for option in options if _plain(option) == _plain(answer)]
    found = ANSWER_LETTER.fullmatch(answer.strip())
    if found is None or (same and not _letter(answer)):
        return _clean(answer) if same else None
    at = LETTERS.index(found["letter"].upper())
    if at >= len(options):
        return None
    if found["rest"] and _plain(found["rest"]) != _plain(options[at]):
        return None
    return options[at]


def _plain(text: str) -> str:
    """A choice for comparing."""
    return (
        re.sub(r"[\s$]|\\[ ,;:]|\\q?quad|\\left|\\right|~|\.$|^[:.)]", "", _clean(text))
        .replace("dfrac", "frac")
        .lower()
    )
