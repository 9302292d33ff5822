"""What belongs to the book, the contest or the site where a problem stood."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.fields import change_prompt, settled
from megatron_srpo.data.curate.rules.html import without_html
from megatron_srpo.data.curate.rules.rule import Repaired, RuleSettings
from megatron_srpo.data.curate.rules.segments import MARK, outside
from megatron_srpo.data.curate.rules.urls import without_urls, without_urls_in_task

MARKUP = r"(?:[#>*_]{1,6}[ \t]{0,4}){0,4}"
NUMBER = r"(?:[A-Z]{0,2}[-.]?\d{1,4}(?:[.\-/]\d{1,3}){0,3}[a-z]?|[IVX]{1,5}|[A-Z](?![a-z]))"
KIND = (
    r"(?:(?:Sample |Practice |Challenge |Bonus |Review |Homework |Test )?(?:Problem|Question|Exercise"
    r"|Example|Task|Puzzle"
    r"|Quiz|Item|Ex|Prob|Ques)|PROBLEM|QUESTION|EXERCISE|EXAMPLE|TASK|Q|P)"
)
POINTS_OF = (
    r"(?:(?:(?:this|the) (?:question|problem) is )?(?:worth|for|total(?: of)?:?|full (?:marks?"
    r"|score):?,?|maximum:?|max\.?) ?)?"
)
POINTS = (
    rf"(?:\*\*|__)?[(\[（]\s?(?i:{POINTS_OF}\d{{1,3}}(?:\.\d)?[- ]?(?:points?|marks?|pts?\.?|分)"
    r"(?: (?:each|in total|total|for (?:this|the) (?:question|problem)|per part))?)\s?[.,]?\s?[)\]）](?:\*\*|__)?"
)
CONTEST = (
    r"(?:AMC|AIME|AJHSME|AHSME|IMO|USAMO|USAJMO|USAMTS|HMMT|PUMaC|BMT|CMIMC|SMT|Putnam|CMO|APMO|BMO"
    r"|EGMO|RMM|TST|CEMC|ARML"
    r"|MATHCOUNTS|Mathcounts|JBMO|INMO|RMO|ISL|KMO|SMO|UKMT|IMC|ICPC|USACO|IOI|JOI|Codeforces"
    r"|CodeForces|AtCoder|LeetCode"
    r"|CodeChef|Codechef|Gaokao|GMAT|GRE|SAT|ACT|[Oo]lympiads?|OLYMPIAD|[Cc]ontest|[Cc]ompetition|[Ll]eague"
    r"|[Cc]hampionship|[Tt]ournament of [Tt]owns|[Ee]xam(?:ination)?|[Ee]ntrance|Mathematical|Mathematics|Kangaroo"
    r"|Shortlist|[Ss]election [Tt]est|[Pp]reliminary|[Tt]raining|[Ii]nvitational|Mock|Cup|Province"
    r"|Proposed by|proposed by"
    r"|Author|Source|Posed by|Suggested by|Adapted from|Taken from|Textbook)"
)
YEAR = r"(?:1[89]|20)\d\d"
SOURCE_START = (
    r"(?=[^()\[\]\n]{0,100}\d|[^()\[\]\n]{0,20}(?:[Pp]roposed|Author|Source|Adapted|Taken|Suggested|Posed))"
)
SOURCE = (
    rf"(?:\*|\*\*|_)?[(\[（【]\s?(?:\\text(?:bf|it)?\{{)?(?=[A-Z\d*]|the \d|proposed|{MARK}){SOURCE_START}"
    rf"(?:[^()\[\]\n]{{0,100}}?[\s.,'’-])??(?:\d{{4}})?{CONTEST}\b[^()\[\]\n]{{0,120}}\s?[)\]）】](?:\*\*"
    r"|\*|_)?"
)
OF_CONTEST = (
    rf"[(\[（]\s?(?:{YEAR},? )?[A-Z][^()\[\]\n]{{2,60}}, (?:[Pp]roblem|[Qq]uestion|#|No\.?)\s?"
    r"[A-Z]?\d{1,2}\s?[)\]）]"
)
PLACE = (
    rf"[(\[（]\s?(?:{YEAR},?\s(?:[A-Z][\w.'-]*[ ,]{{0,2}}){{1,5}}"
    rf"|(?:[A-Z][\w.'-]*[ ,]{{1,2}}){{1,4}}{YEAR})\s?[)\]）]"
)
COUNTED = r"(?:One|Two|Three|Four|Five|Six|Seven|Eight|Nine|Ten|Eleven|Twelve|[IVX]{1,5})"

HEAD = re.compile(
    rf"\s{{0,8}}{MARKUP}(?:"
    # Problem 12. / Question 3: / Task 4 on a line of its own / Q: / Example 5 Let ...
    rf"{KIND}\s?(?:No\.?|[Nn]umber|#|№)?\s?{NUMBER}[*_]{{0,3}}\s{{0,3}}(?:[.:)\]，、—–-][*_]{{0,3}}(?=\s"
    rf"|[A-Z{MARK}(*]|$)|(?=\n|$)"
    rf"|(?=[(\[（]\s?\d{{1,3}}\s?(?:points?|marks?|pts))|(?={SOURCE})|(?=[*_]{{2}})|(?<=\*\*))"
    rf"|(?:Example|Task|Exercise|Problem|Question)\s{NUMBER}\s(?=(?:Let|Find|Given|If|Suppose|Prove"
    r"|Show|Compute|Solve|What|How|Determine"
    r"|Calculate|Evaluate|Simplify|As|In|There|For|When|Try|Consider|Write|Which|The|Three|Two|Each|Using)\b)"
    r"|(?:Problem(?: [Ss]tatement)?|Question|Exercise|Task|PROBLEM|QUESTION|Q"
    r"|Prompt)[*_]{0,3}\s?[:：][*_]{0,3}(?=\s|[A-Z])"
    r"|(?:Problem|Question|Exercise|Task)[*_]{0,3}\s?\.?[*_]{0,3}\s?(?=\n)"
    # № 5. / #12. / [4] / (7) / 4. / 12) / B-4. / 3.12. before the text
    r"|(?:№|No\.?|Nr\.?|#)\s?\d{1,4}[.:)]?[*_]{0,3}(?=\s)"
    rf"|(?:(?!{YEAR}\.\s)\d{{1,4}}(?:\.\d{{1,3}}){{0,3}}[a-z]?"
    rf"|[A-Z]{{1,2}}[-.]?\d{{1,2}}(?:\.\d{{1,2}})?)[.)、:][*_]{{0,3}}\s{{0,4}}"
    rf"(?=[*_(\[（]{{0,3}}(?:[A-Za-z“\"\\]|{MARK}|\d{{1,3}}\s?(?:points?|marks?)|{YEAR},?\s[A-Z]))(?<=[\s*_.):、])"
    r"|(?:\d{1,4}\s\.|\[\d{1,3}\])\s{1,3}(?=[A-Z])"
    rf"|{COUNTED}[,.、]?\s{{0,2}}(?={POINTS})"
    rf"|{POINTS}[.:,]?"
    rf"|{SOURCE}[.:,]?"
    rf"|{PLACE}[.:,]?"
    rf"|(?:{YEAR}\s)?(?:AMC|AIME|HMMT|USAMO|IMO)[ \w#/]{{0,30}}?,?\s(?:[Pp]roblem|#"
    rf"|[Qq]uestion)\s?\d{{1,2}}[.:]?(?=\s|$)"
    r"|(?:Source|Author|Difficulty|Tags?|Topics?|Proposed by|Category)\s?:[^\n]{1,120}\n"
    r")[*_]{0,3}[ \t]{0,8}\n{0,3}"
)
TRANSLATE = re.compile(
    r"[ \t*_(\[]{0,4}(?:Please )?(?i:translate) (?:the )?(?:(?i:above|text above|preceding"
    r"|previous)[^.\n]{0,80}|[^.\n]{0,60}"
    r"(?i:into English)[^.\n]{0,40}(?i:line breaks|format))[^\n]{0,200}"
    r"|[ \t*_(\[]{0,4}(?i:note: the above (?:text|problem) (?:is|has been|was) translated)[^\n]{0,200}"
    r"|[ \t*_(\[]{0,4}(?:The translation(?: of the (?:text|problem))? is(?: as follows)?"
    r"|Here is the translat[^\n:]{0,60}"
    r"|Translated? (?:text|version)):"
)
TAIL = re.compile(
    rf"(?:(?<=[.?!:)\]$}}\s*_…]){MARKUP}(?:Final |Model )?(?:Solution|Answer|SOLUTION|ANSWER"
    rf"|Ans)(?:[*_]{{0,3}}\s?[:：][*_]{{0,3}}|\.)"
    rf"|(?<=\n){MARKUP}(?:Solution|Answer|SOLUTION|ANSWER|Ans)\.?)"
    rf"[*_]{{0,3}}\s?(?:\\_|_|\.|…|{MARK}\.?(?=\s?$)){{0,40}}$"
    rf"|(?<=[.?!:)\]}}{MARK}\n*])\s?(?:{POINTS}|{SOURCE}|{OF_CONTEST})[.]?$|(?<=\S)\s{POINTS}[.]?$"
    rf"|(?<=\n)(?:Source|Author|Difficulty|Tags?|Topics?|Proposed by|[Ff]rom the|Category)\s?:[^\n]{{1,120}}$"
    rf"|(?<=[.?!)])\s?[*_]{{0,2}}Proposed by [A-Z][^\n]{{1,80}}$"
    rf"|(?<=\n)(?:{YEAR}\s)?(?:AMC|AIME|HMMT|USAMO|IMO)\b[ \w#/,]{{0,40}}\.?$"
)
INNER_POINTS = re.compile(rf"(?<=[.?!:)\]}}{MARK}])[ \t]?{POINTS}[.]?(?=[ \t]?(?:\n|$))|(?<=\n){POINTS}[ \t]?")
TEMPLATES = re.compile(
    r"Solve the following math problem step by step\. The last line of your response should be of the "
    r"form Answer:[^\n]{0,200}"
    r"|Remember to put your answer on its own line after \"Answer:\"\.?"
    r"|(?:Please |Let's )?(?:reason|think) step by step,? and (?:put|output)[^\n]{0,80}(?:boxed"
    r"|answer)[^\n.]{0,30}\.?"
    r"|### Answer: \(use the provided format with backticks\)"
)
TAIL_ENDS = ")]）】*_:：}"
TAIL_WORDS = (
    *(
        "Solution",
        "SOLUTION",
        "Ans",
        "ANS",
        "Proposed",
        "Source",
        "Author",
        "Difficulty",
        "Tag",
        "Topic",
        "rom the",
    ),
    *("Category", "AMC", "AIME", "HMMT", "USAMO", "IMO"),
)
LONGEST_HEAD = 12  # labels in a row
NEXT_NUMBER = re.compile(r"\s{0,4}(\d{1,2})([.)])")


def noise(draft: Draft, settings: RuleSettings) -> Repaired | None:
    """Takes out what belongs to the place where the problem stood: its number, points, source, and the like."""
    addresses = without_urls if draft.domain == "math" else without_urls_in_task
    return change_prompt(
        draft, lambda text: settled(text, without_noise, without_html, addresses), "labels taken out"
    )


def without_noise(text: str) -> str:
    """A text without labels around the problem."""
    changed = outside(text, _without_noise)
    return text if changed == text else changed


def _without_noise(text: str) -> str:
    before = text
    text = _without_head(text)
    if "ranslat" in text:
        text = TRANSLATE.sub("", text)
    if "step by step" in text or "Answer:" in text:
        text = TEMPLATES.sub("", text)
    if ("(" in text or "[" in text or "（" in text) and (
        "oint" in text or "ark" in text or "pts" in text or "分" in text
    ):
        text = INNER_POINTS.sub("", text)
    if text != before:
        text = _without_head(text.lstrip())
    stripped = _without_tail(text)
    if stripped != before:
        stripped = stripped.strip()
    return stripped if stripped == before else _without_noise(stripped)


def _without_head(text: str) -> str:
    at = 0
    for _ in range(LONGEST_HEAD):
        found = HEAD.match(text, at)
        if found is None or found.end() == at or _is_list(text, at):
            break
        at = found.end()
    if not at:
        return text
    kept = text[at:]
    # Two stars that opened before the label.
    if kept.count("**") % 2 and text[:at].count("**") % 2:
        kept = kept.replace("**", "", 1)
    return kept


def _is_list(text: str, at: int) -> bool:
    """Whether a number at the start is the first of several."""
    first = NEXT_NUMBER.match(text, at)
    if first is None:
        return False
    following = int(first[1]) + 1
    return (
        re.search(rf"(?:\n|[.?;:{MARK}]\s)\s{{0,4}}{following}{re.escape(first[2])}\s", text[first.end() :])
        is not None
    )


def _without_tail(text: str) -> str:
    end = text.rstrip()
    # Every pattern is anchored at the end, and none is longer than this.
    start = max(0, len(end) - 400)
    last = end[start:]
    if last[-1:] not in TAIL_ENDS and not any(word in last for word in TAIL_WORDS):
        return text
    for _ in range(LONGEST_HEAD):
        found = TAIL.search(last)
        if found is None:
            break
        last = last[: found.start()].rstrip()
    return text if last == end[start:] else end[:start] + last
