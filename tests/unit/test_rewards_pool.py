"""The scoring pool: what judges do wrong ends on the sample, and nowhere else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_srpo.data.code_tests import CodeTests
from megatron_srpo.data.problem import Problem
from megatron_srpo.errors import SrpoError, cause_of
from megatron_srpo.recipe.reward import RewardSection
from megatron_srpo.rewards import messages
from megatron_srpo.rewards.judge import Judge
from megatron_srpo.rewards.pool import RewardPool
from megatron_srpo.rewards.score import Reward, failure
from megatron_srpo.workers import messages as frames

FUNCTIONS = "tests.unit.reward_functions"
PROBLEM = Problem("p", "What is 40 + 2?", "42")
GOOD = "<think>40 + 2 = 42.</think> <answer>42</answer>"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def section(function: str | None = "behave", **more: Any) -> RewardSection:
    functions = {"own": {"path": f"{FUNCTIONS}:{function}", "seconds": 1.0}} if function else {}
    return RewardSection.model_validate({"workers": 1, "functions": functions, "math": {"seconds": 1.0}} | more)


def family() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


async def wait_until(true: Any) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


async def test_a_group_is_scored_in_order_as_one_process_does() -> None:
    group = [
        GOOD,
        "<answer>42</answer>",
        "<think>a</think> <answer>41</answer>",
        "",
        GOOD,
        *("x" * n for n in range(9)),
    ]
    settings = section(None, workers=2)
    async with RewardPool(settings) as pool:
        first, second = await asyncio.gather(
            pool.score_group(group, PROBLEM), pool.score_group(group[::-1], PROBLEM)
        )
    judge = Judge(settings)
    assert first == [judge.reward(response, PROBLEM) for response in group]
    assert second == first[::-1]
    assert [reward.total for reward in first[:5]] == [1.0, 0.5, 0.0, -0.5, 1.0]
    assert first[1].components == {"accuracy": 1.0, "format": -0.5}


@pytest.mark.parametrize(
    ("deed", "cause"),
    [
        ("hang", "no result within 2 s"),
        ("spin", "no result within 2 s"),
        ("ignore signals and hang", "no result within 2 s"),
        ("segfault", "the judge's process was lost: ended by SIGSEGV"),
        ("kill", "the judge's process was lost: ended by SIGKILL"),
        ("exit", "the judge's process was lost: ended with exit code 3"),
        ("leave", "the judge's process was lost: ended with exit code 1"),
        ("memory", "MemoryError:  (reward_functions.py, line"),
        ("much memory", "OSError: [Errno 12] Cannot allocate memory"),
        ("raise", "ZeroDivisionError: integer division or modulo by zero (reward_functions.py, line"),
        ("recurse", "RecursionError: maximum recursion depth exceeded"),
        ("close", "the judge's process was lost: ended with exit code 1"),
        ("text", "reward.functions.own: the function returned 'much', expected a finite number"),
        ("nan", "reward.functions.own: the function returned nan, expected a finite number"),
        ("nothing", "reward.functions.own: the function returned None, expected a finite number"),
    ],
)
async def test_a_terrible_judge_is_an_error_of_one_sample(deed: str, cause: str) -> None:
    async with RewardPool(section(worker_memory_megabytes=2048)) as pool:
        group = await pool.score_group([GOOD, deed, GOOD, GOOD, deed, GOOD], PROBLEM)
        assert [reward.error is None for reward in group] == [True, False, True, True, False, True]
        assert group[1] == group[4]
        assert group[1].error is not None and group[1].error.startswith(cause)
        assert (group[1].total, group[1].accuracy, group[1].components) == (-0.7, 0, {"error": -0.7})
        assert [group[at].total for at in (0, 2, 3, 5)] == [2.0] * 4
        assert (await pool.score(GOOD, PROBLEM)).total == 2.0
    assert family() == []


async def test_what_judges_print_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    async with RewardPool(section()) as pool:
        assert (await pool.score("print", PROBLEM)).error is None
        assert (
            await pool.score("interrupt", PROBLEM)
        ).error is None  # a terminal's Ctrl-C reaches the workers too
    assert capfd.readouterr() == ("", "")


async def test_components_are_kept_apart_and_sum_to_the_total() -> None:
    settings = section(
        None,
        accuracy=2.0,
        repetition={"penalty": -0.25},
        functions={
            "length": {"path": f"{FUNCTIONS}:length", "weight": -0.5, "arguments": {"unit": 47}},
        },
    )
    assert len(GOOD) == 47
    async with RewardPool(settings) as pool:
        reward, loop = await pool.score_group([GOOD, "again and " * 1000 + GOOD], PROBLEM)
    assert reward.components == {"accuracy": 2.0, "length": -0.5}
    assert (reward.total, reward.accuracy) == (1.5, 1)
    assert loop.components["repetition"] == -0.25
    assert loop.components["format"] == -0.5
    assert loop.total == pytest.approx(sum(loop.components.values()))


async def test_the_recipes_own_judge_decides_accuracy() -> None:
    settings = section(None, judge={"path": f"{FUNCTIONS}:share"}, answer_format="boxed", accuracy=2.0)
    async with RewardPool(settings) as pool:
        rewards = await pool.score_group(["1", "0.25", "", "1.5", "x"], PROBLEM)
    assert [reward.accuracy for reward in rewards] == [1, 0, 0, 0, 0]
    assert [reward.components.get("accuracy") for reward in rewards] == [2.0, 0.5, 0.0, None, None]
    assert rewards[3].error == f"reward.judge: {FUNCTIONS}:share returned 1.5, expected 0 to 1"
    assert rewards[4].error is not None and rewards[4].error.startswith("ValueError: could not convert")


async def test_a_function_sees_the_whole_problem() -> None:
    async with RewardPool(section("knows")) as pool:
        problem = Problem("p", "q", "1", meta={"wanted": "so"})
        rewards = await pool.score_group(["so", "no"], problem)
        other = await pool.score("no", Problem("p", "q", "1", meta={"wanted": "no"}))
    assert [reward.components["own"] for reward in (*rewards, other)] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tests.unit.nowhere:f", "reward.functions.own: tests.unit.nowhere:f cannot be imported"),
        (f"{FUNCTIONS}:nothing", f"reward.functions.own: {FUNCTIONS}:nothing cannot be imported"),
        (f"{FUNCTIONS}:__doc__", f"reward.functions.own: {FUNCTIONS}:__doc__ is no function"),
        (f"{FUNCTIONS}:flood", f"reward.functions.own: {FUNCTIONS}:flood cannot be called with"),
        (f"{FUNCTIONS}:note", "missing a required argument: 'folder'"),
        ("tests.unit.broken_functions:f", "cannot be imported .ZeroDivisionError: division by zero.$"),
    ],
)
async def test_a_function_that_is_not_there_is_an_error_at_the_start(path: str, message: str) -> None:
    settings = RewardSection.model_validate({"functions": {"own": {"path": path}}})
    with pytest.raises(SrpoError, match=message):
        async with RewardPool(settings):
            pass
    assert family() == []


async def test_no_more_is_on_its_way_than_there_are_workers(tmp_path: Path) -> None:
    own = {"path": f"{FUNCTIONS}:note", "arguments": {"folder": str(tmp_path)}}
    async with RewardPool(section(None, workers=2, functions={"own": own})) as pool:
        groups = [pool.score_group([f"{group}-{sample}" for sample in range(6)], PROBLEM) for group in range(4)]
        rewards = [reward for group in await asyncio.gather(*groups) for reward in group]
    together = [reward.components["own"] for reward in rewards]
    assert max(together) == 2.0


async def test_a_cancelled_call_leaves_nothing_running() -> None:
    async with RewardPool(section(workers=2)) as pool:
        await pool.score_group([GOOD] * 8, PROBLEM)
        before = {process.pid for process in family()}
        call = asyncio.create_task(pool.score_group(["spin"] * 8, PROBLEM))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await wait_until(
            lambda: len(before & {process.pid for process in family()}) == 1
        )  # what they are forked from
        assert [reward.total for reward in await pool.score_group([GOOD] * 8, PROBLEM)] == [2.0] * 8


@pytest.mark.parametrize("seconds", [0.6, 0.8, 1.0])
async def test_a_call_that_is_cancelled_late_leaves_no_reward_to_the_next(seconds: float) -> None:
    # The function takes a second: the cancel comes before, at, and after the deadline.
    own = {"path": f"{FUNCTIONS}:slow", "seconds": 0.7}
    async with RewardPool(section(None, functions={"own": own}, math={"seconds": 0.1})) as pool:
        for _ in range(3):
            call = asyncio.create_task(pool.score("a wrong one", PROBLEM))
            await asyncio.sleep(seconds)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            reward = await pool.score(GOOD, PROBLEM)
            assert (reward.error, reward.components.get("accuracy")) == (None, 1.0)


async def test_a_cancelled_start_leaves_no_descriptor() -> None:
    async with RewardPool(section(None)) as pool:
        await pool.score(GOOD, PROBLEM)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            pool._workers[0].close()
            call = asyncio.create_task(pool.score(GOOD, PROBLEM))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await pool.score(GOOD, PROBLEM)
        assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_more_requests_than_the_socket_holds_wait() -> None:
    async with RewardPool(section(None)) as pool:
        nursery = psutil.Process().children()[0]
        nursery.suspend()
        asyncio.get_running_loop().call_later(0.5, nursery.resume)
        await asyncio.to_thread(lambda: [pool._nursery.kill(99) for _ in range(2000)])
        assert (await pool.score(GOOD, PROBLEM)).accuracy == 1


def test_an_error_earns_no_more_than_the_worst_answer() -> None:
    assert section(None).least == pytest.approx(-0.7)
    assert section(None, broken_format=0.5, repetition={"penalty": -1.0}).least == pytest.approx(-1.2)


def test_programs_may_not_have_more_memory_than_their_worker() -> None:
    with pytest.raises(ValueError, match="memory_megabytes 2048 is above worker_memory_megabytes 1024"):
        section(None, worker_memory_megabytes=1024, code={"memory_megabytes": 2048})


def test_a_remote_sandbox_has_time_for_all_its_requests() -> None:
    tests = CodeTests("stdio", ("1",) * 8, ("1",) * 8)
    problem = Problem("p", "q", "", domain="code", tests=tests)
    remote = section(None, sandbox={"backend": "sandbox_fusion", "url": "http://127.0.0.1:1"})
    local, far = RewardPool(section(None))._deadline(problem), RewardPool(remote)._deadline(problem)
    assert far >= local + 8 * 4 * (30 + 4 * 3)  # cases, tries, and for each of them queue, seconds and patience


async def test_the_end_of_the_pool_is_the_end_of_busy_workers() -> None:
    async with RewardPool(section()) as pool:
        call = asyncio.create_task(pool.score("spin", PROBLEM))
        await asyncio.sleep(0.3)
        busy = family()
        assert len(busy) == 2
        call.cancel()
    await wait_until(lambda: not any(process.is_running() for process in busy))


async def test_a_worker_killed_from_outside_costs_no_reward() -> None:
    """Idle, or in the middle of a response: what the kernel kills for memory must not decide on rewards."""
    responses = ["a wrong one", GOOD]
    async with RewardPool(section("slow")) as pool:
        undisturbed = await pool.score_group(responses, PROBLEM)
        family()[-1].kill()
        assert await pool.score_group(responses, PROBLEM) == undisturbed
        call = asyncio.create_task(pool.score_group(responses, PROBLEM))
        await asyncio.sleep(0.5)
        family()[-1].kill()
        assert await call == undisturbed
        assert all(reward.error is None for reward in undisturbed)


async def test_a_lost_nursery_is_an_error_that_says_so() -> None:
    async with RewardPool(section()) as pool:
        await pool.score(GOOD, PROBLEM)
        nursery = psutil.Process().children()[0]
        os.kill(nursery.pid, signal.SIGKILL)
        with pytest.raises(SrpoError, match="the process that reward workers are forked from is gone"):
            for _ in range(1000):  # a killed process dies when it is next given a processor
                await pool.score(GOOD, PROBLEM)
                await asyncio.sleep(0.01)


def test_workers_end_with_a_killed_parent() -> None:
    program = (
        "import asyncio\n"
        "from megatron_srpo.data.problem import Problem\n"
        "from megatron_srpo.recipe.reward import RewardSection\n"
        "from megatron_srpo.rewards.pool import RewardPool\n"
        f"own = {{'path': '{FUNCTIONS}:behave', 'seconds': 1000}}\n"
        "async def main():\n"
        "    async with RewardPool(RewardSection.model_validate({'functions': {'own': own}})) as pool:\n"
        "        calls = [pool.score(deed, Problem('p', 'q', '1')) for deed in ('spin', 'hang')]\n"
        "        print('started', flush=True)\n"
        "        await asyncio.gather(*calls)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "started\n"
        until = time.monotonic() + 30
        while len(children := psutil.Process(parent.pid).children(recursive=True)) < 3:
            assert time.monotonic() < until
            time.sleep(0.02)
        parent.kill()
    psutil.wait_procs(children, timeout=30)
    assert [child for child in children if child.is_running()] == []


@pytest.mark.parametrize(
    "response",
    [
        "",
        "\0",
        "\ud800",
        "\u202e42",
        "<answer>" * 10**5,
        "\\boxed{" * 10**5,
        "9" * 10**6,
        "```\n" * 10**5,
        "a" * 10**6,
    ],
    ids=range(9),
)
async def test_every_text_is_scored(response: str) -> None:
    async with RewardPool(section(None, repetition={"penalty": -0.1}, math={"seconds": 20.0})) as pool:
        (reward,) = await pool.score_group([response], PROBLEM)
    assert reward.error is None
    assert reward.accuracy == 0


TESTS = st.builds(
    lambda kind, cases, more: CodeTests(kind, tuple(a for a, _ in cases), tuple(b for _, b in cases), **more),
    st.sampled_from(["call", "stdio"]),
    st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=3),
    st.fixed_dictionaries(
        {}, optional={"function": st.text(), "tolerance": st.floats(0, 1), "checker": st.text()}
    ),
)


@given(st.builds(Problem, st.text(), st.text(), st.text(), domain=st.text(), tests=st.none() | TESTS))
def test_a_problem_survives_the_way_to_a_worker(problem: Problem) -> None:
    content = frames.encode(messages.problem_message(problem))
    size = frames.size_of(content[: frames.LENGTH_BYTES])
    assert len(content) == frames.LENGTH_BYTES + size
    assert messages.problem_of(frames.json.loads(content[frames.LENGTH_BYTES :])) == problem


def test_causes_name_the_place_and_are_short() -> None:
    try:
        raise ValueError("x\ny" * 1000)
    except ValueError as error:
        cause = cause_of(error)
    assert cause.startswith("ValueError: x yx yx")
    assert f"({Path(__file__).name}, line " in cause
    assert len(cause) < 400
    assert failure(cause, -0.5) == Reward(-0.5, 0, False, None, {"error": -0.5}, "", cause)
