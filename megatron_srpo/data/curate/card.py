"""The data card: what a set holds, and why the rest is not in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from megatron_srpo.data.curate.rule_texts import NAMES, meanings
from megatron_srpo.data.problem_set import Manifest
from megatron_srpo.plain import line_of
from megatron_srpo.recipe import yaml_form

MISTAKES = 12  # shown of a rule
# Not backslashes: one that stands before such a character already would take theirs away.
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", "[": "&#91;", "|": "&#124;", "`": "&#96;"})


def card(manifest: Manifest) -> str:
    """The card as Markdown."""
    counts = manifest.counts
    sections = [
        f"# {manifest.name}",
        _overview(counts),
        "## By source",
        _table(
            ("source", "rows", "problems", "refused", "could not be handled"),
            ((name, *of.values()) for name, of in counts["sources"].items()),
        ),
        "## By rule",
        "A refused row may name several rules. The rows themselves, with their reasons, are in `refused/` and "
        "`quarantined/`; what was repaired in a problem is in its `meta`.",
        _rules(counts["rules"]),
        *_contamination(manifest),
        *_confusion(counts["confusion"]),
        "## Length of prompts",
        _lengths(counts["lengths"]),
        "## Examples",
        *_examples(counts["rules"]),
        "## How it was made",
        "`srpo data curate` with",
        f"```yaml\n{yaml_form.dump(manifest.config)}```",
        "from",
        f"```yaml\n{yaml_form.dump(manifest.inputs)}```",
        "and " + ", ".join(f"{name} {number}" for name, number in manifest.versions.items()) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def _overview(counts: dict[str, Any]) -> str:
    total = counts["total"]
    domains = ", ".join(f"{number} of {domain}" for domain, number in counts["domains"].items()) or "none"
    return (
        f"{total['kept']} problems ({domains}) out of {total['rows']} rows: {total['refused']} were refused by "
        f"rules, {total['quarantined']} could not be handled."
    )


def _rules(rules: dict[str, Any]) -> str:
    texts = meanings()
    counted = ((name, rules[name]) for name in NAMES if name in rules)
    lines = ((name, of["repaired"] or "", of["refused"] or "", texts[name]) for name, of in counted)
    return _table(("rule", "repaired", "refused", "what it does"), lines)


def _contamination(manifest: Manifest) -> list[str]:
    section = manifest.config["contamination"]
    if not section["sets"]:
        return ["## Evaluation sets", "None was given: nothing is known about contamination."]
    found = manifest.counts["evaluation"]
    return [
        "## Evaluation sets",
        f"A problem is refused when it holds {section['share']:.0%} or more of the {section['ngram']}-grams of an "
        "evaluation problem. `refused/` names the problem for every row.",
        _table(("set", "rows that matched"), ((name, found.get(name, 0)) for name in section["sets"])),
    ]


def _confusion(table: dict[str, Any] | None) -> list[str]:
    if table is None:
        return []
    lines = []
    for rule, of in table["rules"].items():
        mistakes = ", ".join(of["mistakes"][:MISTAKES])
        rates = ("" if of[name] is None else f"{of[name]:.3f}" for name in ("precision", "recall"))
        lines.append((rule, of["right"], of["too_many"], of["missed"], *rates, mistakes))
    return [
        "## Rules against labels",
        f"{table['rows']} rows say which rules should act on them. `+` is a row where the rule acted and should "
        "not have, `-` one that it missed.",
        _table(("rule", "right", "too many", "missed", "precision", "recall", "mistakes"), lines),
    ]


def _lengths(lengths: dict[str, Any]) -> str:
    bounds = lengths["bounds"]
    names = [f"up to {bound}" for bound in bounds] + [f"above {bounds[-1]}"]
    domains = [name for name in lengths if name != "bounds"]
    return _table(
        ("characters", *domains),
        (
            (name, *of)
            for name, *of in zip(names, *(lengths[domain] for domain in domains), strict=True)
            if any(of)
        ),
    )


def _examples(rules: dict[str, Any]) -> list[str]:
    found = []
    for rule in NAMES:
        if rule not in rules:
            continue
        found.append(f"### {rule}")
        for example in rules[rule]["examples"]:
            line = f"- {example['source']} row {example['row']}: {_inline(example['what'])}"
            found.append(f"{line}\n  > {_inline(example['prompt'])}" if example.get("prompt") else line)
    return found


def _table(header: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    rows = (header, ["---"] * len(header), *lines)
    cells = ([_inline(str(cell)) for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _inline(text: str) -> str:
    """On one line, with nothing that a terminal obeys or Markdown takes for HTML, links, pictures or cells."""
    return line_of(text).translate(_ENTITIES)
