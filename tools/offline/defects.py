"""Defects to plant: for each rule, ways to make a good row one that the rule should act on."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable

from .clean import Row

Plant = Callable[[Row, random.Random], None]
WRONG = ("17/19", "-12345", "99999", "0.0123")


def prompt(*forms: str) -> Plant:
    """The prompt in one of these forms; `{}` stands for it."""

    def plant(row: Row, rng: random.Random) -> None:
        row["prompt"] = rng.choice(forms).replace("{}", row["prompt"].strip())

    return plant


def instead(*prompts: str) -> Plant:
    """Another prompt."""

    def plant(row: Row, rng: random.Random) -> None:
        row["prompt"] = rng.choice(prompts).replace("#", str(rng.randint(12, 9876)))

    return plant


def answer(*answers: str) -> Plant:
    """Another answer."""

    def plant(row: Row, rng: random.Random) -> None:
        row["answer"] = rng.choice(answers)

    return plant


def _html(row: Row, rng: random.Random) -> None:
    text = row["prompt"].strip().replace(" ", "&nbsp;", 1)
    row["prompt"] = rng.choice(("<p>{}</p>", "<div>{}<br/></div>", "<i>Take care.</i><br>{}", "{}<br />")).format(
        text
    )


def _encoding(row: Row, rng: random.Random) -> None:
    mark = rng.choice(("\u200b", "\ufeff", "\u00ad"))
    at = row["prompt"].find(" ") + 1
    row["prompt"] = row["prompt"][:at] + mark + row["prompt"][at:]


def _latex(row: Row, rng: random.Random) -> None:
    row["prompt"] += rng.choice((r" Note that $\\frac{1}{2}$ is half.", " Note that $2 \times 3 = 6$."))


def _choices(row: Row, rng: random.Random) -> None:
    choices = [*rng.sample(WRONG, 3)]
    right = rng.randrange(4)
    choices.insert(right, row["answer"])
    row["prompt"] = (
        row["prompt"].strip() + "\n" + " ".join(f"({'ABCD'[at]}) {one}" for at, one in enumerate(choices))
    )
    row["answer"] = "ABCD"[right]


def _wrong_solution(row: Row, rng: random.Random) -> None:
    row["solution"] = f"Working it out step by step, we find $\\boxed{{{rng.choice(WRONG)}}}$."


MATHEMATICS: dict[str, Plant] = {
    "encoding": _encoding,
    "html": _html,
    "urls": prompt(
        "{} (see https://www.example.org/problems/17?x=1)",
        "[Source](http://example.com/a) {}",
        "{} www.example.net",
    ),
    "noise": prompt("Problem 14. {}", "Question 3: {}", "{} (10 points)", "Example 5. {}", "## Task 4\n{}"),
    "markdown": prompt("**Task** {}", "# Take care\n\n{}", "> {}", "__Careful:__ {}"),
    "latex": _latex,
    "multiple_choice": _choices,
    "missing": answer("", "N/A", "null", "see solution", "-"),
    "multi_part": instead(
        "A box holds # red balls. (a) How many are there after 5 are taken? (b) How many after 10 are added?",
        "Let $f(x) = x^2 + #$. (1) Find $f(2)$. (2) Find $f(3)$.",
        "The first term of a sequence is #.\na) What is the second if the difference is 3?\nb) What is the tenth?",
    ),
    "proof": instead(
        "Prove that # divides $n^# - n$ for every integer $n$.",
        "Show that the number # is not a perfect square.",
        "Let $x > #$. Prove that $x^2 > x$.",
    ),
    "image": prompt(
        "As shown in the figure, {}",
        "![](fig_12.png) {}",
        "{} Use the diagram below.",
        "[asy] draw((0,0)--(1,1)); [/asy] {}",
    ),
    "table": prompt(
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n{}", "\\begin{tabular}{cc} 1 & 2 \\\\ 3 & 4 \\end{tabular} {}"
    ),
    "unverifiable": answer(
        "Answers may vary; any reasonable explanation is accepted.",
        "Because the two quantities change together, the larger one must always be taken first.",
    ),
    "language": instead(
        "求方程 x + # = 50 的整数解，并说明一共有多少个解。",
        "Trouve le nombre entier qui, augmenté de #, donne un carré parfait, et indique sa racine carrée.",
        "Найдите наименьшее натуральное число, которое делится на # и больше тысячи.",
        "¿Cuántos números enteros positivos menores que # son divisibles por siete y por once?",
    ),
    "broken_latex": prompt(
        "{} Note that $\\frac{1}{2 is half.", "{} Let $\\left( x + 1 be given.", "{} and \\sqrt{2"
    ),
    "answer_unread": answer("(3, )", "((2,", "7 \\times", "5 +* / 7"),
    "solution_disagrees": _wrong_solution,
}


def _tests(row: Row, rng: random.Random) -> None:
    row["tests"] = ""


def _contradicting(row: Row, rng: random.Random) -> None:
    row["tests"]["cases"].append([row["tests"]["cases"][0][0], "something else"])


def _failing(row: Row, rng: random.Random) -> None:
    row["references"] = ["print('not this')"]


def _no_reference(row: Row, rng: random.Random) -> None:
    row["references"] = []


def _trivial(row: Row, rng: random.Random) -> None:
    row["tests"]["cases"] = [[given, "0\n"] for given, _ in row["tests"]["cases"]]
    row["references"] = ["print(0)"]


def _random(row: Row, rng: random.Random) -> None:
    row["references"] = ["import random\nprint(random.random())"]


CODE: dict[str, Plant] = {
    "environment": prompt(
        "Use numpy and pandas for this task. {}", "Write a C++ class. {}", "{} Train it on a GPU with PyTorch."
    ),
    "file_io": prompt(
        "{} Read the numbers from the file input.txt and write the result to output.txt.",
        "Save the answer to a CSV file. {}",
    ),
    "network": prompt(
        "Download the page from a web server and parse it. {}", "{} Send the result in an HTTP request."
    ),
    "interactive": prompt(
        "This is an interactive problem. {} Flush the output after each query.",
        "{} You may ask the judge at most ten queries.",
    ),
    "tests_missing": _tests,
    "tests_inconsistent": _contradicting,
    "tests_nondeterministic": _random,
    "reference_fails": _failing,
    "reference_missing": _no_reference,
    "trivial_passes": _trivial,
}


def plant(row: Row, rule: str, plants: dict[str, Plant], rng: random.Random) -> Row:
    """A copy of the row with a defect, labelled."""
    made = copy.deepcopy(row)
    plants[rule](made, rng)
    made["labels"] = [rule]
    return made


def sums(rng: random.Random) -> Row:
    """A small program to write, in the columns of `problems`, its tests not yet JSON."""
    factor, offset, what = rng.randint(2, 99), rng.randint(-99, 99), rng.choice(("sum", "product", "difference"))
    sign = {"sum": "+", "product": "*", "difference": "-"}[what]
    pairs = [(rng.randint(-999, 999), rng.randint(-999, 999)) for _ in range(5)]
    source = f"a, b = map(int, input().split())\nprint((a {sign} b) * {factor} + {offset})"
    cases = [
        [f"{a} {b}\n", f"{ {'+': a + b, '*': a * b, '-': a - b}[sign] * factor + offset }\n"] for a, b in pairs
    ]
    return {
        "domain": "code",
        "prompt": "You are given two integers on one line. "
        f"Print their {what}, multiplied by {factor} and increased by {offset}.",
        "tests": {"kind": "stdio", "cases": cases},
        "references": [source],
        "labels": [],
    }


def as_json(row: Row) -> str:
    """The row as a line, its tests as JSON text."""
    tests = row.get("tests")
    return json.dumps({**row, "tests": json.dumps(tests)} if isinstance(tests, dict) else row, ensure_ascii=False)
