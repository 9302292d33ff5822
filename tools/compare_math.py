"""How often our judge of mathematics and math-verify alone accept the answers of the tests' corpus.

    python tools/compare_math.py

Lines that are whole responses are left out, and answers of more than 350 characters, with which the library can
take minutes.  For the library a reference or answer is what stands in a box; several references are tried in turn.
Prints one JSON object: by kind of answer how many there are and how many each accepts.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from megatron_srpo.rewards.math.judge import answers_agree, references

PAIRS = Path(__file__).resolve().parents[1] / "tests" / "data" / "math_pairs.jsonl"
LONGEST = 350


def library_accepts(answer: str, gold: str) -> bool:
    """math-verify's verdict with its own defaults."""
    from math_verify import parse, verify

    return any(verify(parse(f"\\boxed{{{text}}}"), parse(f"\\boxed{{{answer}}}")) for text in references(gold))


def main() -> None:
    """Judge the corpus twice."""
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("pairs", "ours", "math-verify")}
    for pair in pairs:
        if "answer" not in pair or len(pair["answer"]) > LONGEST:
            continue
        kind = pair["kind"]
        counts["pairs"][kind] += 1
        counts["ours"][kind] += answers_agree(pair["answer"], pair["gold"])
        counts["math-verify"][kind] += library_accepts(pair["answer"], pair["gold"])
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
