"""Where an answer stands in a response, and in how much time that is found."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_srpo.recipe.reward import AnswerFormat
from megatron_srpo.rewards.answers import Extraction, extract, last_number, outermost_boxes, text_after_thinking

GOOD = "<think>40 + 2 = 42.</think> <answer>42</answer>"
FORMATS: tuple[AnswerFormat, ...] = ("think_answer", "answer", "boxed")
MANY = 300_000


@pytest.mark.parametrize(
    ("response", "answer", "format_ok"),
    [
        (GOOD, "42", True),
        (f" \n{GOOD}\n ", "42", True),
        ("<think>a\nb</think>\n\n<answer>\n42\n</answer>", "42", True),
        (GOOD + " That is all.", "42", False),
        ("Well. " + GOOD, "42", False),
        ("<think>a</think> so <answer>42</answer>", "42", False),
        ("<answer>42</answer>", "42", False),
        ("<think>a <answer>42</answer>", "42", False),
        ("a</think> <answer>42</answer>", "42", False),
        ("<think></think> <answer>42</answer>", "42", False),
        ("<think> \n</think> <answer>42</answer>", "42", False),
        ("<think>a</think><think>b</think> <answer>42</answer>", "42", False),
        ("<think>a <think>b</think> <answer>42</answer>", "42", False),
        ("<think>a</think> b</think> <answer>42</answer>", "42", False),
    ],
)
def test_think_answer_form(response: str, answer: str, format_ok: bool) -> None:
    assert extract(response, "think_answer") == Extraction(answer, format_ok, "")


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("<answer>42</answer> <think>a</think>", "the answer is inside the thinking"),
        ("<think>a <answer>42</answer></think>", "the answer is inside the thinking"),
        ("<think>a</think> <answer>41</answer> <answer>42</answer>", "2 answers"),
        ("<think>a</think> <answer>41 <answer>42</answer>", "2 answers"),
        ("<think>a</think> <answer>42</answer></answer>", "</answer> stands twice"),
        ("<think>a</think> <answer>42", "<answer> is not closed"),
        ("<think>a</think> </answer>42<answer>", "<answer> is not closed"),
        ("<think>a</think> <answer> </answer>", "the answer is empty"),
        ("<think>a</think> <answer>4<think>2</answer>", "the thinking is inside the answer"),
        ("<think>a</think> 42", "no <answer>"),
        ("42</answer>", "no <answer>"),
        ("", "no <answer>"),
    ],
)
@pytest.mark.parametrize("answer_format", ["think_answer", "answer"])
def test_there_is_no_answer_and_the_reason_says_why(
    response: str, reason: str, answer_format: AnswerFormat
) -> None:
    assert extract(response, answer_format) == Extraction(None, False, reason)


@pytest.mark.parametrize(
    ("response", "format_ok"),
    [("Because. <answer>42</answer>\n", True), ("<answer>42</answer> maybe", False)],
)
def test_answer_form(response: str, format_ok: bool) -> None:
    assert extract(response, "answer") == Extraction("42", format_ok)


@pytest.mark.parametrize(
    ("response", "answer", "reason"),
    [
        (r"So it is \boxed{\frac{1}{2}}.", r"\frac{1}{2}", ""),
        (r"\boxed{42} as said: \boxed{42}", "42", ""),
        (r"\boxed {42}", "42", ""),
        (r"\\boxed{42}", "42", ""),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", ""),
        (r"\boxed{\boxed{42}}", r"\boxed{42}", ""),
        (r"{ } } \boxed{42}", "42", ""),
        (r"\boxed{a\\}", "a\\\\", ""),
        (r"\boxed{41} or \boxed{42}", None, "2 different boxes"),
        (r"\boxed{41} \boxed{42} \boxed{43}", None, "3 different boxes"),
        (r"\boxed{42", None, r"\boxed is not closed"),
        (r"\boxed{42\}", None, r"\boxed is not closed"),
        (r"\boxed{41 \boxed{42}", None, r"\boxed is not closed"),
        (r"\boxed{42} \boxed{", None, r"\boxed is not closed"),
        (r"\boxed{}", None, "the box is empty"),
        ("42", None, r"no \boxed"),
    ],
)
def test_boxed_form(response: str, answer: str | None, reason: str) -> None:
    assert extract(response, "boxed") == Extraction(answer, answer is not None, reason)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 42.", "42"),
        ("1, 2 and 3", "3"),
        ("The total is 1,234,567.89 in all", "1,234,567.89"),
        ("x = -3", "-3"),
        ("10-7", "7"),
        ("10 - 7", "7"),
        ("(-7)", "-7"),
        ("−7", "−7"),  # noqa: RUF001
        ("half: 1/2", "1/2"),
        ("so 50%", "50%"),
        (r"so 50\% of it", r"50\%"),
        ("1.5e-3 m", "1.5e-3"),
        (r"1.2\times 10^{5} km", r"1.2\times 10^{5}"),
        (r"-\frac{1}{2}", r"-\frac{1}{2}"),
        (r"\dfrac{3}{ 4 } of it", r"\dfrac{3}{ 4 }"),
        (".5", ".5"),
        ("version v2 has 3 parts, x2", "3"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number
    fallen_back = extract(text, "answer", "last_number")
    assert fallen_back == Extraction(number, False, "no <answer>" if number is None else "")
    assert extract(text, "answer").answer is None


def test_the_last_number_is_looked_for_after_the_thinking_only() -> None:
    assert text_after_thinking("1 <think>2</think> 3") == " 3"
    assert text_after_thinking("<think>2</think><think>3</think> 4") == " 4"
    assert text_after_thinking("4 <think>2") == ""
    assert text_after_thinking("<think>1</think> 2 <think> 3") == ""
    assert text_after_thinking("3") == "3"


@pytest.mark.parametrize("answer_format", FORMATS)
def test_the_fallback_leaves_an_answer_alone(answer_format: AnswerFormat) -> None:
    response = r"<think>a</think> <answer>\boxed{42}</answer>"
    assert extract(response, answer_format, "last_number") == extract(response, answer_format)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("answer_format", FORMATS)
@pytest.mark.parametrize(
    "response",
    [
        "<think>" * MANY,
        "</think>" * MANY,
        "<answer>" * MANY,
        "</answer>" * MANY,
        "<think></think>" * MANY + "<answer>",
        "<think>a</think>" + " " * 1_000_000 + "<answer>42</answer>",
        "<think>a</think> <answer>42</answer>" + " " * 1_000_000 + ".",
        r"\boxed{" * 200_000,
        r"\boxed{" * 200_000 + "}" * 200_000,
        r"\boxed{1}" * 100_000,
        r"\boxed{{" * 150_000,
        "{" * 1_000_000,
        "}" * 1_000_000,
        "\\" * 1_000_000,
        r"\boxed" + " " * 1_000_000,
        (r"\boxed" + " " * 20) * 40_000,
        "9" * 1_000_000,
        "1," * 500_000,
        "1,111" * 200_000,
        "-" * 1_000_000,
        "1/" * 500_000,
        "1 " * 500_000,
        "1e" * 500_000,
        "." * 1_000_000,
        r"\frac{1}{" * 110_000,
        r"\frac" * 200_000,
        r"1\times" * 140_000,
        "\ud800\x00\u202e" * 300_000,
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_megabyte_of_anything_takes_time_in_proportion(response: str, answer_format: AnswerFormat) -> None:
    # Quadratic work takes minutes here, and the mark ends it; linear work takes milliseconds.
    found = extract(response, answer_format, "last_number")
    assert found.answer is None or found.answer in response


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<answer>", "</answer>", r"\boxed{", "{", "}", "\\", "42", " ", "x"]
        ),
        max_size=14,
    ).map("".join),
    st.sampled_from(FORMATS),
)
def test_an_answer_is_a_part_of_the_response_or_there_is_a_reason(
    response: str, answer_format: AnswerFormat
) -> None:
    found = extract(response, answer_format)
    assert (found.answer is None) == bool(found.reason)
    if found.answer is None:
        assert not found.format_ok
    else:
        assert found.answer in response and found.answer == found.answer.strip()


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="{}\\a", max_size=12), st.text(alphabet="{}\\a", max_size=6))
def test_boxes_are_found_as_by_counting_braces_one_by_one(before: str, inner: str) -> None:
    """Against the slow way: from each box, look for the brace that closes it."""
    text = before.replace("\\", "") + r"\boxed{" + inner.replace("\\", "") + "}"
    depth, end = 1, None
    start = text.index(r"\boxed{") + len(r"\boxed{")
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            end = at
            break
    contents, is_open = outermost_boxes(text)
    assert is_open == (end is None)
    assert contents == ([] if end is None else [text[start:end].strip()])
