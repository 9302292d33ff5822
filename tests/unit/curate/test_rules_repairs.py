"""What each repair makes of a problem, and what it leaves alone."""

from __future__ import annotations

import pytest

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules import RULES
from tests.unit.curate.applying import SETTINGS, code, math, repaired

# rule: {before: after}
REPAIRED: dict[str, dict[str, str]] = {
    "encoding": {
        "What donâ€™t they share?": "What don’t they share?",
        "Find\u200b $x$.": "Find $x$.",
        "\ufeffFind $x$.": "Find $x$.",
        "Find the high\u00adest number.": "Find the highest number.",
        "Is 3 â‰¤ 5?": "Is 3 ≤ 5?",
        "An angle of 30Â° is given. What is its double?": "An angle of 30° is given. What is its double?",
        "Find 3 Ã— 4.": "Find 3 × 4.",
        "What is the area in terms of Ï€?": "What is the area in terms of π?",
        "The cafÃ© sells 5 cakes. How many are left?": "The café sells 5 cakes. How many are left?",
        "Find\x00 the sum.": "Find the sum.",
        "Find \u202athe\u202c sum.": "Find the sum.",
        "â€œTwoâ€\x9d is what?": "“Two” is what?",
        "What is \u20602+2\u2060?": "What is 2+2?",
        "Find the sum.\u2028Then stop.": "Find the sum.\nThen stop.",
        "He paid â‚¬5. How much is that?": "He paid €5. How much is that?",
    },
    "html": {
        "<p>Find <b>x</b> if x<sup>2</sup> = 4.</p>": "Find x if x^{2} = 4.",
        "Find x.<br/>Then stop.": "Find x.\nThen stop.",
        "Is 3 &lt; 5?": "Is 3 < 5?",
        "Add&nbsp;3 and 4.": "Add 3 and 4.",
        "Find a<sub>1</sub> + a<sub>2</sub>.": "Find a_{1} + a_{2}.",
        "Find the n<sup>th</sup> term.": "Find the nth term.",
        '<div class="q">What is 2 &times; 3?</div>': "What is 2 × 3?",
        "Tom &amp; Ann share 10 pens. How many each?": "Tom & Ann share 10 pens. How many each?",
        "Is $a &lt; b$ true?": "Is $a < b$ true?",
        "<i>x</i> is 3. What is <i>x</i> + 1?": "x is 3. What is x + 1?",
        "What is &#8730;4?": "What is √4?",
        "Numbers:<ul><li>2</li><li>3</li></ul>What is their sum?": "Numbers:\n\n- 2\n- 3\nWhat is their sum?",
        "<strong>Find</strong> the <em>largest</em> prime below 10.": "Find the largest prime below 10.",
        "Is 3 &amp;lt; 4?": "Is 3 < 4?",
        "<span style='color:red'>Compute</span> 3 &ge; 2?": "Compute 3 ≥ 2?",
    },
    "urls": {
        "As [here](https://x.org), find the sum.": "As here, find the sum.",
        "https://codeforces.com/problemset/problem/1/A\nFind the sum.": "Find the sum.",
        "Find the sum. See www.mathsite.com": "Find the sum.",
        "Find the sum (https://a.org/b?c=d&e=f).": "Find the sum.",
        "Find the sum. Source: http://a.org/b": "Find the sum.",
        "A [prime](http://en.wikipedia.org/wiki/Prime_(number)) is given. Find it.": "A prime is given. Find it.",
        r"Find the \href{https://a.org}{sum} of both.": "Find the sum of both.",
        "Find the sum. For more details see https://a.org.": "Find the sum.",
        "Find the sum. <https://a.org/x>": "Find the sum.",
        "From artofproblemsolving.com/wiki/x: find the sum.": ": find the sum.",
    },
    "noise": {
        "Problem 12. Find the sum.": "Find the sum.",
        "Question 3: What is 2+2?": "What is 2+2?",
        "Example 5. Let $a=1$. Find $b$.": "Let $a=1$. Find $b$.",
        "4. Find all primes below 10.": "Find all primes below 10.",
        "12) Find the sum.": "Find the sum.",
        "(10 points) Find the sum.": "Find the sum.",
        "Find the sum. [5 marks]": "Find the sum.",
        "Find the sum of 3 and 4. (2003 AMC 10A, Problem 7)": "Find the sum of 3 and 4.",
        "## Task 4\n\nFind the sum.": "Find the sum.",
        "**Problem 12.** Find the sum.": "Find the sum.",
        "Find the sum.\n\nTranslate the above text into English, keep the original line breaks.": "Find the sum.",
        "Find the sum.\nSolution:": "Find the sum.",
        "What is the sum? Answer:": "What is the sum?",
        "Find the sum.\n\n**Answer:** ____": "Find the sum.",
        "Three, (20 points) Let $a$ be 3. Find $a$.": "Let $a$ be 3. Find $a$.",
        "5. (2007 Hunan) Find the sum.": "Find the sum.",
        "[AIME 1997] Find the sum.": "Find the sum.",
        "Find the sum. (IMO 1979)": "Find the sum.",
        "Exercise 3.2. Find the sum.": "Find the sum.",
        "Q7. What is the sum?": "What is the sum?",
        "Question: What is the sum?": "What is the sum?",
        "Find the sum. Proposed by Ann Lee": "Find the sum.",
        "2019 AMC 12B Problem 4\nFind the sum.": "Find the sum.",
        "Problem 7 (5 points). Find the sum.": "Find the sum.",
    },
    "markdown": {
        "Find the **largest** prime.": "Find the largest prime.",
        "# Sums\nFind the sum.": "Sums\nFind the sum.",
        "> Find the sum.": "Find the sum.",
        r"The sum is \_\_\_\_.": "The sum is ____.",
        "Find the sum.\n\n---\n\nUse $n = 3$.": "Find the sum.\n\nUse $n = 3$.",
        "Find the *least* prime.": "Find the least prime.",
        "Find the __least__ prime.": "Find the least prime.",
        "Find the _least_ prime.": "Find the least prime.",
        "**Find the value of $x$.**": "Find the value of $x$.",
        "Find the ***least*** prime.": "Find the least prime.",
        "### Given\nLet $a = 1$. Find $a$.": "Given\nLet $a = 1$. Find $a$.",
        "> Let $a=1$.\n> Find $a$.": "Let $a=1$.\nFind $a$.",
        "What is ~~not~~ the sum?": "What is not the sum?",
        "***\nFind the sum.": "Find the sum.",
        r"What is 2 \* 3?": "What is 2 * 3?",
    },
    "latex": {
        r"Find $\\frac{1}{2}$.": r"Find $\frac{1}{2}$.",
        "Find $\x0crac{1}{2}$.": r"Find $\frac{1}{2}$.",
        "Find $2 \times 3$.": r"Find $2 \times 3$.",
        "Find $\x08eta$.": r"Find $\beta$.",
        r"Find $\ frac{1}{2}$.": r"Find $\frac{1}{2}$.",
        r"Find $\\sqrt{4} \\cdot 3$.": r"Find $\sqrt{4} \cdot 3$.",
        "Find $\x07lpha + 1$.": r"Find $\alpha + 1$.",
        "Find $|\x0bec{a}|$.": r"Find $|\vec{a}|$.",
        r"\\( x^2 = 4 \\) has which roots?": r"\( x^2 = 4 \) has which roots?",
        r"Find $\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}$.": r"Find $\begin{pmatrix} 1 \\ 2 \end{pmatrix}$.",
        "Find $\theta$.": r"Find $\theta$.",
        "Find $a \neq b$.": r"Find $a \neq b$.",
        "Find the sum of 3 and 4.$": "Find the sum of 3 and 4.",
        "Find $\x0crac12 + \x08inom{4}{2}$.": r"Find $\frac12 + \binom{4}{2}$.",
        r"Find $2 \ times 3 \ pi$.": r"Find $2 \times 3 \pi$.",
        r"Find $\\alpha$ if $\beta = 2\alpha$.": r"Find $\alpha$ if $\beta = 2\alpha$.",
        "Find $x$ in \text{cm}.": r"Find $x$ in \text{cm}.",
    },
    "multiple_choice": {
        "What is $2+2$? (A) 3 (B) 4 (C) 5": "What is $2+2$?",
        "What is $2+2$?\nA. 3\nB. 4\nC. 5": "What is $2+2$?",
        "What is $2+2$?\n\nA) 3\n\nB) 4\n\nC) 5": "What is $2+2$?",
        r"What is $2+2$? $\textbf{(A)}\ 3 \qquad \textbf{(B)}\ 4 \qquad \textbf{(C)}\ 5$": "What is $2+2$?",
        r"The value of $2+2$ is $\text{(A)}\ 3 \quad \text{(B)}\ 4 \quad \text{(C)}\ 5$": "The value of $2+2$ is ____.",
        "If $x = 2$, then $2x$ equals\n(A) 3\n(B) 4\n(C) 5": "If $x = 2$, then $2x$ equals ____.",
        "What is $2+2$? **A.** 3 **B.** 4 **C.** 5": "What is $2+2$?",
        "The sum $2+2$ is ( )\nA. $3$\nB. $4$\nC. $5$\nD. $6$": "The sum $2+2$ is ____",
        "What is $2+2$? (a) 3 (b) 4 (c) 5": "What is $2+2$?",
        "What is $2+2$? $(\\mathrm{A}) 3 \\quad (\\mathrm{B}) 4 \\quad (\\mathrm{C}) 5$": "What is $2+2$?",
        "How many corners has a square?\nA: 3\nB: 4\nC: 5\nD: 6": "How many corners has a square?",
    },
}
ALONE: dict[str, list[str]] = {
    "encoding": [
        "Let α, β and γ be angles with sum π. What is α + β + γ?",
        "The café of Erdős and Rényi has 5 tables. How many legs have they?",
        "Is ∞ a number?",
        "Find “the sum” of 3 and 4 – now.",
        "Let ½ be given. What is 2·½?",
        "Find Å + 1 in naïve terms, as São Paulo does.",
        "What is 5 € – 2 €?",
        "Solve x² ≤ 4 for x ∈ ℝ.",
        "The ﬁrst number is what?",
        "नमस्‍ते and क्ष are two words. How many letters?",
        "求 $x$ 的值。",
        "The temperature is −5 °C. What is it in °F?",
        "Find the sum.\r\nThen stop.",
        "Is 👨‍👩‍👧 one sign?",
        "Find ∑ k for k ≤ 3.",
    ],
    "html": [
        "Let a<b and c>d. Find the sum.",
        "Use List<int> and Map<String, Integer>.",
        "```cpp\n#include <vector>\n<p>x</p>\n```",
        "`<p>` is a tag.",
        "Let $x<y$ and $y>z$.",
        "If 0<p<1 and p>q, find p.",
        "For a<b>c we write so.",
        "if (a<b && c>d) return;",
        "vector<pair<int,int>> v;",
        "Print <n> then <name>.",
        "AT&T has 3 phones & 4 lines.",
        "$\\begin{matrix} a & b \\\\ c & d \\end{matrix}$",
        "Is 1 << 3 = 8 >> 0?",
        'Given the string "<div><p>hi</p></div>", find its depth.',
        "swap(&a, &b);",
    ],
    "urls": [
        "The interval [0,1](2,3) is odd.",
        'Given "https://www.a.org/b", print the domain.',
        "```\nhttp://a.org\n```",
        "Let f(x) = [x](x+1).",
        "Pay www dollars.",
        "Use `curl https://a.org`.",
        "A ratio of 3:4 and 1/2 is given.",
        "Mr. Smith e.g. has 3 cats.",
        "![](fig.png) Find x.",
        "The file is a.com in size.",
    ],
    "noise": [
        "In 2003, Ann was 12. How old was she in 2010?",
        "2003 is the year. What is its digit sum?",
        "Question 3 of a test is worth 5 points. How many are 4 such questions worth?",
        "1. Find $a$. 2. Find $b$.",
        "1) Find $a$.\n2) Find $b$.",
        "3.5 liters are poured. How much is left of 10?",
        "A win (3 points) is better than a draw (1 point). How many points are 4 wins?",
        "Ann took part in the Olympiad (a mathematical competition). How old is she?",
        "Translate the following phrase into an equation: five more than $x$ is 7.",
        "Problem 12 asks for more points than problem 11. How many is that?",
        "100 people sit in a row. How many are left?",
        "(x+1)(x+2)=0 has which roots?",
        "What is the general solution of $y' = y$?",
        "A. Smith has 3 cats. How many legs?",
        "12 points lie on a circle. How many chords?",
        "What is the answer?",
        "(3, 4) is a point. How far is it from the origin?",
    ],
    "markdown": [
        "What is $a*b*c$ with $a_1 = 2$?",
        "What is 2*3*4?",
        "What is 2 * 3 * 4?",
        "The sum is ____.",
        "Choose:\n- 2\n- 3",
        "Choose:\n1. two\n2. three",
        "Is 5 > 3?",
        "The operation a*b = a+b is given. What is 2*(3*4)?",
        "Use snake_case_names and x_1 + x_2.",
        "  123\n+ 456\n-----\n  579",
        "Ann - who is 3 - has a cat.",
        "Ring #3 costs 5.",
        "$a \\_ b$",
        "Let * be an operation and let # be another.",
        "f**2 is f squared; g**2 too.",
    ],
    "latex": [
        r"$\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}$",
        r"$\begin{cases} x + y = 1 \\ x - y = 3 \end{cases}$",
        r"$\begin{cases} 1 \\ \frac12 \end{cases}$",
        r"$\begin{aligned} a &= b \\ &= c \end{aligned}$",
        "A pen costs $5. What do two cost?",
        "A pen costs \\$5 and a book \\$7.",
        "Two lines\nequal in length\tare given.",
        r"$\begin{cases} x \\ y \\[2mm] z \end{cases}$",
        "Find\tthe sum.",
        "$a$\n\nThen $b$.",
        r"$5\ \text{cm}$ and $10\ in$",
        r"$\{1, 2\}$",
        "It costs $5 and $7$ is prime.",
        r"$\begin{array}{l} a \\ b \end{array}$",
        "no\npi is here",
    ],
}
CODE_ALONE = {
    "urls": ["Input\nhttp://a.ru/test\n", "Given a URL such as http://a.com/b, print its path."],
    "html": ["vector<int> a; cout << a<b;", "Return List<List<Integer>> of n."],
}


def _apply(rule_name: str, draft: Draft) -> Draft | None:
    rule = next(rule for rule in RULES if rule.name == rule_name and rule.repair is not None)
    done = rule.repair(draft, SETTINGS) if rule.repair else None
    return done[0] if done else None


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [(rule, before, after) for rule, cases in REPAIRED.items() for before, after in cases.items()],
)
def test_repaired(rule: str, before: str, after: str) -> None:
    done = _apply(rule, math(before, "B" if rule == "multiple_choice" else "4"))
    assert done is not None and done.prompt == after
    if rule == "multiple_choice":
        assert done.answer == "4"
    assert rule in repaired(math(before, "B" if rule == "multiple_choice" else "4"))[1]


@pytest.mark.parametrize(("rule", "prompt"), [(rule, prompt) for rule, cases in ALONE.items() for prompt in cases])
def test_left_alone(rule: str, prompt: str) -> None:
    assert _apply(rule, math(prompt)) is None


@pytest.mark.parametrize(
    ("rule", "prompt"), [(rule, prompt) for rule, cases in CODE_ALONE.items() for prompt in cases]
)
def test_left_alone_in_tasks(rule: str, prompt: str) -> None:
    assert _apply(rule, code(prompt)) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        ("\x0crac{1}{2}", r"\frac{1}{2}"),
        ("2\times 3", r"2\times 3"),
        ("\x08inom{4}{2}", r"\binom{4}{2}"),
        ("x&lt;3", "x<3"),
        ("10<sup>3</sup>", "10^{3}"),
        ("3 â‰¤ x", "3 ≤ x"),
        ("\u200b12", "12"),
        ("12$", "12"),
        ("$5", "$5"),
        ("\\$5", "\\$5"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ],
)
def test_answers_are_repaired(before: str, after: str) -> None:
    assert repaired(math("What is it?", before))[0].answer == after


def test_options_beside_the_prompt() -> None:
    draft = Draft("math", "What is $2+2$?", "(B)", options=("3", "$4$", "5"))
    done, names = repaired(draft)
    assert (done.prompt, done.answer, done.options, names) == ("What is $2+2$?", "4", (), {"multiple_choice"})


@pytest.mark.parametrize("answer", ["B", "(B)", "B.", r"\text{(B)}", "B) 4", "b", "(B) $4$", "4", r"\textbf{(B)}"])
def test_forms_of_the_right_choice(answer: str) -> None:
    done, _ = repaired(math("What is $2+2$? (A) 3 (B) 4 (C) 5", answer))
    assert (done.prompt, done.answer) == ("What is $2+2$?", "4")
