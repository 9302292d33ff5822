"""Several questions in one, and questions that ask for a proof."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.asking import OPEN_ASKED, VALUE_ASKED, asks_blank, count_asked
from megatron_srpo.data.curate.rules.choices import choices_of
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.rules.segments import MARK, mentions, prose_of

ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii")
_PLACE = rf"(?:(?<=\n)|(?<=^)|(?<=[.?!:;,{MARK})*]\s)|(?<=[a-z]\s)|(?<=[.?!]))"
# (a) a) a. (1) 1) 1. (i) Part I, Part A, Question 1, and circled numbers
PART = re.compile(
    rf"{_PLACE}\*{{0,2}}(?:\((?P<round>[a-hA-H]|\d|i{{1,3}}|iv|v|I{{1,3}}|IV)\)|(?P<half>[a-hA-H]|\d"
    rf"|i{{1,3}}|iv|I{{2,3}})\)"
    r"|(?P<dot>[a-hA-H]|\d|i{1,3}|iv|I{1,3}|IV)\.(?=[\s*])"
    r"|(?:Part|Question|Subproblem|Problem|Task|Subtask)\s(?P<part>[A-Ha-h]|\d|I{1,3}|IV|i{1,3})\b[.:)]?"
    r"|\((?:[Pp]art )(?P<named>[a-hA-H]|\d|i{1,3}|I{1,3})\)|(?P<circle>[①②③④⑤⑥])"
    r"|(?P<degree>\d)°\)?(?=\s[A-Z]))\*{0,2}"
)
# Without a second part there is no list.
SECOND = re.compile(
    r"(?<!\w)(?:[bB2]|ii|II)[).]|②|2°|\b(?:[Pp]art|Question|Problem|Task|Sub\w+)\s(?:[bB2]|ii|II)\b"
)
CIRCLED = "①②③④⑤⑥"
CONDITIONS = re.compile(
    r"\b(?:such that|for which|in which|satisf\w+|conditions?|properties|property|if|with|where|following (?:rules"
    r"|statements|facts|operations|holds|hold|moves)|rules"
    r"|statements|equations|given that|so that|when|axioms|whenever|both|assume|suppose|defined by"
    r"|as follows|hold|operations|steps|options|true)"
    r"[^.?!]{0,80}[:.,;?]?\s?$"
)
SHARED_ASK = re.compile(
    r"(?:^|[.?!:\n]\s?|\b(?:and|then|to)\s)(?:please )?(?:find|compute|calculate|evaluate|solve"
    r"|simplify|determine|factor|expand|express|what is|what are|write"
    r"|differentiate|integrate|convert|round|state|give|graph|how many|reduce|rationali[sz]e|work out"
    r"|in how many)\b[^.?!]{0,120}[:.?]?\s?$",
    re.IGNORECASE,
)
ANSWER_PARTS = re.compile(
    r"(?:^|[\s,;.$}])[(]?(?:a|1|i|I|A)[).:]\)?.{1,2000}?(?:[\s,;.$}])[(]?(?:b|2|ii|II|B)[).:]"
    r"|\b[Pp]art (?:1|a|A|I)\b.{1,2000}\b[Pp]art (?:2|b|B|II)\b",
    re.DOTALL,
)
SEPARATOR = re.compile(r";|\band\b|,(?!\d{3}(?!\d))|,\s|\n|\\quad|\\text\s?\{\s?and\s?\}")
ENCLOSED = re.compile(r"\\left|\\right|[(\[{][^()\[\]{}]{0,300}[)\]}]")
QUESTION_MARK = re.compile(r"\?")
AND_ASK = re.compile(
    r"(?:,|\band|\bthen|;)\s(?:also\s|then\s|hence\s)?(?:find|determine|calculate|compute|evaluate"
    r"|state|what is|what are|what was|how many|how much|how far|how long)\b",
    re.IGNORECASE,
)

PROOF = re.compile(
    rf"(?:^|[.!?:;,{MARK})]\s?|\n[-*>#\s]{{0,4}}|\b(?:and|then|to|hence|or|please|otherwise|also|now"
    r"|can you|must|should|we)\s,?)"
    rf"(?:try to )?(?:prove|disprove|show (?:that|there|why|{MARK}|if|for|the (?:identity|inequality"
    r"|equality|following|equation|formula|validity|existence|relation)|algebraically|directly|by)"
    rf"|verify (?:that|the|{MARK}|this|if|each|for)"
    r"|demonstrate (?:that|the)|establish (?:that|the|this)|give a (?:\w+ )?proof|justify (?:that|the)"
    r"|deduce that|conclude that|derive the (?:identity|inequality|formula|equation)"
    r"|write (?:out )?a (?:\w+ )?proof|provide a (?:\w+ )?proof|proof (?:that|of)|show[: ,]"
    r"|supply a proof|check that)(?=\b|\W)",
    re.IGNORECASE,
)
NOT_A_PROOF = re.compile(
    r"\bshow (?:your|all|the (?:steps|work|calculation)|me|each|every step|how you)\b|\b(?:prove"
    r"|verify|justify|check) (?:your|the) (?:answer|solution|result|claim|work|reasoning|conclusion)"
    r"|\bverify the (?:number|value|answer|solution)\b|\bto (?:prove|show|verify) (?:a|the|his|her"
    r"|their) (?:theorem|point|lemma|conjecture)\b",
    re.IGNORECASE,
)
PROOF_ANSWER = re.compile(
    r"[\s\W]*(?:proof|proved|proven|q\.?e\.?d\.?|see (?:the )?proof|the (?:statement|inequality"
    r"|identity) (?:is proved|holds)|hence proved)[\s\W]*",
    re.IGNORECASE,
)
PROOF_WORDS = (
    "prove",
    "show",
    "verif",
    "demonstrat",
    "establish",
    "proof",
    "justif",
    "deduc",
    "conclu",
    "deriv",
    "check",
)
IN_ORDER = re.compile(
    r"(?:^|[.!?;:,]\s|\n[-*>#\s]{0,4}|\b(?:and|then|hence|also|or)\s(?:also\s|then\s|hence\s"
    r"|thus\s)?)(?:find|compute|calculate|evaluate|determine|solve|how many|how much|what|give (?:the"
    r"|a|an|all)|state|express"
    r"|when does|which|for which|for what|write (?:the|down)|simplify|deduce the|decide|obtain|count"
    r"|identify|describe all)\b",
    re.IGNORECASE,
)
ENOUGH = 2
# How to answer, not what.
GUIDELINE = re.compile(
    r"(?:please )?(?:always|never|do not|don't|use|include|provide|give your|write your|enter|put|insert|replace"
    r"|round your|make sure|remember|note|avoid|assume|keep|leave|show (?:all )?your|for (?:example|solutions))\b",
    re.IGNORECASE,
)
LONGEST_VALUE = 4  # words; what is longer is prose with a comma in it
MOST_PARTS = 200  # of a list that is looked at


def multi_part(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses several questions in one."""
    if choices_of(draft) is not None:
        return None
    prose = prose_of(draft.prompt)
    if SECOND.search(prose) and _parts_that_ask(prose) >= ENOUGH:
        return "several parts that ask"
    if len(draft.answer) < 4000 and _answers_by_part(prose, draft.answer):
        return "an answer for each part"
    if _count_answers(draft.answer) >= ENOUGH and (count_asked(prose) >= ENOUGH or AND_ASK.search(prose)):
        return "several questions, and as many answers"
    return None


def _parts_that_ask(prose: str) -> int:
    """How many parts of the longest numbered list ask for something."""
    best = 0
    for markers in _lists(prose):
        stem = prose[: markers[0].start()]
        ends = [marker.start() for marker in markers[1:]] + [len(prose)]
        parts = [prose[marker.end() : end].strip() for marker, end in zip(markers, ends, strict=True)]
        if any(map(GUIDELINE.match, parts)) or _are_steps(parts):
            continue
        asking = sum(map(_asks, parts))
        if markers[0].lastgroup == "part" and asking:
            asking = len(parts)  # Part I, Part II: whatever the others do, they are parts of the question
        # The last part may be followed by the one question that all of it is about.
        if asking == 1 and _asks(parts[-1]) and not _asks(parts[0]):
            asking = 0
        if asking < ENOUGH and SHARED_ASK.search(stem[-300:]) and not CONDITIONS.search(stem[-160:]):
            asking = len(parts)
        best = max(best, asking)
    return best


def _are_steps(parts: list[str]) -> bool:
    """Whether the parts are what to do, and the one question stands on a line behind them."""
    _, line, behind = parts[-1].partition("\n")
    return bool(line) and "?" in behind and not any("?" in part for part in parts[:-1])


def _asks(part: str) -> bool:
    return (
        "?" in part
        or bool(VALUE_ASKED.match(part) or OPEN_ASKED.match(part))
        or AND_ASK.search(part) is not None
        or (
            asks_blank(part)
            or re.search(
                r"(?:[.,;]\s|\bthen )(?:find|prove|show that|determine|calculate|compute|what)\b",
                part,
                re.IGNORECASE,
            )
            is not None
        )
    )


def _lists(prose: str) -> list[list[re.Match[str]]]:
    """Markers that count up from the first, of one style each."""
    lists: dict[str, list[re.Match[str]]] = {}
    done: list[list[re.Match[str]]] = []
    for marker in PART.finditer(prose):
        label = marker[marker.lastgroup or 0]
        for kind, number in _numbers(label):
            style = f"{'named' if marker.lastgroup == 'part' else marker.lastgroup} {kind}"
            run = lists.get(style, [])
            if number == 1 and len(done) < MOST_PARTS:
                lists[style] = [marker]
            elif run and number == len(run) + 1:
                run.append(marker)
                if number == ENOUGH:
                    done.append(run)
    return done


def _numbers(label: str) -> list[tuple[str, int]]:
    """What a label counts as: `i` is a Roman number, `c` a letter."""
    if label in CIRCLED:
        return [("circle", CIRCLED.index(label) + 1)]
    if label.isdigit():
        return [("digit", int(label))]
    found = []
    if label.lower() in ROMAN:
        found.append(("roman " + str(label.isupper()), ROMAN.index(label.lower()) + 1))
    if len(label) == 1 and label.lower() in "abcdefgh":
        found.append(("letter " + str(label.isupper()), "abcdefgh".index(label.lower()) + 1))
    return found


def _answers_by_part(prose: str, answer: str) -> bool:
    return ANSWER_PARTS.search(answer) is not None and bool(
        _lists(prose) or "?" in prose or "art" in prose or count_asked(prose)
    )


def _count_answers(answer: str) -> int:
    """How many values an answer has; a tuple, a set or an interval is one."""
    text = answer[:2000]
    for _ in range(6):
        shorter = ENCLOSED.sub("", text)
        if shorter == text:
            break
        text = shorter
    pieces = [piece.strip("$ .\\") for piece in SEPARATOR.split(text)]
    return sum(map(bool, pieces)) if max(len(piece.split()) for piece in pieces) <= LONGEST_VALUE else 1


def proof(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses what asks for a proof."""
    if PROOF_ANSWER.fullmatch(draft.answer[:100]) and draft.answer.strip():
        return "the answer is a proof"
    prose = prose_of(draft.prompt)
    if not mentions(prose, PROOF_WORDS):
        return None
    found = next(
        (found for found in PROOF.finditer(prose) if not NOT_A_PROOF.match(prose, found.start() + _lead(found))),
        None,
    )
    if found is None or "?" in prose or asks_blank(prose) or IN_ORDER.search(prose):
        return None
    return f"asks for a proof: {prose[found.start() : found.end() + 30].strip(' .,:;')[:50]}"


def _lead(found: re.Match[str]) -> int:
    """How far into the match the verb stands."""
    verb = re.search(
        r"(?i)prove|disprove|show|verify|demonstrate|establish|justify|deduce|check|derive|give|write"
        r"|provide|proof|conclude|supply",
        found[0],
    )
    return verb.start() if verb else 0
