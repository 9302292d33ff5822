"""Random and adversarial texts as responses: every one must be scored, none may crash or hang a judge.

    python tools/fuzz_rewards.py [--count 100000] [--seed 0]

Texts are random bytes (as UTF-8, as Latin-1, with lone surrogates), shuffled pieces of tags, LaTeX, code and many
scripts, good responses with some bytes changed, cut or repeated, and a few of hundreds of thousands of characters.
All go through the scoring pool with every component of the reward switched on: most as answers to mathematics
problems, one in ten as programs.  Prints one JSON object; the exit code is 1 when a response could not be judged.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter

import typer

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.data.problem import Problem
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.rewards.pool import RewardPool
from megatron_srpo.rewards.score import Reward

GOLDS = ("42", r"\frac{1}{2}", "[0, 5)", r"\{1, 2\}", "x^2+1", "5 cm", "B", '["1/2", "0.5"]', r"\sum_{k=1}^3 k")
TESTS = CodeTests("stdio", ("1",), ("2",))
CALLS = CodeTests("call", ("[1]",), ("2",), function="f")
GOOD = (
    "<think>We add 40 and 2, which is 42.</think> <answer>42</answer>",
    r"<think>So $\frac{2}{4}$.</think> <answer>\boxed{\frac{1}{2}}</answer>",
    "<think>A loop.</think> <answer>\n```python\nprint(int(input()) + 1)\n```\n</answer>",
    "<think>A function.</think> <answer>\n```python\ndef f(x):\n    return x + 1\n```\n</answer>",
)
PIECES = (
    *(
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "\\boxed{",
        "{",
        "}",
        "```",
        "```python\n",
        "\n",
        " ",
        "$",
        "$$",
    ),
    *(
        "\\frac{",
        "\\sqrt{",
        "^",
        "_",
        "\\left(",
        "\\right]",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "\\\\",
        "&",
        "%",
    ),
    *(
        "1",
        "42",
        "-",
        "+",
        "0.5",
        "1e999",
        "9" * 50,
        "!",
        "=",
        "or",
        "x",
        "π",
        "½",
        "\uff11",
        "٣",
        "\u2212",
        "∞",
        "√",
    ),
    *("import os\n", "while 1: pass\n", "print(", ")", "'", '"""', "\t", "lambda:", "[" * 30, "def f(x):\n "),
    *(
        "the answer is",
        "je pense que",
        "所以答案是",
        "ответ",
        "그래서",
        "كذلك",
        "\u202e",
        "\u200b",
        "\0",
        "\ufeff",
        "🙂",
    ),
)


def random_bytes(rng: random.Random) -> str:
    """Bytes as text, in one of three ways."""
    data = rng.randbytes(rng.choice((0, 1, 3, 30, 300, 3000)))
    how = rng.randrange(3)
    if how == 0:
        return data.decode("utf-8", "replace")
    return data.decode("latin-1") if how == 1 else data.decode("utf-8", "surrogateescape")


def pieces(rng: random.Random) -> str:
    """Pieces that mean something to some judge, in any order."""
    return "".join(rng.choices(PIECES, k=rng.choice((1, 5, 20, 100, 500))))


def enclosed(rng: random.Random) -> str:
    """The same in the right form, so that judges come to look at it."""
    inner = rng.choice((pieces, random_bytes))(rng)
    if rng.random() < 0.5:
        inner = f"\n```python\n{inner}\n```\n"
    return f"<think>{rng.choice(PIECES)} so</think> <answer>{inner}</answer>"


def changed(rng: random.Random) -> str:
    """A good response with a few characters changed, cut out or repeated."""
    text = list(rng.choice(GOOD))
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(text))
        text[at] = rng.choice(
            (chr(rng.randrange(0x110000)), "", text[at] * rng.choice((2, 100)), rng.choice(PIECES))
        )
    return "".join(text)


def huge(rng: random.Random) -> str:
    """One or two pieces hundreds of thousands of times."""
    text = "".join(rng.choices(PIECES, k=rng.choice((1, 2)))) * (200_000 // 4)
    return text[:300_000] if rng.random() < 0.5 else f"<think>a</think> <answer>{text[:300_000]}</answer>"


def response(rng: random.Random) -> str:
    """A text of any kind; huge ones are rare."""
    if rng.random() < 0.001:
        return huge(rng)
    return rng.choice((random_bytes, pieces, enclosed, changed))(rng)


def problem(rng: random.Random, number: int) -> Problem:
    """One in ten is a code problem."""
    if rng.random() < 0.1:
        return Problem(f"p{number}", "?", "", domain="code", tests=rng.choice((TESTS, CALLS)))
    return Problem(f"p{number}", "?", rng.choice(GOLDS))


async def score_all(count: int, seed: int) -> list[Reward]:
    """The rewards of so many responses, ten to a problem."""
    section = RewardSection.model_validate(
        {
            "workers": os.cpu_count() or 1,
            "repetition": {"penalty": -0.1},
            "math": {"fallback": "last_number"},
            "code": {"seconds": 0.5, "program_seconds": 0.5},
        }
    )
    rng, rewards = random.Random(seed), list[Reward]()
    async with RewardPool(section) as pool:
        while len(rewards) < count:
            groups = [(problem(rng, len(rewards) + n), [response(rng) for _ in range(10)]) for n in range(100)]
            for found in await asyncio.gather(*(pool.score_group(texts, of) for of, texts in groups)):
                rewards += found
            print(f"{len(rewards)} scored", file=sys.stderr, flush=True)
    return rewards[:count]


def main(count: int = 100_000, seed: int = 0) -> None:
    """Score them and report."""
    started = time.perf_counter()
    rewards = asyncio.run(score_all(count, seed))
    errors = Counter(reward.error for reward in rewards if reward.error is not None)
    print(
        json.dumps(
            {
                "count": len(rewards),
                "right": sum(reward.accuracy for reward in rewards),
                "well formed": sum(reward.format_ok for reward in rewards),
                "components": Counter(name for reward in rewards for name in reward.components),
                "errors": errors.most_common(10),
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    )
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    typer.run(main)
