"""Whatever a text is: no rule fails or takes long, and repairs settle."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.data.curate.draft import Domain, Draft
from megatron_srpo.data.curate.rules import RULES, Rule
from megatron_srpo.data.curate.rules.completeness import missing
from megatron_srpo.data.curate.rules.segments import MARK, outside, prose_of, segments
from tests.unit.curate.applying import SETTINGS, refusals, repaired

FRAGMENTS = st.sampled_from(
    [
        *(
            "Problem 12. ",
            "4. ",
            "(10 points) ",
            "[5 marks]",
            "(2003 AMC 10A, Problem 7)",
            "## Task 4\n",
            "Solution:",
            "Answer:",
        ),
        *(
            "Find $x$. ",
            "What is it? ",
            "$",
            "$$",
            "\\(",
            "\\)",
            "\\[",
            "\\]",
            "\\\\",
            "\\frac{1}{2}",
            "\\\\frac{1}{2}",
            "{",
            "}",
        ),
        *("**", "*", "__", "_", "\\_", "# ", "> ", "---\n", "~~", "`", "```", "\n", "\n\n", " ", "  ", "\t", "\r"),
        *(
            "<p>",
            "</p>",
            "<b>",
            "</b>",
            "<sup>2</sup>",
            "<sup>",
            "<pre>",
            "<code>",
            "</code>",
            "<br/>",
            "&lt;",
            "&amp;",
            "&nbsp;",
            "&#8203;",
        ),
        *(
            "[here](https://x.org)",
            "https://a.org/b",
            "See ",
            "www.a.org",
            '"',
            "(",
            ")",
            "[",
            "]",
            "(A) 3 ",
            "(B) 4 ",
            "(C) 5 ",
        ),
        *(
            "â€™",
            "Â",
            "\u200b",
            "\ufeff",
            "\x0crac",
            "\x08eta",
            "\times",
            "\x00",
            "\ud800",
            "\ufdd0",
            "é",
            "α",
            "求",
            "∞",
        ),
        *(
            "\\begin{cases}",
            "\\end{cases}",
            "\\left(",
            "\\right)",
            "\\text{a}",
            "A. ",
            "B. ",
            "C. ",
            "1) ",
            "2) ",
            "is ",
            "3",
            "Q",
        ),
        *(
            "|---|---|\n",
            "| a | b |\n",
            "...",
            ",",
            ":",
            "Prove that ",
            "None",
            "N/A",
            "(a) ",
            "(b) ",
            "Proposed by A",
            "translate the above",
        ),
    ]
)
TEXTS = st.lists(FRAGMENTS, max_size=14).map("".join) | st.text(max_size=40)
DOMAINS = st.sampled_from(["math", "code"])
SIZE = 100_000  # with a megabyte all takes ten times as long, which is minutes
ADVERSARIAL = [
    *(
        " ",
        "$",
        "{",
        "}",
        "[",
        "]",
        "(",
        "9",
        "<",
        "*",
        "_",
        "\\",
        "`",
        "\n",
        "|",
        "-",
        ".",
        "&",
        "#",
        ">",
        "\t",
        "a",
        "A",
        "\u200b",
        "â€",
        "é",
    ),
    *(
        "(a)",
        "(A) ",
        "A. ",
        "\nA. ",
        "1. ",
        "1) ",
        "$a",
        "$ ",
        "$5 ",
        "$$a",
        "\\(",
        "\\[",
        "\\\\",
        "\\frac{",
        "\\left",
        "\\begin{cases}",
        "**a",
        "*a ",
        "_a ",
    ),
    *(
        "<p ",
        '<p a="',
        "<b>",
        "</b>",
        "<sup>",
        "&lt",
        "&amp;",
        "[a](",
        "[a](http://",
        "http://",
        "www.",
        "a.com/",
        "`a",
        "``a ",
        "```a",
        "\n```",
    ),
    *(
        "Problem 1. ",
        "(10 points) ",
        "(AMC 2003 ",
        "**Problem ",
        "# ",
        "\n> ",
        "\n---",
        "| a ",
        "\n|",
        "\n|-",
        "find ",
        "and find ",
        "? ",
        "Find x. ",
        "Prove that ",
    ),
    *(
        "if there are several answers ",
        "print any ",
        "write a ",
        "using ",
        "in the ",
        "in the figure ",
        "the table ",
        "read from ",
        "random ",
        "current time ",
    ),
    *(
        "return any order ",
        "given a, ",
        "see ",
        "not ",
        "send ",
        "download the ",
        "because ",
        "which of the following ",
        "could be ",
        "a, ",
        "a.b.",
        "\\ ",
        "\\q",
        "the the ",
    ),
]


def _rule_id(rule: Rule) -> str:
    return f"{rule.name}-{'repair' if rule.repair else 'check'}"


@given(
    st.builds(
        Draft,
        domain=DOMAINS,
        prompt=TEXTS,
        answer=TEXTS,
        solution=TEXTS,
        tests=TEXTS,
        options=st.lists(TEXTS, max_size=2).map(tuple),
    )
)
@settings(max_examples=300, deadline=None)
def test_no_rule_fails_and_repairs_settle(draft: Draft) -> None:
    once, _ = repaired(draft)
    again, names = repaired(once)
    assert (again, names) == (once, set())
    refusals(draft)


@given(TEXTS, DOMAINS)
@settings(max_examples=200, deadline=None)
def test_what_repairs_empty_is_missing(prompt: str, domain: Domain) -> None:
    done, _ = repaired(Draft(domain, prompt, "4"))
    if not done.prompt.strip():
        assert missing(done, SETTINGS)


@given(TEXTS)
def test_segments_are_the_text(text: str) -> None:
    assert "".join(piece for _, piece in segments(text)) == text
    assert outside(text, lambda shown: shown) == text.replace(MARK, "").replace("\ufdd1", "")
    assert "\n\n" not in prose_of(text)


@pytest.mark.parametrize(
    ("rule", "domain"),
    [pytest.param(rule, domain, id=f"{_rule_id(rule)}-{domain}") for rule in RULES for domain in rule.domains],
)
def test_a_long_run_of_anything_takes_no_time(rule: Rule, domain: Domain) -> None:
    for piece in ADVERSARIAL:
        text = "Find " + piece * (SIZE // len(piece)) + " x."
        # A long answer is refused at once; then the prompt is looked at only with a short one.
        answer = "4" if rule.name == "unverifiable" else text
        draft = Draft(domain, text, answer, tests=text)
        started = time.process_time()
        function = rule.repair or rule.check
        assert function is not None
        function(draft, SETTINGS)
        assert time.process_time() - started < 1.0, repr(piece)
