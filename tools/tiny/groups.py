"""What a model does with a pool of problems, seen as reinforcement learning sees it: in groups of samples."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from statistics import mean

from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from .base import sample
from .problems import EOS

Judge = Callable[[str, dict[str, str]], tuple[bool, bool]]
Report = dict[str, float | dict[str, float]]


def length_of(problem: dict[str, str]) -> str:
    """How many operands or operations a problem has, as text."""
    meta = json.loads(problem["meta"])
    return str(meta.get("operands") or meta["operations"])


def measure_groups(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    columns: dict[str, list[str]],
    judge: Judge,
    limit: int,
    size: int = 8,
) -> Report:
    """Sample each problem `size` times: accuracy by class and by length, kinds of groups, form, tokens.

    `judge` says of a response and its problem whether the form and whether the answer is right; one that is
    cut off at `limit` tokens is neither.
    """
    problems = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    hits: list[list[bool]] = [[] for _ in problems]
    seen: Counter[str] = Counter()
    for _ in range(size):
        texts = sample(model, tokenizer, columns["prompt"], limit)
        lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        for problem, text, length, found in zip(problems, texts, lengths, hits, strict=True):
            ended = text.endswith(EOS)
            form, answer = judge(text.removesuffix(EOS), problem) if ended else (False, False)
            found.append(answer)
            seen.update(all=1, format=form, cut=not ended, tokens=length)
    kinds = Counter("right" if all(group) else "mixed" if any(group) else "wrong" for group in hits)
    report: Report = {
        "accuracy": mean(map(mean, hits)),
        "groups_all_right": kinds["right"] / len(hits),
        "groups_mixed": kinds["mixed"] / len(hits),
        "groups_all_wrong": kinds["wrong"] / len(hits),
        "format_share": seen["format"] / seen["all"],
        "cut_off_share": seen["cut"] / seen["all"],
        "mean_response_tokens": seen["tokens"] / seen["all"],
    }
    report = {name: round(value, 4) for name, value in report.items() if isinstance(value, float)}
    for name, key in (("difficulty", lambda problem: problem["difficulty"]), ("length", length_of)):
        shares = defaultdict(list)
        for problem, group in zip(problems, hits, strict=True):
            shares[key(problem)].append(mean(group))
        report[f"accuracy_by_{name}"] = {part: round(mean(shares[part]), 4) for part in sorted(shares)}
    return report
