"""Answers that no verifier can decide."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.multipart import IN_ORDER
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.rules.segments import MARK, prose_of

VARIES = re.compile(
    r"\b(?:answers?|responses?|solutions?|results?|explanations?) (?:may|will|can|could"
    r"|might)? ?(?:vary|varies|differ)\b|\b(?:sample|possible|example|suggested|model) "
    r"(?:answer|response|solution)s?\b\s?(?::|is|are|include|$)|\bit (?:varies|depends)\b"
    r"|^\W*(?:varies|various|depends)\b|\bopen[- ]ended\b|\banswers? (?:is|are) subjective\b",
    re.IGNORECASE,
)
EXPLAINS = re.compile(
    r"\b(?:because|since|therefore|thus|hence|so that|due to|as follows|which means|this means"
    r"|we (?:have|get|can|find|see|know|obtain|need|must)|you (?:can|need|must|should)"
    r"|let us|it follows|explanation|in order to|if and only if (?:it|the|they))\b",
    re.IGNORECASE,
)
VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|cannot|must|will|would|should|makes?|gives?|goes|go|shows?"
    r"|means|becomes?|contains?|lies|lie|passes|intersects?|increases?|decreases?"
    r"|equals|needs?|takes?|gets?|does|do|be|exists?|belongs?|represents?|forms?|moves?|divides?"
    r"|satisf\w+|wins|uses?|depends|depict\w*|draws?|measures?|occurs?|holds?|works?)\b",
    re.IGNORECASE,
)
# Short statements that are answers all the same.
STATEMENT = re.compile(
    r"[\W]*(?:(?:there|it|that|this|the \w+|they) )?(?:(?:is|are|has|have|does|do|can|could|was"
    r"|were)(?: not|n't)? )?(?:no|not|none|infinite(?:ly)?|cannot|impossible|possible|undefined|always"
    r"|never"
    r"|does not|doesn't|do not|the (?:first|second)|player|exists?|exactly one|all|any|every|yes|true"
    r"|false|at least|at most)\b.{0,60}",
    re.IGNORECASE | re.DOTALL,
)
LEAD_IN = re.compile(
    r"^\W*(?:(?:so|thus|hence|therefore),? )?(?:the (?:\w+ ){0,4}|it|this|that|she|he|they|its \w+"
    r"|there )?(?:is|are|was|were|equals|will be|would be|has|have|had|costs?|weighs?|needs?|gets?"
    r"|takes?)\b\s?(?=[\d$\\(\-" + MARK + r"])",
    re.IGNORECASE,
)
TEXT_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm|sf|normal)?|mbox|mathrm|operatorname|mathbf)\s?\*?\{([^{}]*)\}")
COMMAND = re.compile(r"\\[A-Za-z]+")
# Full words; the names of functions and units say nothing about whether it is a sentence.
WORD = re.compile(r"(?<![A-Za-z\d_\\^])[A-Za-z][a-z']+(?:-[a-z]+)?(?![A-Za-z\d_(^])")
NO_PROSE = frozenset(
    """
    sin cos tan cot sec csc log ln max min gcd lcm mod arcsin arccos arctan exp det dim deg and or
    if for per square squared cubic cubed feet foot ft inch inches in cm mm km meters metres meter
    metre miles mile yards yard hours hour minutes minute seconds second days day weeks week months
    month years year dollars dollar cents cent pounds pound kg grams gram liters litres liter litre
    ml degrees degree percent units unit square-units cubic-units mph kmh am pm hundred thousand
    million billion dozen one two three four five six seven eight nine ten eleven twelve twenty
    thirty forty fifty sixty seventy eighty ninety times euros euro rubles tonnes tons ton ounces
    ounce gallons gallon quarts integer integers real reals numbers number where with all
    """.split()  # noqa: SIM905
)
MOST_WORDS = 6  # of prose, beyond which it is a sentence without any verb
MOST_WORDS_WITH_VERB = 3
LONGEST_ANSWER = 3000
SENTENCE_END = re.compile(r"[a-z)][.!?]\s+[A-Z][a-z]*\s+[a-z]")

DRAWS = re.compile(
    rf"(?:^|[.!?:;{MARK}]\s?|\n[-*>#\s]{{0,4}}|\b(?:and|then|to|please|also|or),?\s)(?:please |neatly "
    r"|carefully )?"
    r"(?:draw|sketch|plot|graph (?:the|each|this|and|y|on|￼)|construct (?:(?:a|an"
    r"|the) (?:\w+ ){0,4}(?:using|with|graph|diagram|histogram|triangle|circle|line|bisector"
    r"|perpendicular|tangent|figure|segment|square|angle)|with|using)|make a (?:sketch|drawing|graph"
    r"|diagram|poster|chart)"
    r"|illustrate|shade|fold|colou?r the|create a (?:graph|diagram|poster|chart|drawing))\b",
    re.IGNORECASE,
)
EXPLAINED = re.compile(
    rf"(?:^|[.!?:;{MARK}]\s?|\n[-*>#\s]{{0,4}}|\b(?:and|then|to|please|also|or|briefly),?\s)(?:please "
    r"|briefly |in your own words,? )?"
    r"(?:explain|discuss|comment on|interpret|reflect on|compare and contrast|give (?:a|an) (?:real"
    r"|example|explanation|reason|argument|interpretation|counterexample|description)|summari[sz]e"
    r"|argue|justify|elaborate|describe|outline|why (?:is|are|do|does|did|can|must|would)|how (?:would"
    r"|do|can|could|should) (?:you|we|one)\b(?! (?:many|much))"
    r"|what (?:do you (?:think|notice|observe|conclude)|conclusions?|does (?:this|it|the \w+) (?:mean"
    r"|tell)|can you (?:say|conclude)|happens|is meant)|write (?:an? )?(?:\w+ )?(?:essay|paragraph"
    r"|story|word problem|report|letter|poem|sentence|summary|paper|question|explanation|reflection"
    r"|proposal|plan)"
    r"|(?:make up|invent|create|pose|design|come up with) (?:a|an|your own) (?:\w+ )?(?:problem"
    r"|question|story|example|puzzle|game|survey|experiment|plan|poster|lesson))\b",
    re.IGNORECASE,
)
DESCRIBES = re.compile(
    r"\b(?:describe|interpret|construct|outline|draw|how (?:would|do|can|could|should) (?:you|we|one)"
    r"|give an? (?:counter)?example|what happens)\b",
    re.IGNORECASE,
)


def unverifiable(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses answers that no verifier can decide: explanations, drawings, answers that vary."""
    answer = draft.answer.strip()
    if len(answer) > LONGEST_ANSWER:
        return f"an answer of {len(answer)} characters"
    plain = TEXT_COMMAND.sub(r" \1 ", answer) if "\\" in answer else answer
    if VARIES.search(plain):
        return "the answer varies"
    if _is_sentence(plain):
        return f"the answer is a text: {answer[:60]}"
    return _asked(prose_of(draft.prompt), answer)


def _asked(prose: str, answer: str) -> str | None:
    """Why the prompt asks for a text or a drawing and nothing else, if it does."""
    found = DRAWS.search(prose) or EXPLAINED.search(prose)
    if found is None:
        return None
    rest = prose[: found.start()] + " . " + prose[found.end() :]
    open_question = EXPLAINED.search(prose)
    asked = IN_ORDER.search(rest)
    if asked or (
        "?" in rest and not (open_question and "?" in prose[open_question.end() :] and prose.count("?") == 1)
    ):
        return None
    if DESCRIBES.search(found[0]) and _is_value(answer) and not re.search(r"(?i)\b(?:draw|construct)", found[0]):
        return None
    return f"asks for a text or a drawing: {found[0].strip(' .,:;')[:40]}"


def _is_value(answer: str) -> bool:
    """Whether an answer is a formula or a number and at most a word."""
    return (
        any(sign in answer for sign in "0123456789=<>\\") and len(_words(TEXT_COMMAND.sub(r" \1 ", answer))) <= 1
    )


def _is_sentence(plain: str) -> bool:
    """Whether an answer is prose that says more than a name or a value."""
    words = _words(plain)
    if len(words) <= 1:
        return False
    if EXPLAINS.search(plain) and len(words) > MOST_WORDS_WITH_VERB:
        return True
    if SENTENCE_END.search(plain) and len(words) > MOST_WORDS:
        return True
    led = LEAD_IN.sub("", plain)
    if led != plain:
        words = _words(led)
    if len(words) > MOST_WORDS:
        return True
    if VERB.search(led) is None or len(words) <= MOST_WORDS_WITH_VERB:
        return False
    return STATEMENT.fullmatch(plain) is None


def _words(plain: str) -> list[str]:
    """The words of prose: neither names (with a capital in the middle) nor units nor functions."""
    found = [word for word in WORD.findall(COMMAND.sub(" ", plain)) if word.lower() not in NO_PROSE]
    return [word for at, word in enumerate(found) if at == 0 or word[0].islower()]
