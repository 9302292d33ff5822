"""Tests of a code problem: are there any, do they agree, and can a right program pass them for sure?"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache

from megatron_srpo.data.code_tests import CodeTests, parse_tests
from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.rules.segments import mentions, prose_of
from megatron_srpo.errors import SrpoError

ANY_ANSWER = re.compile(
    r"\bif (?:there (?:are|exist|is)|multiple|several|many"
    r"|more than one)\b[^.\n]{0,100}?,? (?:then )?(?:you (?:can|may|should|are allowed to) )?(?:print"
    r"|output|return|find|report|choose|give|provide|write|display|any|select|pick)(?: out)? (?:an?y"
    r"|arbitrary|one of|whichever)\b"
    r"|\b(?:print|output|return|report|display|find|give|write|provide|produce) (?:out )?any (?:of|one"
    r"|such|valid|possible|correct|suitable|acceptable|feasible|appropriate|optimal|answer|solution"
    r"|arrangement|permutation|order|sequence|array|string|pair|two of|that)\b"
    r"|\b(?:you (?:can|may)|feel free to|allowed to) (?:print|output|return|report|display|choose|give"
    r"|use) (?:\w+ )?(?:any|arbitrary|in any order)\b"
    r"|\bany (?:(?:valid|correct|such|possible|optimal|suitable|acceptable) (?:answer|solution|output"
    r"|order|arrangement|one)s?|of (?:them|these|those|the (?:\w+ )?(?:answers?|solutions?))"
    r"|one of them|valid (?:\w+ )?|correct (?:\w+ )?|such |possible |optimal |suitable |acceptable "
    r"|answer |solution )?(?:answers?|solutions?|ones?|outputs?|orders?|orderings?|arrangements?"
    r"|constructions?)? ?(?:is|are|will be|would be|can be|may be) (?:acceptable|accepted|fine|ok|okay"
    r"|valid|allowed|considered correct|correct|counted)\b"
    r"|\b(?:return|print|output|report|list|display|give|printed|returned|reported|listed|outputs?"
    r"|order of (?:the )?(?:output|result|answer)\w*)\b[^.\n]{0,90}\bin (?:any|arbitrary"
    r"|no particular) (?:valid |possible )?order\b"
    r"|\b(?:answer|result|output|order of the (?:output|answer|result)\w*|list|elements|lines|pairs"
    r"|indices)\b[^.\n]{0,40}\b(?:may|can|could|might) be (?:\w+ )?(?:in any order|given in any order"
    r"|returned in any order|printed in any order|arbitrary)"
    r"|\border of (?:the )?(?:output|result|answer|returned|elements in the (?:result|output"
    r"|answer))\w*[^.\n]{0,40}\b(?:does not|doesn't|need not|is not|isn't) (?:matter|important|be)"
    r"|\b(?:print|output|return) (?:an |one )?arbitrary\b|\b(?:multiple|several"
    r"|many) (?:\w+ )?(?:answers|solutions|outputs) (?:are|may be|will be) (?:accepted|allowed"
    r"|acceptable)"
    r"|\b(?:print|output|return|report|find|give) any \w+ (?:that|which|such that|with|satisfying|whose)\b"
    r"|\bany (?:such|valid|correct|suitable) \w+ (?:is|are|will be) accepted"
    r"|\b(?:does not|doesn't) matter which (?:one |of )?[^.\n]{0,60}\byou (?:print|output|return"
    r"|choose|give|find)",
    re.IGNORECASE,
)
WORTH_A_LOOK = re.compile(r"ny\b|arbitrary|no particular|order of|matter which")
ORDER_OF_INPUT = re.compile(
    r"\b(?:input|given|visit|read|choose|remove|take|apply|perform|use|delete|pick|buy|complete"
    r"|do)\w*\b[^.\n]{0,60}\bin any order\b",
    re.IGNORECASE,
)
RANDOM = re.compile(
    r"(?:^|[.!?:]\s|\n[\s*#-]{0,4})(?:write|implement|create|design|generate|return|print|output|pick"
    r"|choose|select|shuffle|simulate|build|develop|produce|define|roll|make|draw|randomly"
    r"|your task is to|given [^.\n]{1,80}, (?:return|pick|generate|choose|shuffle|print|implement"
    r"|write))\b[^.\n]{0,140}?\b(?:random(?:ly|i[sz]ed?)?(?!-)|shuffled?|uuid|equal probability"
    r"|equally likely)\b"
    r"|\b(?:should|must|that|which|to|and|will|function|program) (?:\w+ )?(?:returns?|generates?"
    r"|prints?|outputs?|picks?|selects?|produces?|simulates?|shuffles?|chooses?) (?:\w+ ){0,3}?(?:a "
    r"|an )?(?:\w+ ){0,1}?(?:random(?:ly|i[sz]ed)?(?!-)|uuid|shuffled)\b"
    r"|\brandom\.(?:randint|choice|shuffle|random|sample)|\b(?:uses?"
    r"|using) (?:the )?(?:random (?:module|library|number generator)|a random number)"
    r"|\brandom (?:password|number) generator\b|\bwith (?:equal"
    r"|uniform) probability\b(?=[^.]{0,60}\.)(?<!chosen with equal probability)",
    re.IGNORECASE,
)
ANALYSED = re.compile(
    r"\b(?:expected|probability|probabilities|average|expectation|chance|likelihood|pseudo-?random"
    r"|seed|linear congruential|uniquely|variance|a random \w+ is given|odds)\b",
    re.IGNORECASE,
)
CLOCK = re.compile(
    r"\b(?:current|today'?s|present|system|local|actual) (?:system )?(?:date|time|year|timestamp"
    r"|datetime|day|month|hour|minute|clock)\b(?! (?:of the clock|complexity|limit|step|unit|shown|frame"
    r"|in (?:the )?(?:simulation))| \w+ is)|\btoday['’]s date\b|\bage (?:of \w+ )?today\b"
    r"|\bas of (?:today|now)\b|\bsince the (?:start of the )?(?:unix )?epoch\b|\btime\.time\("
    r"|\bdatetime\.(?:now|today)|\bdate\.today|\btime elapsed since the program\b"
    r"|\bexecution time of\b|\b(?:days|time) (?:from|until|since) (?:today|now)\b",
    re.IGNORECASE,
)
CLOCK_TASK = re.compile(
    r"\b(?:return|print|output|display|get|show|compute|calculate|write|create|implement|based on"
    r"|using|use|find|determine|measure)\w*\b",
    re.IGNORECASE,
)
CLOCK_GIVEN = re.compile(
    r"\b(?:given (?:the|a) (?:current|system|local)|(?:time|date|year|day) is|input|represented"
    r"|(?:is|are|comes|represented) as a string|shows|is passed|argument|parameter|receives?|takes"
    r"|current_?time =|second line"
    r"|first line|contains?|integers?)\b",
    re.IGNORECASE,
)
CHANCE_WORDS = ("random", "shuffle", "uuid", "probability", "equally")
CLOCK_WORDS = ("current", "today", "system", "local", "present", "actual", "time", "now")
WHITE_SPACE = re.compile(r"\s+")
RELATIVE = 1e-6


def tests_missing(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses what has no usable test."""
    if not draft.tests.strip():
        return "no tests"
    found = _parsed(draft.tests)
    if isinstance(found, str):
        return found
    return None


def tests_inconsistent(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses tests that contradict each other."""
    found = _parsed(draft.tests) if draft.tests.strip() else ""
    if isinstance(found, str):
        return None
    if found.kind == "call":
        counts = {len(json.loads(text)) for text in found.inputs}
        if len(counts) > 1:
            return f"calls with {' and '.join(map(str, sorted(counts)))} arguments"
    if found.checker is not None:
        return None
    seen: dict[str, str] = {}
    for text, expected in zip(found.inputs, found.expected, strict=True):
        key = text if found.kind == "call" else "\n".join(line.rstrip() for line in text.strip().splitlines())
        known = seen.setdefault(key, expected)
        if known != expected and not _same(known, expected, found.kind == "call"):
            return f"two expected outputs for the input {WHITE_SPACE.sub(' ', key)[:40]}"
    return None


def tests_nondeterministic(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses tests that no program can pass for sure, and ones that right programs fail."""
    found = _parsed(draft.tests) if draft.tests.strip() else ""
    prose = prose_of(draft.prompt)
    if isinstance(found, str) or found.checker is None:
        several = ANY_ANSWER.search(prose) if WORTH_A_LOOK.search(prose) else None
        if several and not ORDER_OF_INPUT.fullmatch(several[0]):
            return f"several answers are right, and there is no checker: {several[0][:60]}"
    chance = RANDOM.search(prose) if mentions(prose, CHANCE_WORDS) else None
    if chance and not ANALYSED.search(prose):
        return f"depends on chance: {chance[0].strip(' .')[:60]}"
    return _clock(prose)


def _clock(prose: str) -> str | None:
    found = CLOCK.search(prose) if mentions(prose, CLOCK_WORDS) else None
    if found is None:
        return None
    start = max(prose.rfind(".", 0, found.start()), prose.rfind("\n", 0, found.start())) + 1
    end = prose.find(".", found.end())
    sentence = prose[start : end if end >= 0 else len(prose)][:400]
    if not CLOCK_TASK.search(sentence) or CLOCK_GIVEN.search(sentence):
        return None
    return f"depends on the clock: {found[0]}"


@lru_cache(maxsize=2)
def _parsed(text: str) -> CodeTests | str:
    """The tests, or what is wrong with them; the checks of one draft ask one after the other."""
    try:
        return parse_tests(text, "tests")
    except SrpoError as error:
        return str(error)


def _same(one: str, other: str, is_json: bool) -> bool:
    """Whether two expected outputs are the same but for white space and the last digits of numbers."""
    if is_json:
        return _same_values(json.loads(one), json.loads(other))
    pieces, others = one.split(), other.split()
    return len(pieces) == len(others) and all(map(_same_words, pieces, others))


def _same_values(one: object, other: object) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        return isinstance(one, int | float) and isinstance(other, int | float) and _close(one, other)
    return one == other


def _same_words(one: str, other: str) -> bool:
    if one == other:
        return True
    if "." not in one + other:
        return False
    try:
        return _close(float(one), float(other))
    except ValueError:
        return False


def _close(one: float, other: float) -> bool:
    try:
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=RELATIVE)
    except OverflowError:
        return False
