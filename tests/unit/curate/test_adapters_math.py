"""Sets of mathematics: every row of the fixtures, and the forms that answers come in."""

from __future__ import annotations

import pytest

from megatron_srpo.data.curate.adapters.answers import bare, last_box
from megatron_srpo.data.curate.adapters.chats import without_instructions
from megatron_srpo.data.curate.draft import Draft
from tests.unit.curate.sets import Outcomes, assert_becomes, numbered, rows

NUMINA_NOTES = {"problem_is_valid": "Yes", "solution_is_valid": "Yes"}
OUTCOMES: Outcomes = {
    "numina_math": [
        Draft(
            "math",
            "Anna has 3 boxes of 4 pens. How many pens has she?",
            "12",
            r"She has $3 \cdot 4 = \boxed{12}$ pens.",
            meta={"source": "cn_k12"},
        ),
        Draft(
            "math",
            r"Find the sum of $\frac{1}{3}$ and $\frac{1}{6}$.",
            r"\frac{1}{2}",
            r"First $\boxed{\frac{2}{6}}$, then $\boxed{\frac{1}{2}}$.",
            meta={"source": "olympiads"},
        ),
        Draft("math", "Show that 4 is even.", "", "It is twice 2.", meta={"source": "olympiads"}),
        Draft(
            "math",
            "What is $7-9$?",
            "-2",
            "It is $-2$.",
            meta={
                "source": "aops_forum",
                "problem_type": "Algebra",
                "question_type": "math-word-problem",
                "synthetic": False,
                **NUMINA_NOTES,
            },
        ),
        Draft(
            "math",
            r"Prove that $n^2 \ge 0$.",
            "",
            "Squares are not negative.",
            meta={
                "source": "inequalities",
                "problem_type": "Inequalities",
                "question_type": "proof",
                "synthetic": False,
                **NUMINA_NOTES,
                "no_answer": "proof",
            },
        ),
        Draft(
            "math",
            "What is $x$?",
            "",
            "Unknown.",
            meta={
                "source": "aops_forum",
                "synthetic": True,
                "problem_is_valid": "Problem not solved",
                "solution_is_valid": "Incomplete",
                "no_answer": "notfound",
            },
        ),
        "the column solution is missing; the columns are problem, answer.",
        "the column problem must be text, found a list.",
    ],
    "deepscaler": [
        Draft(
            "math",
            "A field is 20 m by 35 m. What is its area in square metres?",
            "700",
            r"$20 \cdot 35 = 700$.",
        ),
        Draft("math", "Solve $2x = 1$.", r"\frac{1}{2}"),
        Draft("math", "Solve $0x = 1$."),
        "the column answer is missing",
        "the column answer must be text, found a list.",
    ],
    "dapo_math": [
        Draft(
            "math",
            "How many of the numbers from 1 to 30 are multiples of 7?",
            "4",
            meta={"source": "math_dapo", "id": "11111111-2222-3333-4444-555555555555"},
        ),
        Draft(
            "math",
            "What is $5^2$?",
            "25",
            meta={"source": "math_dapo", "id": "11111111-2222-3333-4444-666666666666"},
        ),
        Draft("math", "[3, 5] is an interval. How long is it?", "2"),
        "the column reward_model is missing",
        "the column prompt must hold messages with a role, found text.",
        "the column prompt must be text, found a number.",
    ],
    "big_math": [
        Draft(
            "math",
            "A train goes 90 km in 1.5 hours. What is its speed in km/h?",
            "60",
            meta={
                "source": "cn_k12",
                "tags": ["Mathematics -> Applied Mathematics -> Word Problems"],
                "solve_rate": 0.984375,
            },
        ),
        Draft("math", r"What is $\sqrt{2} \cdot \sqrt{8}$?", "4", meta={"source": "math"}),
        Draft("math", "What is $0 / 5$?", "0", meta={"source": "math", "tags": ["Algebra"], "solve_rate": 0.0}),
        "the column answer is missing",
        "the column problem must be text, found an object.",
    ],
    "gsm8k": [
        Draft(
            "math",
            "Tom buys 3 bags of 12 apples and eats 2 of them. How many has he now?",
            "34",
            "He buys 3*12=36 apples.\nHe has 36-2=34 now.",
        ),
        Draft(
            "math",
            "A house costs 1 million less 1 dollars, twice. What is that?",
            "1,999,998",
            "It is $2*999,999=$1,999,998.",
        ),
        Draft("math", "How many?", "", "Nobody knows."),
        "the column answer is missing",
        "the column answer must be text, found a number.",
    ],
    "math": [
        Draft(
            "math",
            r"What is $\frac{6}{4}$ in lowest terms?",
            r"\frac{3}{2}",
            r"It is $\boxed{\frac{3}{2}}$.",
            meta={"difficulty": "Level 1", "subject": "Prealgebra"},
        ),
        Draft(
            "math",
            "What is the root of 49?",
            "7",
            r"It is $\boxed 7$.",
            meta={"difficulty": "Level ?", "subject": "Algebra"},
        ),
        Draft(
            "math",
            "For which $x$ is $x^2 = 4$?",
            r"\{-2, 2\}",
            r"For $\fbox{\{-2, 2\}}$.",
            meta={"id": "test/algebra/1.json", "difficulty": 2, "subject": "Algebra"},
        ),
        Draft(
            "math",
            "What is 1?",
            "",
            r"It is $\boxed{1$.",
            meta={"difficulty": "Level 1", "subject": "Algebra"},
        ),
        "the column solution is missing",
        Draft("math", "", "1", r"$\boxed{1}$", meta={"difficulty": 3, "subject": 4}),
    ],
    "aime": [
        Draft(
            "math",
            "Find the remainder of $2^{10}$ by 1000.",
            "024",
            r"$2^{10} = 1024$, so \boxed{024}.",
            meta={"id": 60, "url": "https://example.org/aime", "year": "2024"},
        ),
        Draft("math", "Find $9^2$.", "81", r"It is \boxed{081}.", meta={"id": "2024-I-1"}),
        Draft("math", "Find $10+5$.", "15", meta={"id": 3, "url": "https://example.org/aime/3"}),
        Draft("math", r"Find $4 \cdot 4$.", "16"),
        "neither the column answer nor the column solution is there.",
        "the column problem is missing",
        "the column answer must be text, found true or false.",
    ],
}


@pytest.mark.parametrize(("name", "number", "outcome"), numbered(OUTCOMES))
def test_every_row_becomes_what_it_should(name: str, number: int, outcome: Draft | str) -> None:
    assert len(rows(name)) == len(OUTCOMES[name])
    assert_becomes(name, rows(name)[number], outcome)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"So $\boxed{\dfrac{a_{1}}{\sqrt{b}}}$.", r"\dfrac{a_{1}}{\sqrt{b}}"),
        (r"\boxed{1} or \boxed{2", "1"),
        (r"\boxed{ $\boxed{3}$ }", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"It is \fbox{5}.", "5"),
        (r"It is \boxed 12, so.", "12"),
        (r"\boxed{}", ""),
        ("nothing", ""),
        ("", ""),
        (r"\boxed{" * 3000, ""),
    ],
)
def test_the_answer_is_in_the_last_closed_box(solution: str, answer: str) -> None:
    assert last_box(solution) == answer


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("  42 ", "42"),
        ("$42$", "42"),
        (r"$$\frac{1}{2}$$", r"\frac{1}{2}"),
        (r"\(x\)", "x"),
        (r"\[ [1, 2) \]", "[1, 2)"),
        (r"$\boxed{42}$", "42"),
        (r"The answer is $x = \boxed{-3}$.", "-3"),
        ("$1$ and $2$", "$1$ and $2$"),
        (r"\boxed{1}, \boxed{2}", r"\boxed{1}, \boxed{2}"),
        (r"\boxed{1}, 2", r"\boxed{1}, 2"),
        (r"\$5", r"\$5"),
        (r"$\$5$", r"\$5"),
        ("$", "$"),
        ("$5", "$5"),
        (r"\{1\}", r"\{1\}"),
        ("", ""),
    ],
)
def test_answers_lose_their_box_and_dollars_only(written: str, answer: str) -> None:
    assert bare(written) == answer


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (
            "Solve the following math problem step by step. The last line of your response should be of the form "
            "Answer: $ANSWER (without quotes) where $ANSWER is the answer to the problem.\n\nWhat is 1?\n\n"
            "Remember to put your answer on its own line after 'Answer:', and you do not need a box.",
            "What is 1?",
        ),
        ("What is 1?\n\nPresent the answer in LaTeX format: \\boxed{Your answer}", "What is 1?"),
        (
            "Solve the following math problem step by step: 1 + 1",
            "Solve the following math problem step by step: 1 + 1",
        ),
        ("Present the answer in LaTex format: 1/2.", "Present the answer in LaTex format: 1/2."),
        (" What is 1?\n", "What is 1?"),
    ],
)
def test_instructions_are_taken_off_and_nothing_else(prompt: str, problem: str) -> None:
    assert without_instructions(prompt) == problem
