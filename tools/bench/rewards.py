"""Rewards: checks of mathematics, tests of programs, and what hanging programs cost the others.

    python tools/bench/rewards.py [--quick]

* math: responses judged by the scoring pool, without the judge of language, per second of processor time of all
  its processes and ours.  Baseline: `math_verify.verify(parse(reference), parse(answer))` on the same pairs in
  this process, without isolation.
* whole reward: the same with reasoning of 4,000 characters around each answer, language and repetition included;
  beside it for information, the baseline is the same as above.
* code: test cases of programs by standard streams and by calls, ten each, in the sandbox of this machine, one
  after the other.  Baseline: `subprocess.run([python, program], input=...)` for each case.
* latency: of good programs while they arrive five a second at two workers, with 5 % hanging ones (time limit 1 s)
  among them, 99th percentile.  Baseline: the same load with good ones only.
* after attack: an honest program right after each of some attacks, the slowest median of them.  Baseline: the same
  after an honest one that works, or sleeps as the threads do, for about as long: caches are as cold then.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import typer
from common.report import Result, compare, progress, report

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.data.problem import Problem
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.rewards.pool import RewardPool
from megatron_srpo.rewards.sandbox.choice import open_sandbox
from megatron_srpo.rewards.sandbox.jobs import Limits, Program, Sandbox

PAIRS = (
    ("42", "42"),
    ("42", "41"),
    ("7", "x = 7"),
    ("1/2", r"\frac{1}{2}"),
    (r"\frac{3}{4}", "0.75"),
    (r"\frac{14}{3}", r"\frac{14}{3}"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"\frac{\pi}{2}", r"\pi/2"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \frac{\pi}{2})"),
    ("6 - 5i", "6-5i"),
    ("p - q", "p-q"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\{1, 2, 3\}", r"\{3, 1, 2\}"),
    ("[0, 5)", r"\left[0, 5\right)"),
    (r"90^\circ", r"90^\circ"),
    ("1000", "1,000"),
    ("2220", "2200"),
    ("0.5", r"50\%"),
    (r"\text{Evelyn}", r"\text{Evelyn}"),
    (r"x^2 - 4x + 4", "(x-2)^2"),
)
SENTENCE = "We add the two sides, use that $a^2 + b^2 = c^2$, and see that the next term must be {} as well. "
STDIO = "n = int(input())\nprint(sum(i * i for i in range(n)))\n"
CALL = "def squares(n):\n    return sum(i * i for i in range(n))\n"
LONG = "import time\nwhile time.process_time() < 0.15: pass\n"
SLEEPING = "import time\ntime.sleep(0.55)\n"
HANGING = "while True:\n    pass\n"
LIMITS = Limits(2.0, 20.0, 3.0, 512 * 2**20, 2**22, True)
ATTACKS = {
    "memory": "x = []\nwhile True: x.append(bytearray(2**20))",
    "forks": "import os\nwhile True:\n    try: os.fork()\n    except OSError: break",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
    "output": "while True: print('x' * 2**16)",
    "files": "for n in range(10**6): open(f'{n}', 'w').write('x' * 2**16)",
    "exit": "import os\nos._exit(0)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "signals": "import os\nos.kill(-1, 9)",
    "compile": "(" * 10**5,
    "busy": HANGING,
}


def math_problems(reasoning: int) -> list[tuple[Problem, list[str]]]:
    """A problem for each pair, with a group of eight responses."""
    thoughts = "".join(SENTENCE.format(n) for n in range(1000))[:reasoning]
    text = f"<think>{thoughts} so we have it.</think> <answer>{{}}</answer>"
    return [(Problem(f"p{n}", "?", gold), [text.format(answer)] * 8) for n, (gold, answer) in enumerate(PAIRS)]


def processor_time() -> float:
    """Seconds that this process and all that it has started have used."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


async def math_rates(section: RewardSection, reasoning: int, rounds: int) -> list[float]:
    """Responses per second of processor time, a value for each round."""
    problems = math_problems(reasoning)
    rates = []
    async with RewardPool(section) as pool:
        for _ in range(rounds + 1):
            started = processor_time()
            await asyncio.gather(*(pool.score_group(group, problem) for problem, group in problems))
            rates.append(8 * len(problems) / (processor_time() - started))
    return rates[1:]  # the first one reads the references, which a run keeps


def bare_rates(rounds: int) -> list[float]:
    """The same pairs by the library alone, in this thread."""
    from math_verify import parse, verify

    rates = []
    for _ in range(rounds + 1):
        started = time.process_time()
        for gold, answer in PAIRS:
            for _ in range(8):
                verify(parse(f"${gold}$"), parse(f"${answer}$"))
        rates.append(8 * len(PAIRS) / (time.process_time() - started))
    return rates[1:]


def measure_math(rounds: int) -> list[Result]:
    """Both rows of mathematics."""
    plain = RewardSection.model_validate({"workers": 1, "language": {"penalty": 0.0}})
    whole = RewardSection.model_validate({"workers": 1, "repetition": {"penalty": -0.1}})
    results, bare = [], "math-verify alone"
    for name, section, reasoning, target in (
        ("math checks per second and core", plain, 200, ">= 0.8"),
        ("whole rewards per second and core", whole, 4000, ">= 0"),
    ):
        progress(name)
        ours = asyncio.run(math_rates(section, reasoning, rounds))
        results.append(compare(name, ours, "1/s", bare, bare_rates(rounds), target))
    return results


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_sandbox(sandbox: Sandbox, program: Program) -> None:
    """Run a program, which must end well."""
    for result in sandbox.run(program, LIMITS):
        if result.status != "ok":
            raise RuntimeError(f"{result}")


def measure_code(sandbox: Sandbox, rounds: int) -> list[Result]:
    """Test cases per second, by standard streams and by calls."""
    inputs = [str(n) for n in range(100, 110)]
    stdio = Program(STDIO, "stdio", tuple(inputs))
    calls = Program(CALL, "call", tuple(f"[{n}]" for n in inputs), "squares")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "program.py"
        plain.write_text(STDIO)

        def by_subprocess() -> None:
            for text in inputs:
                subprocess.run([sys.executable, plain], input=text, capture_output=True, text=True, check=True)

        results = []
        for name, program in (("tests by standard streams", stdio), ("tests by calls", calls)):
            progress(name)
            pairs = [
                (timed(lambda program=program: in_sandbox(sandbox, program)), timed(by_subprocess))  # type: ignore[misc]
                for _ in range(rounds)
            ]
            ours, theirs = ([len(inputs) / pair[side] for pair in pairs] for side in (0, 1))
            results.append(compare(f"{name} per second and core", ours, "1/s", "subprocess.run", theirs, ">= 4"))
    return results


async def latencies(section: RewardSection, hanging: float, seconds: float) -> list[float]:
    """Seconds from arrival to reward of the good programs."""
    rng, found = random.Random(0), list[float]()
    tests = CodeTests("stdio", ("10",), ("285",))
    problem = Problem("p", "?", "", domain="code", tests=tests)
    text = "<think>a</think> <answer>\n```python\n{}\n```\n</answer>"

    async def arrive(pool: RewardPool, program: str) -> None:
        started = time.perf_counter()
        reward = await pool.score(text.format(program), problem)
        if program is STDIO:
            assert reward.accuracy == 1, reward
            found.append(time.perf_counter() - started)

    async with RewardPool(section) as pool:
        await asyncio.gather(*(arrive(pool, STDIO) for _ in range(8)))  # starts the sandboxes
        found.clear()
        end, waiting = time.perf_counter() + seconds, []
        while time.perf_counter() < end:
            waiting.append(asyncio.create_task(arrive(pool, HANGING if rng.random() < hanging else STDIO)))
            await asyncio.sleep(rng.expovariate(5.0))
        await asyncio.gather(*waiting)
    return found


def measure_latency(seconds: float) -> Result:
    """The tail with and without hanging programs."""
    section = RewardSection.model_validate({"workers": 2, "code": {"seconds": 1.0}})
    tails = []
    for hanging in (0.05, 0.0):
        progress(f"latency with {hanging:.0%} hanging")
        tails.append(float(np.percentile(asyncio.run(latencies(section, hanging, seconds)), 99)))
    name = "99th percentile of latency, 5 % of programs hanging"
    return Result(
        name, tails[0], "s", "none hanging", tails[1], round(tails[0] / tails[1], 2), "<= 2 s", tails[0] <= 2
    )


def measure_attacks(sandbox: Sandbox, rounds: int) -> Result:
    """An honest program after attacks, against one after itself."""
    honest = Program(STDIO, "stdio", ("100",))
    limits = Limits(0.2, 0.2, 3.0, 256 * 2**20, 2**20, True)
    ratios: dict[str, float] = {}
    slowest, quiet = 0.0, 0.0
    for name, attack in ATTACKS.items():
        progress(f"after {name}")
        other = Program(SLEEPING if name == "threads" else LONG, "stdio", ("",))
        after, before = list[float](), list[float]()
        for _ in range(rounds):
            in_sandbox(sandbox, other)
            before.append(timed(lambda: in_sandbox(sandbox, honest)))
            list(sandbox.run(Program(attack, "stdio", ("",)), limits))
            after.append(timed(lambda: in_sandbox(sandbox, honest)))
        ratios[name] = statistics.median(after) / statistics.median(before)
        if ratios[name] == max(ratios.values()):
            slowest, quiet = statistics.median(after), statistics.median(before)
    worst = max(ratios, key=lambda name: ratios[name])
    progress(", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    ratio = ratios[worst]
    return Result(
        f"honest program after an attack, slowest: {worst}",
        slowest * 1e3,
        "ms",
        "after an honest one",
        quiet * 1e3,
        round(ratio, 3),
        "<= 1.1",
        ratio <= 1.1,
    )


def selected(names: str) -> Sequence[str]:
    return [name.strip() for name in names.split(",")]


def main(quick: bool = False, only: str = "math,code,latency,attacks") -> None:
    """Run the parts that are asked for."""
    parts, results = selected(only), list[Result]()
    if "math" in parts:
        results += measure_math(3 if quick else 9)
    sandbox = open_sandbox(RewardSection().sandbox)
    if "code" in parts:
        results += measure_code(sandbox, 5 if quick else 25)
    if "attacks" in parts:
        results.append(measure_attacks(sandbox, 3 if quick else 25))
    sandbox.close()
    if "latency" in parts:
        results.append(measure_latency(8.0 if quick else 60.0))
    report("rewards", results, sandbox=sandbox.level)


if __name__ == "__main__":
    typer.run(main)
