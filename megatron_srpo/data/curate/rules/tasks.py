"""What a programming task tells the program to do, apart from the story that it tells."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.asking import sentences
from megatron_srpo.data.curate.rules.segments import squeezed, without_marks

# A sentence that tells the program, or who writes it, what to do; all others are the story.
TASK = re.compile(
    r"^[\W\d]{0,8}(?:(?:your task is to|you (?:must|should|need to|have to|are (?:asked|required"
    r"|expected) to)|please|task|then|finally|also|next|now|problem|question|in this (?:task|problem"
    r"|exercise|kata)"
    r"|(?:using|with|in) [^,]{1,60},|given [^,]{1,100}),?:? ){0,2}(?:write|implement|create|build"
    r"|develop|design|define|complete|make|code|program|train|use|using|load|read|open|save|store"
    r"|export|append|insert"
    r"|download|fetch|send|scrape|crawl|connect|query|call|retrieve|run|execute|parse|return|print"
    r"|display|output|plot|train|deploy|set up|launch|compute|calculate|find|convert|import|group"
    r"|filter|merge|normali[sz]e|multiply|predict|classify|visuali[sz]e|complete|fit|add|extract"
    r"|produce"
    r"|generate|given|solve|perform|launch|start|listen|request|upload|post|log|dump|copy|move|rename"
    r"|delete|list|count|sort|process|render|configure|extend|refactor|translate|rewrite|provide"
    r"|construct|kill)\b"
    r"|\b(?:your|the|this) (?:program|function|solution|code|script|task|method|class|implementation"
    r"|app|application|tool|module|submission) (?:should|must|is to|needs? to|has to|will|shall|can"
    r"|takes|reads|writes|returns|accepts|receives|saves|downloads|fetches|sends|connects|uses"
    r"|opens)\b"
    r"|\b(?:write|implement|create|build|develop|design) (?:a|an|the"
    r"|your own) (?:\w+[- ]){0,4}(?:function|program|script|class|method|code|app|application|model"
    r"|query|kernel|api|server|client|bot|crawler|scraper|component|pipeline|tool|utility|service"
    r"|module|view|endpoint|page|trigger|procedure|network)\b"
    r"|\b(?:you (?:must|should|need to|have to|are (?:asked|required|expected) to|will)"
    r"|your task is to|asks you to|wants you to|help \w+ (?:to )?(?:write|implement)) ",
    re.IGNORECASE,
)

NEGATED = re.compile(
    r"\b(?:without|not (?:allowed|use|need|required|permitted)|don't|do not|does not|no (?:need"
    r"|external|third[- ]party|additional|other)|avoid|instead of|cannot|can't|never|must not"
    r"|should not|shouldn't|forbidden|prohibited|rather than|none of)\b",
    re.IGNORECASE,
)


def task_text(draft: Draft) -> str:
    """The prompt with its code."""
    return squeezed(without_marks(draft.prompt))


def in_task(text: str, *patterns: re.Pattern[str]) -> re.Match[str] | None:
    """The first of the patterns in a sentence that is about the program and not about the story."""
    if not any(pattern.search(text) for pattern in patterns):
        return None
    for sentence in sentences(text):
        for pattern in patterns:
            found = pattern.search(sentence)
            if found and TASK.search(sentence) and not NEGATED.search(sentence, 0, found.start()):
                return found
    return None
