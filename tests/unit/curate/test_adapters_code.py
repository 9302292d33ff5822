"""Sets of programming problems: every row of the fixtures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from megatron_srpo.data.code_tests import parse_tests
from megatron_srpo.data.curate.draft import Draft
from tests.unit.curate.sets import Outcomes, assert_becomes, numbered, rows


def starting(what: str, code: str) -> str:
    return f"\n\nYour program must define {what}, starting from this code:\n```python\n{code}\n```"


def named(function: str) -> str:
    what = f"the function `{function}`"
    return f"\n\nYour program must define {what}, or a class `Solution` with a method of this name."


def stdio(*cases: list[str]) -> str:
    return json.dumps({"kind": "stdio", "cases": cases})


def calls(function: str, *cases: list[Any]) -> str:
    return json.dumps({"kind": "call", "function": function, "cases": cases})


BEGINNING = "Write the program that begins as below, so that it does what is said there."
MIDDLE = (
    'def middle(xs: list) -> float:\n    """The middle of a sorted list.\n'
    '    >>> middle([1, 2, 3])\n    2\n    """'
)
NOTHING = 'def nothing(text: str, parts: tuple):\n    """None, always."""'
ON_APPS = {"difficulty": "interview", "url": "https://example.org/1"}
LEETCODE = {"id": "abc1_a", "title": "A", "difficulty": "easy", "source": "leetcode", "contest": "abc1"}
ATCODER = {**LEETCODE, "source": "atcoder", "date": "2024-01-06T00:00:00"}

OUTCOMES: Outcomes = {
    "eurus": [
        Draft(
            "math",
            "What is the largest prime below 20?",
            "19",
            meta={"source": "numina_cn_k12", "id": 7, "split": "train"},
        ),
        Draft(
            "code",
            "Read two numbers and print their sum.",
            tests=stdio(["1 2\n", "3\n"], ["-4 9\n", "5\n"]),
            meta={"source": "codecontests", "id": 7, "split": "train"},
        ),
        Draft(
            "code",
            "Return the longest of the words." + named("longest"),
            tests=calls("longest", [[["a", "abc"]], "abc"], [[["xy"]], "xy"]),
            meta={"source": "taco", "id": 7, "split": "train"},
        ),
        Draft("code", "Print nothing.", meta={"source": "apps", "id": 7, "split": "train"}),
        "the ground truth is no readable JSON",
        "the ability must be math or code, found 'poetry'.",
    ],
    "apps": [
        Draft(
            "code",
            "Print the sum of the numbers in the line.",
            tests=stdio(["1 2 3\n", "6\n"], ["4 5\n", "9"]),
            references=("print(sum(map(int, input().split())))",),
            meta={"id": 10, "difficulty": "introductory", "url": "https://example.org/1"},
        ),
        Draft(
            "code",
            "Return twice the number."
            + starting(
                "the method `twice` of the class `Solution`",
                "class Solution:\n    def twice(self, n: int) -> int:",
            ),
            tests=calls("twice", [[4], 8], [[-1], -2]),
            references=("class Solution:\n    def twice(self, n):\n        return 2 * n",),
            meta={"id": 11, **ON_APPS},
        ),
        Draft(
            "code",
            "Return the text and the number in a list."
            + starting("the function `pair`", "def pair(text, number):"),
            tests=calls("pair", [["a", 1.0], ["a", 1.0]], [["1", 2], ["1", 2]]),
            meta={"id": 12, **ON_APPS},
        ),
        Draft(
            "code",
            "Return the last one in a list."
            + starting("the function `last`", "def last(xs: List[int]) -> List[int]:"),
            tests=calls("last", [[[1, 2]], [2]], [[[3]], [3]]),
            meta={"id": 13, **ON_APPS},
        ),
        Draft(
            "code",
            "Return the number." + named("same"),
            tests=calls("same", [[1], 1]),
            meta={"id": 14, **ON_APPS, "cases_left_out": 3},
        ),
        Draft("code", "Print something.", meta={"id": 15, **ON_APPS}),
        "none of the 1 tests can be used (a number has 5000 digits).",
        "the column input_output holds 1 inputs, but 0 outputs.",
        "the column input_output must be an object with inputs and outputs, found a list.",
        "the column solutions must be a list or JSON text of one, found an object.",
    ],
    "taco": [
        Draft(
            "code",
            "Print the line twice.",
            tests=stdio(["ab", "ab\nab"], ["c", "c\nc"]),
            references=("s = input()\nprint(s)\nprint(s)",),
            meta={
                "id": "A. Twice",
                "difficulty": "EASY",
                "url": "https://example.org/a",
                "source": "codeforces",
                "time_limit": "1.0 seconds",
                "memory_limit": "256.0 megabytes",
                "picture_num": "0",
                "tags": ["Strings", "Implementation"],
            },
        ),
        Draft(
            "code",
            "Return whether the two are equal."
            + starting(
                "the method `same` of the class `Solution`",
                "#User function Template for python3\n\n"
                "class Solution:\n    def same(self, a, b):\n        # code here",
            ),
            tests=calls("same", [["x", "x"], True], [[[1, [2]], [1, [2.0]]], True], [[1, "1"], False]),
            meta={"difficulty": "UNKNOWN_DIFFICULTY", "source": "geeksforgeeks"},
        ),
        Draft(
            "code",
            "Return the number." + named("same"),
            tests=calls("same", [[1], 1]),
            meta={"difficulty": "EASY", "source": "geeksforgeeks", "cases_left_out": 1},
        ),
        "none of the 1 tests can be used (a test: function must be the name of a function, found 'same number').",
        "the function's name in the column input_output must be text, found a number.",
        "the column input_output is missing",
    ],
    "code_contests": [
        Draft(
            "code",
            "Print the greater of two numbers.",
            tests=stdio(["1 2\n", "2\n"], ["5 4\n", "5\n"], ["0 0\n", "0\n"]),
            references=("print(max(map(int, input().split())))",),
            meta={
                "id": "1_A. A",
                "difficulty": 7,
                "rating": 800,
                "tags": ["math"],
                "memory_limit_bytes": 256000000,
                "source": "codeforces",
                "time_limit": 1.5,
            },
        ),
        Draft("code", "Print something.", meta={"id": "b", "difficulty": 7, "input_file": "in.txt"}),
        "the column public_tests holds 1 inputs, but 0 outputs.",
        "the column solutions must hold as many languages as solutions.",
        "the column time_limit must hold numbers of seconds and nanoseconds.",
        "the column public_tests is missing",
    ],
    "livecodebench": [
        Draft(
            "code",
            "Print the line backwards.",
            tests=stdio(["abc\n", "cba\n"], ["xy\n", "yx\n"]),
            meta=ATCODER,
        ),
        Draft(
            "code",
            "Add the number to all of the list."
            + starting(
                "the method `addToAll` of the class `Solution`",
                "class Solution:\n    def addToAll(self, numbers: List[int], number: int) -> List[int]:",
            ),
            tests=calls("addToAll", [[[1, 2], 3], [4, 5]], [[[], 1], []], [[[7], -7], [0]]),
            meta={
                "id": "9001",
                "title": "add-to-all",
                "difficulty": "easy",
                "source": "leetcode",
                "contest": "weekly-contest-1",
                "date": "2024-01-06T00:00:00",
            },
        ),
        Draft(
            "code",
            "Return the text."
            + starting(
                "the method `same` of the class `Solution`",
                "class Solution:\n    def same(self, text: str) -> str:",
            ),
            tests=calls("same", [["[1]"], "[1]"], [[""], ""]),
            meta={**LEETCODE, "date": "2024-01-06T00:00:00"},
        ),
        Draft("code", "Print nothing.", meta=ATCODER),
        "the column private_test_cases is no JSON, and no pickle of one text (it has the operation EMPTY_LIST).",
        "the column private_test_cases is no JSON, and no pickle of one text (",
        "the tests are stdin and functional at once.",
        "the tests are functional, but the column metadata has no func_name.",
    ],
    "human_eval": [
        Draft(
            "code",
            BEGINNING + starting("the function `middle`", MIDDLE),
            tests=calls("middle", [[[1, 2, 3]], 2], [[[-1.5]], -1.5]),
            references=(MIDDLE + "\n    return xs[len(xs) // 2]\n",),
            meta={"id": "HumanEval/900", "cases_left_out": 3},
        ),
        Draft(
            "code",
            BEGINNING + starting("the function `nothing`", NOTHING),
            tests=calls("nothing", [["a", [1, "b"]], None], [["x", []], None]),
            references=(NOTHING + "\n    return None\n",),
            meta={"id": "HumanEval/901", "cases_left_out": 1, "tuples_as_lists": True},
        ),
        Draft(
            "code",
            BEGINNING + starting("the function `f`", "def f():\n    ..."),
            meta={"id": "HumanEval/902"},
        ),
        "none of the 2 statements compares a call of literal values with a literal value.",
        "a test is no Python (",
        "the prompt does not begin the function 'g'.",
        "the column test defines no function check.",
    ],
    "mbpp": [
        Draft(
            "code",
            "Write a function to count the vowels in a text."
            + starting("the function `vowels`", "def vowels(text, also=''):"),
            tests=calls("vowels", [["abe"], 2], [["xyz", "y"], 1], [[""], 0], [["AEIOU"], 0]),
            references=("def vowels(text, also=''):\r\n  return sum(c in 'aeiou' + also for c in text)",),
            meta={"id": 901},
        ),
        Draft(
            "code",
            "Write a function to add two points." + starting("the function `add`", "def add(one, other):"),
            tests=calls("add", [[[1, 2], [3, 4]], [4, 6]], [[[], []], []]),
            references=("def add(one, other):\n    return tuple(a + b for a, b in zip(one, other))",),
            meta={"id": 902, "cases_left_out": 1, "tuples_as_lists": True},
        ),
        Draft(
            "code",
            "Write a function." + named("f"),
            tests=calls("f", [[-1, [None, True], {"a": 1000.0}], {"b": "c"}]),
            references=("def f(:",),
            meta={"id": 903},
        ),
        Draft("code", "Write a function.", meta={"id": 904}),
        "none of the 2 statements compares a call of literal values with a literal value.",
        "the column test_list must hold statements, found a number.",
        "the column test_list is missing",
    ],
    "problems": [
        Draft("math", "What is 2 + 2?", "4", "Count.", meta={"id": "a-1", "author": "Ann", "year": 2024}),
        Draft(
            "math",
            "Which is even?",
            "B",
            options=("1", "2"),
            meta={"difficulty": "easy", "level": [1, None]},
        ),
        Draft("code", "Print 1.", tests=stdio(["", "1"]), references=("print(1)",), meta={"id": 5}),
        Draft(
            "code",
            "Return 1.",
            tests='{"kind": "call", "function": "one", "cases": [[[], 1]]}',
            references=("def one(): return 1",),
        ),
        Draft("code", "Return 1."),
        Draft("math", "", "4"),
        "the domain must be math or code, found 'art'.",
        "the column options is no readable JSON",
        "the column references is no readable JSON",
        "the column meta must be an object or JSON text of one, found a list.",
    ],
}


@pytest.mark.parametrize(("name", "number", "outcome"), numbered(OUTCOMES))
def test_every_row_becomes_what_it_should(name: str, number: int, outcome: Draft | str) -> None:
    assert len(rows(name)) == len(OUTCOMES[name])
    assert_becomes(name, rows(name)[number], outcome)
    if isinstance(outcome, Draft) and outcome.tests:
        parse_tests(outcome.tests, "the tests")
