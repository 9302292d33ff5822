"""Make the small base model and the data, mathematics and code, on which curricula are compared.

Both tasks are graded: the text that the model learns from answers easy problems well and hard ones badly,
so that at the start of reinforcement learning some groups of samples are all right, some are mixed, and
some are all wrong, and each kind turns into the next as training goes on.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from tiny import base, graded, problems, programs
from tiny.groups import measure_groups

MAX_RESPONSE = 160


@dataclass(frozen=True)
class Pool:
    """How many problems of a task there are to train on and to measure with.

    `drawn` problems are drawn of which the first `train` are kept: pools of another size begin with the same
    problems and leave everything that is drawn afterwards, the model too, as it is.
    """

    drawn: int
    train: int
    heldout: int


def draw_distinct(draw: Callable[[], Any], name: Callable[[Any], str], count: int, taken: set[str]) -> list[Any]:
    """`count` different problems, none of them named in `taken`, which they are added to."""
    chosen: list[Any] = []
    while len(chosen) < count:
        problem = draw()
        if name(problem) not in taken:
            taken.add(name(problem))
            chosen.append(problem)
    return chosen


MATH, CODE = Pool(drawn=192, train=96, heldout=96), Pool(drawn=128, train=64, heldout=64)


def write_pools(
    out: Path, rng: random.Random, task: Any, name: Callable[[Any], str], pool: Pool
) -> tuple[dict[str, list[str]], set[str]]:
    """Write both pools of a task; return the held-out columns and the names of the problems held out."""
    taken: set[str] = set()
    kept = draw_distinct(lambda: task.draw(rng), name, pool.heldout, taken)
    reserved = set(taken)
    practice = draw_distinct(lambda: task.draw(rng), name, pool.drawn, taken)[: pool.train]
    kept_columns: dict[str, list[str]] = task.rows(kept, pool.drawn)
    for part, columns in (("train", task.rows(practice, 0)), ("heldout", kept_columns)):
        pq.write_table(pa.table(columns), out / f"{task.DOMAIN}_{part}.parquet")
    return kept_columns, reserved


def document(rng: random.Random, reserved: set[str], done: float) -> list[problems.Segment]:
    """A document for the point in training where the share `done` lies behind.

    First mostly single sums, then to work through exercises, last the answers of mixed quality.
    """
    drills, exercises = (0.25, 0.65) if done < 0.35 else (0.10, 0.65) if done < 0.7 else (0.03, 0.12)
    task = graded if rng.random() < 0.6 else programs
    kind = rng.random()
    if kind < drills:
        return graded.drill(rng, reserved)
    if kind < drills + exercises:
        return task.exercise(rng, reserved)
    return task.solution(rng, reserved)


def tokenizer_text(rng: random.Random, reserved: set[str], count: int) -> list[str]:
    """Text to train the tokenizer on, without the end-of-text token, which is not learnt."""
    documents = [rng.choice((graded, programs)).solution(rng, reserved) for _ in range(count)]
    return ["".join(text for text, _ in document).replace(problems.EOS, "") for document in documents]


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    seed: Annotated[int, typer.Option(help="Seed of the data and of the model.")] = 0,
    steps: Annotated[int, typer.Option(help="Pre-training steps.")] = 2400,
    batch: Annotated[int, typer.Option(help="Documents a step.")] = 16,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    vocabulary: Annotated[int, typer.Option(help="Size of the tokenizer.")] = 352,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Make the pools, the tokenizer and the base model, and print what the model does as JSON."""
    began = time.perf_counter()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    (out / "model").mkdir(parents=True, exist_ok=True)
    sums, reserved_sums = write_pools(out, rng, graded, lambda problem: problem.expression, MATH)
    coded, reserved_programs = write_pools(out, rng, programs, lambda program: program.question, CODE)
    reserved = reserved_sums | reserved_programs
    tokenizer = base.train_tokenizer(iter(tokenizer_text(rng, reserved, 4000)), vocabulary)
    model = base.new_model(tokenizer)
    plan = base.Plan(steps=steps, batch=batch, lr=lr)
    base.pretrain(model, base.batches(plan, tokenizer, lambda *at: document(at[0], reserved, at[1]), rng), plan)
    base.save(model, tokenizer, out / "model")
    print("measuring", file=sys.stderr)
    report: dict[str, Any] = {
        "math": measure_groups(model, tokenizer, sums, graded.right, MAX_RESPONSE),
        "code": measure_groups(model, tokenizer, coded, programs.right, MAX_RESPONSE),
        "parameters": model.num_parameters(),
        "seconds": round(time.perf_counter() - began, 1),
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    typer.run(main)
