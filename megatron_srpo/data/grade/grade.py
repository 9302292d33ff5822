"""What was found of one problem."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megatron_srpo.rollout.collect import Group

ABORTED = "the engine aborted the request"


@dataclass(frozen=True, slots=True)
class Grade:
    """The responses to one problem, counted; one line of the journal."""

    id: str
    key: str
    """Of the problem's id and content (`key_of`): a problem that has changed since is another one."""
    n: int
    """Responses that could be judged."""
    c: int
    """Those that were right."""
    errors: int
    """Responses that could not be judged; they are not in n."""
    model: str
    length_mean: float
    """Tokens of a response, over all of them."""
    truncated: float
    """Share of the responses that ended at the length limit."""
    cause: str | None = None
    """The most frequent reason why responses could not be judged, or why none was drawn."""

    def ungraded(self, k: int) -> str | None:
        """Why there is no Pass@k of this problem, or None where there is one."""
        if self.n >= k:
            return None
        if not self.n and not self.errors:
            return self.cause
        return f"fewer than {k} responses could be judged: {self.cause}"


def key_of(row: Mapping[str, Any]) -> str:
    """16 hex digits that name a row by what a response to it depends on."""
    content = json.dumps([row[name] for name in ("id", "domain", "prompt", "answer", "tests")])
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def grade_of(group: Group, key: str, model: str) -> Grade:
    """Count a group's responses; only accuracy says what is right."""
    causes: Counter[str] = Counter()
    judged = []
    for response in group.responses:
        error = ABORTED if response.generation.finish_reason == "abort" else response.reward.error
        if error is None:
            judged.append(response.reward.accuracy)
        else:
            causes[error] += 1
    generations = [response.generation for response in group.responses]
    return Grade(
        id=group.prompt.problem.id,
        key=key,
        n=len(judged),
        c=sum(judged),
        errors=causes.total(),
        model=model,
        length_mean=sum(len(one.tokens) for one in generations) / len(generations),
        truncated=sum(one.finish_reason == "length" for one in generations) / len(generations),
        cause=causes.most_common(1)[0][0] if causes else None,
    )
