"""The texts of a draft that a repair looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.rule import Repaired

MOST_ROUNDS = 6


def settled(text: str, change: Callable[[str], str], *earlier: Callable[[str], str]) -> str:
    """A text after a change; where it did something, the earlier repairs look again at what it has laid open."""
    changed = change(text)
    if changed == text:
        return text
    for _ in range(MOST_ROUNDS):
        before = changed
        for repair in (*earlier, change):
            changed = repair(changed)
        if changed == before:
            break
    return changed


def change_prompt(draft: Draft, change: Callable[[str], str], note: str) -> Repaired | None:
    """The draft with its prompt changed; None where nothing changes."""
    prompt = change(draft.prompt)
    return None if prompt == draft.prompt else (replace(draft, prompt=prompt), note)


def change_fields(draft: Draft, change: Callable[[str], str], note: str) -> Repaired | None:
    """The draft with prompt, answer, solution and options changed; None where nothing changes."""
    changed = replace(
        draft,
        prompt=change(draft.prompt),
        answer=change(draft.answer),
        solution=change(draft.solution),
        options=tuple(map(change, draft.options)),
    )
    if changed == draft:
        return None
    where = [name for name in ("prompt", "answer", "solution", "options") if _differs(draft, changed, name)]
    return changed, f"{note}: {', '.join(where)}"


def _differs(draft: Draft, changed: Draft, name: str) -> bool:
    return bool(getattr(draft, name) != getattr(changed, name))
