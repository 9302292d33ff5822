"""Problems of which something is missing."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.asking import (
    EQUALS_WHAT,
    FILL_IN,
    FILL_IN_STARTS,
    SENTENCE,
    asks_anything,
    asks_blank,
)
from megatron_srpo.data.curate.rules.choices import choices_of
from megatron_srpo.data.curate.rules.language import share_of_english
from megatron_srpo.data.curate.rules.latex import broken
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.rules.segments import MARK, MARK_CODE, prose_of, segments

PLACEHOLDER = re.compile(
    r"[\s\W]*(?:n\s?[/.]\s?a\.?|(?:please )?(?:see|refer to|check|cf\.?"
    r"|look at)(?: the)? (?:\w+ )?(?:solutions?|answers?|above|below|explanations?|proof"
    r"|figure|diagram|attachments?|attached|attached \w+|comments?|text|book|back of the book"
    r"|next page|previous \w+)(?: above| below| for details)?"
    r"|(?:answer |solution |text |problem |statement |description |prompt )?(?:is |was "
    r"|has been )?(?:not|un)[ -]?(?:available|given|provided|found|known"
    r"|specified|supplied|applicable|included)|notfound|no solution (?:available|given|provided|found"
    r"|text)|(?:no|missing) (?:answer|problem|description|statement|text|prompt|question)(?: available"
    r"| given| provided| found| here| text| yet)?|unknown|null|nan|nil|undefined answer|tbd|tba|todo"
    r"|to do|to be (?:added|determined|announced|done"
    r"|completed)|\[?(?:deleted|removed|missing|redacted|omitted|blank|empty|placeholder)\]?|(?:answer"
    r"|solution|problem|question) (?:omitted|missing|removed"
    r"|deleted)|lorem ipsum.{0,200}|xxx+|coming soon|left to the reader|(?:solution|answer|problem"
    r"|question)|none (?:given|provided|available)|error)[\s\W]*",
    re.IGNORECASE,
)
PLACEHOLDERS_OF_ANSWERS = (
    "None",
    "-",
    "--",
    "---",
    "?",
    "??",
    "???",
    "...",
    "…",
    ".",
    "_",
    "__",
    "/",
    "[]",
    "{}",
    '""',
    "''",
    "*",
)
ENDS_OPEN = re.compile(
    r"(?:\b(?:the|an|of|and|or|that|such|if|with|for|from|by|at|in|on|whose|where|when|while|because"
    r"|than|their|its|his|her|into"
    r"|between|which|each|every|given|let|then|but|what|how|find|determine|calculate|compute|exactly"
    r"|per|least|most|every|so"
    r"|only|have|were|will|can|must|should|there|they|we|you|both|either|not|no|your|our|my|same|other"
    r"|another|consisting|containing"
    r"|satisfying|has|does|did|do|following|integers? such|such that|respectively,|about|after|before"
    r"|during|until|since|through|having)"
    r"|\b(?:to|a|is|are|was|be|as|equals))$",
    re.IGNORECASE,
)
LEFT_OPEN = re.compile(r"\$[^$\n]{0,200}[=+\-<>^_(,]\s?$")
ENDS_IN_DOTS = re.compile(r"[a-z]{2} ?(?:\.\.\.|…)$")
ENDS_IN_OPERATOR = re.compile(
    r"(?:[+\-*/^_,(<>{\[]|\\(?:cdot|times|frac|sqrt|le|ge|leq|geq|in|left|le|pm|cup|cap|text|mathrm"
    r"|int|sum))\s*\$*$"
)
ENDS_IN_PUNCTUATION = re.compile(r"[,;(\[]$|\s[-–—+*/]$")
PROSE_LINE = re.compile(r"[A-Za-z]{2,}[^A-Za-z]+[A-Za-z]{2,}[^A-Za-z]+[A-Za-z]{2,}")
NAMES_NOTHING = re.compile(rf"[{MARK}{MARK_CODE}\W\d_]*")
VARIABLE_BEFORE = re.compile(
    rf"\b(?:in terms of|and|side|for|point|let|set|solve for|variable|radius|term|matrix) [aA]$|[=+{MARK}] a$"
)
TASK = re.compile(
    r"\b(?:return|print|output|write|implement|your task|task is|create|design|function|program"
    r"|complete|help|should|must|given|define|report|find"
    r"|count|compute|calculate|determine|generate|build|check|convert|sort|make|tell|develop|class"
    r"|method|construct|guess|plot|save|load|open|download|fetch|send|retrieve|use|answer|simulate"
    r"|choose|show|display|train|solve|connect|parse|rotate|reverse|merge|remove|select|query|queries"
    r"|output|read|rename|append|restore|minimize|maximize|estimate|decide|what|how many"
    r"|interactive|look up|change|swap|add|strip|encrypt|decrypt|encode|decode|pick|join|split|apply|move|put"
    r"|fill|list|group|shift|extract|provide|copy|format|drop|flatten|ping|evaluate|simplify|insert"
    r"|assign|test|whether"
    r"|synchroni[sz]e|stream|monitor)s?\b|\?",
    re.IGNORECASE,
)
CALL = re.compile(r"\b[A-Za-z_]\w{0,60}\s?\(")
"""Of a function, which is then what is to be written."""
ENDS_IN_CALL = re.compile(r"\w\([^()\n]{0,200}\)$")
ENDS_IN_BLANK = re.compile(r"(?<!_)_{2,}+\s*$")
ENDS_BEFORE_RESULT = re.compile(r"\b(?:returns?|prints?|outputs?|takes?|computes?|finds?)$", re.IGNORECASE)
LONGEST_SENTENCE = 600
ENOUGH_ENGLISH = 0.1  # of the words


def missing(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses what is incomplete: no prompt or answer, a prompt that breaks off or asks nothing."""
    prompt = draft.prompt.strip()
    if not any(map(str.isalnum, prompt)):
        return "no prompt"
    if len(prompt) < 300 and PLACEHOLDER.fullmatch(prompt):
        return f"the prompt is {prompt[:40]!r}"
    if draft.domain == "math":
        found = _answer_missing(draft.answer.strip())
        if found:
            return found
    prose = prose_of(prompt)
    if draft.domain == "math" and choices_of(draft) is not None:
        return None
    if _breaks_off(prompt, prose, draft.domain == "code") or LEFT_OPEN.search(prompt):
        return f"breaks off: ...{prompt[-40:]}"
    if draft.domain == "code":
        asks = TASK.search(prose) or CALL.search(prompt)
        return "asks nothing" if not asks and share_of_english(prose) >= ENOUGH_ENGLISH else None
    if broken(prompt):
        prose = prose_of(prompt.replace("$", " "))  # whose formulas begin and end elsewhere than they seem to
    return "asks nothing" if _asks_nothing(prompt, prose) else None


def _answer_missing(answer: str) -> str | None:
    if not answer.strip("$ \\{}~"):
        return "no answer"
    if answer in PLACEHOLDERS_OF_ANSWERS or (len(answer) < 120 and PLACEHOLDER.fullmatch(answer)):
        return f"the answer is {answer[:40]!r}"
    return None


def _breaks_off(prompt: str, prose: str, is_code: bool) -> bool:
    """Whether the last sentence has no end."""
    last = prose[-LONGEST_SENTENCE:].rpartition("\n")[2].rstrip(" *_\"'”)")
    if is_code and (not PROSE_LINE.search(last) or ENDS_IN_CALL.search(prose)):
        return False
    if not is_code and ENDS_IN_BLANK.search(prose):
        return False
    if prose.endswith((".", "?", "!", "。", "？")) and not ENDS_IN_DOTS.search(prose[-10:]):
        return False
    if prose.endswith(MARK) and not is_code:
        formula = segments(prompt)[-1].text.rstrip().rstrip("$").removesuffix(r"\)").removesuffix(r"\]")
        return ENDS_IN_OPERATOR.search(formula) is not None and not formula.rstrip().endswith(")")
    if not is_code and (asks_blank(prose) or EQUALS_WHAT.search(last)):
        return False
    if ENDS_IN_DOTS.search(last):
        return "?" not in prose and not any(map(asks_anything, SENTENCE.split(prose.rstrip(".…"))[:-1]))
    if ENDS_IN_PUNCTUATION.search(last):
        return True
    if last.endswith(":") and not is_code:
        return not (FILL_IN.search(last) and FILL_IN_STARTS.search(last))
    return _ends_open(last, is_code) or (is_code and ENDS_BEFORE_RESULT.search(last) is not None)


def _ends_open(last: str, is_code: bool) -> bool:
    found = ENDS_OPEN.search(last)
    if found is None:
        return False
    word = found[0]
    if word != word.lower() or VARIABLE_BEFORE.search(last):
        # `side A`, `team IN`: a name.
        return False
    if word in ("to", "is", "are", "equals", "be", "as", "was"):
        return is_code or not (FILL_IN.search(last) and FILL_IN_STARTS.search(last))
    return True


def _asks_nothing(prompt: str, prose: str) -> bool:
    """Whether there is neither a question nor a command nor a blank; a formula alone asks for itself."""
    if asks_anything(prose) or NAMES_NOTHING.fullmatch(prose):
        return False
    if asks_blank(prompt) or EQUALS_WHAT.search(prompt[-LONGEST_SENTENCE:]):
        return False
    # The commands of other languages are not known here; the rule `language` refuses them.
    return share_of_english(prose) >= ENOUGH_ENGLISH
