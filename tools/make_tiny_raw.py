"""Make the raw rows that `recipes/tiny_curated/curate.yaml` curates: problems of the tiny tasks, as published.

Most are good.  The others have addresses, HTML and numbering in them, wrong solutions, failing or missing
reference programs, no answer; they come twice, contradict each other, or are problems that are held out.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from tiny import graded, programs

GOOD, EACH = 160, 8  # good rows of a domain; rows with each defect

Row = dict[str, Any]


def math_row(rng: random.Random) -> Row:
    """A problem of graded arithmetic with its worked solution."""
    problem = graded.draw(rng)
    columns = graded.rows([problem], 0)
    (answer,), (prompt,) = columns["answer"], columns["prompt"]
    return {
        "problem": prompt,
        "answer": answer,
        "solution": f"We go on from the left and reach \\boxed{{{answer}}}.",
    }


def code_row(rng: random.Random) -> Row:
    """A program to write, with tests and a program that passes them."""
    program = programs.draw(rng)
    source = programs.statements(list(program.operations))
    return {"problem": program.question, "tests": program.tests(), "references": [source], "domain": "code"}


def with_noise(row: Row, rng: random.Random) -> Row:
    """The row as somebody's web page has it."""
    forms = ("Problem 12. {}", "<p>{}</p>", "{} (see https://example.org/tasks/7)", "{} (5 points)")
    return {**row, "problem": rng.choice(forms).format(row["problem"])}


def bad_math(row: Row, rng: random.Random) -> Row:
    """A row that must be refused."""
    wrong = str(int(row["answer"]) + rng.randint(1, 9))
    return rng.choice(
        (
            {**row, "answer": wrong},  # its solution says otherwise
            {**row, "answer": ""},
            {**row, "problem": f"As shown in the figure, we begin. {row['problem']}"},
            {**row, "problem": "Prove that the sum of two even numbers is even.", "solution": ""},
        )
    )


def bad_code(row: Row, rng: random.Random) -> Row:
    """A row that must be refused."""
    return rng.choice(
        (
            {**row, "references": ["def f(x):\n    return x"]},
            {**row, "references": []},
            {**row, "tests": ""},
            {**row, "problem": f"{row['problem']} Read x from the file input.txt."},
        )
    )


def raw(rng: random.Random, draw: Any, spoil: Any, heldout: list[str]) -> list[str]:
    """The lines of a file."""
    rows: dict[str, Row] = {}
    while len(rows) < GOOD:
        row = draw(rng)
        if row["problem"] not in heldout:
            rows[row["problem"]] = row
    good = list(rows.values())
    noisy = [with_noise(row, rng) for row in good[: GOOD // 4]]
    kept = noisy + good[GOOD // 4 :]
    bad = [spoil(draw(rng), rng) for _ in range(3 * EACH)]
    again = [{**row, "problem": row["problem"].replace(",", " ,")} for row in rng.sample(good, EACH)]
    leaked = [{**draw(rng), "problem": text} for text in rng.sample(heldout, EACH)]
    found = kept + bad + again + leaked
    rng.shuffle(found)
    return [json.dumps(row) for row in found] + ['{"problem": "Start at 10: a+']  # a line that was cut


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    heldout: Annotated[Path, typer.Option(help="Folder of the problems held out.")] = Path(
        "recipes/tiny_ablation"
    ),
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Write math.jsonl and code.jsonl."""
    rng = random.Random(seed)
    for name, draw, spoil in (("math", math_row, bad_math), ("code", code_row, bad_code)):
        texts = pq.read_table(heldout / f"{name}_heldout.parquet", columns=["prompt"])["prompt"].to_pylist()
        (out / f"{name}.jsonl").write_text("\n".join(raw(rng, draw, spoil, texts)) + "\n")


if __name__ == "__main__":
    typer.run(main)
