"""Make the small base model and the arithmetic data that the repository's quick run trains on.

The model reads text of mixed quality, as real pre-training text is: drills of single sums, careful
solutions that write out every partial result, and hasty ones that jump to an answer. What it learns
can be told apart at a glance, so that reinforcement learning on it has something to find: the careful
mode is nearly always right, and the model uses it for less than a third of its answers.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from tiny import base, problems


def write_data(out: Path, rng: random.Random, train: int, heldout: int) -> tuple[dict[str, list[str]], set[str]]:
    """Write both data files; return the held-out columns and the expressions held out."""
    taken: set[str] = set()
    kept = problems.draw_distinct(rng, heldout, taken)
    reserved = set(taken)
    practice = problems.draw_distinct(rng, train, taken)
    practice_columns = problems.rows(practice, 0)
    kept_columns = problems.rows(kept, train)
    for name, columns in (("train", practice_columns), ("heldout", kept_columns)):
        pq.write_table(pa.table(columns), out / f"{name}.parquet")
    return kept_columns, reserved


def tokenizer_text(rng: random.Random, reserved: set[str], count: int) -> list[str]:
    """Text to train the tokenizer on, without the end-of-text token, which is not learnt."""
    documents = [problems.solution(rng, reserved) for _ in range(count)]
    return ["".join(text for text, _ in document).replace(problems.EOS, "") for document in documents]


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    seed: Annotated[int, typer.Option(help="Seed of the data and of the model.")] = 0,
    steps: Annotated[int, typer.Option(help="Pre-training steps.")] = 2400,
    batch: Annotated[int, typer.Option(help="Documents a step.")] = 16,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    vocabulary: Annotated[int, typer.Option(help="Size of the tokenizer.")] = 320,
    train: Annotated[int, typer.Option(help="Problems to train on.")] = 2000,
    heldout: Annotated[int, typer.Option(help="Problems held out.")] = 256,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Make the data, the tokenizer and the base model, and print what the model does as JSON."""
    began = time.perf_counter()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    (out / "model").mkdir(parents=True, exist_ok=True)
    kept, reserved = write_data(out, rng, train, heldout)
    tokenizer = base.train_tokenizer(iter(tokenizer_text(rng, reserved, 4000)), vocabulary)
    model = base.new_model(tokenizer)
    plan = base.Plan(steps=steps, batch=batch, lr=lr)

    def draw(source: random.Random, done: float) -> list[problems.Segment]:
        """A document for this point of the training."""
        return problems.document(source, reserved, done)

    base.pretrain(model, base.batches(plan, tokenizer, draw, rng), plan)
    base.save(model, tokenizer, out / "model")
    print("measuring", file=sys.stderr)
    report: dict[str, float] = base.measure(model, tokenizer, kept)
    report["parameters"] = model.num_parameters()
    report["seconds"] = round(time.perf_counter() - began, 1)
    report["bytes"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(json.dumps(report))


if __name__ == "__main__":
    typer.run(main)
