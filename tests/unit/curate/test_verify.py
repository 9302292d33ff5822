"""Mathematics: the answer can be read, and the worked solution says the same."""

from __future__ import annotations

import pytest

from megatron_srpo.data.curate.config import VerifySection
from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.verify import final_answers, verify_math

AGREE = [
    ("5", r"So \boxed{5}."),
    ("5", r"So $x = \boxed{3}$ at first; then $\boxed{5}$"),
    ("1,2", r"So $x=\boxed{1}$ or $x=\boxed{2}$."),
    (r"\frac{1}{2}", r"It is $\boxed{\frac{1}{2}}$."),
    ("0.5", r"It is $\fbox{\dfrac12}$"),
    ("5", r"$\boxed 5$"),
    ("5", "2 + 3 = 5\n#### 5"),
    ("1000", "so\n#### 1,000\n"),
    ("5", "#### $5"),
    ("3.5", "The answer is 3.5."),
    ("3.5", "the answer is: 3.5"),
    ("1000", "The final answer is 1,000."),
    ("1234.5", "The final answer is 1,234.5, as was to be found."),
    ("(3,4)", "The answer is (3, 4)."),
    ("5", "The answer is 5 meters."),
    ("12", "the answer is 12 cm^2."),
    (r"\frac{1}{2}", r"The answer is $\frac{1}{2}$."),
    (r"\frac{1}{2}", r"The answer is \(\frac{1}{2}\)."),
    (r"\frac{1}{2}", "The answer is\n\\[\n\\frac{1}{2}\n\\]"),
    ("5", "The answer is\n\n$$5$$"),
    ("5", "The answer is:\n5"),
    ("5", "**The answer is 5**"),
    ("5", "**The answer is:** 5"),
    ("5", "The answer is **5**."),
    ("5", "The answer is $x=5$."),
    ("5", "The answer is 5, since 2+3=5."),
    ("5", "The answer is 5: indeed."),
    ("5", "The answer is 5 because 2 + 3 = 5."),
    ("5", "At first it seems the answer is 4. But the answer is 5!"),
    ("120", "The answer is 5!"),
    ("25%", "The answer is 25%."),
    ("x^2+1", "The answer is x^2 + 1."),
    ("3:2", "The answer is 3:2."),
    ("yes", "The answer is yes."),
    ("Tuesday", "The answer is Tuesday."),
    ("-5", "The answer is -5"),
    ("1024", r"So \boxed{2^{10}}"),
    ("2^{10}", r"So \boxed{1024}"),
    ("B", "The answer is B."),
    ("5", "The answer is (B) 5."),
    ("5", r"The answer is \textbf{(B)}, as \boxed{\textbf{(B)}\ 5}"),
]
SILENT = [
    "",
    "2 + 3 = 5.",
    "The answer is not unique, but 5 works.",
    "The answer is the number of sides of a pentagon.",
    "The answer is therefore the sum.",
    "#### Step 2: the sides\nwe get five",
    "#### 2\nwe get five",
    "The answer is $5$ and $7$.",
    "The answer is",
    r"So \boxed{}",
    r"So \boxed{5",
]
DISAGREE = [
    ("5", r"So \boxed{6}."),
    ("5", "#### 6"),
    ("5", "The answer is 6."),
    ("3", "The answer is 3.5."),
    ("1", "The final answer is 1,000."),
    ("3", "The answer is (3, 4)."),
    (r"\frac{1}{2}", r"The answer is $\frac{1}{3}$."),
    ("5", "The answer is\n$$6$$"),
    ("x^2+1", "The answer is x^2 + 2."),
    ("5", "The answer is 6 meters."),
    ("yes", "The answer is no."),
    ("5", "At first the answer is 5. No: the answer is 6."),
    ("A", "The answer is B."),
    ("3", r"So $x=\boxed{1}$ or $x=\boxed{2}$."),
]


def refusals(answer: str, solution: str = "") -> list[tuple[str, str]]:
    return verify_math(Draft("math", "How much is it?", answer, solution), VerifySection())


@pytest.mark.parametrize(("answer", "solution"), AGREE)
def test_a_solution_that_says_the_same(answer: str, solution: str) -> None:
    assert final_answers(solution) != () and refusals(answer, solution) == []


@pytest.mark.parametrize("solution", SILENT)
def test_a_solution_that_says_nothing_is_trusted(solution: str) -> None:
    assert final_answers(solution) == () and refusals("5", solution) == []


@pytest.mark.parametrize(("answer", "solution"), DISAGREE)
def test_a_solution_that_says_something_else(answer: str, solution: str) -> None:
    ((rule, reason),) = refusals(answer, solution)
    assert rule == "solution_disagrees"
    assert reason.startswith("the solution says '") and reason.endswith(f"the answer is {answer!r}")


@pytest.mark.parametrize("answer", ["", "  ", "\\boxed{}"])
def test_an_answer_that_nobody_can_give(answer: str) -> None:
    found = refusals(answer)
    assert found == [("answer_unread", f"{answer!r} is not an answer that equals itself")]


@pytest.mark.parametrize(
    "answer", ["5", r"\frac{1}{2}", "x^2+1", "(3,4)", "[1,2)", r"\{1,2\}", "yes", "1e-3", "5 cm"]
)
def test_answers_that_can_be_given(answer: str) -> None:
    assert refusals(answer) == []


def test_the_tolerance_is_that_of_the_config() -> None:
    draft = Draft("math", "p", "1/3", r"\boxed{0.3}")
    assert verify_math(draft, VerifySection()) != []
    assert verify_math(draft, VerifySection.model_validate({"math": {"tolerance": 0.2}})) == []


def test_no_solution_takes_long() -> None:
    for solution in (
        "The answer is " * 20_000,
        "$" * 100_000,
        "\\boxed{" * 50_000,
        "#### " * 50_000,
        "\n" * 200_000,
    ):
        assert isinstance(final_answers(solution), tuple)
