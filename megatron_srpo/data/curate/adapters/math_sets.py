"""Sets of mathematics with a column for the problem and one for the answer or the solution."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.adapters.answers import bare, last_box
from megatron_srpo.data.curate.adapters.row import Row, notes, number_or_text, optional_text, text
from megatron_srpo.data.curate.draft import BadRow, Draft

NO_ANSWERS = ("proof", "notfound")  # what NuminaMath-1.5 writes where there is no final answer
CALCULATION = re.compile(r"<<[^<>\n]*>>")


def numina_math(row: Row) -> Draft:
    """NuminaMath-CoT, whose answers stand boxed in the solutions, and NuminaMath-1.5."""
    problem, solution = text(row, "problem"), text(row, "solution")
    meta = notes(row, {name: name for name in ("source", "problem_type", "question_type", "synthetic")})
    meta |= notes(row, {name: name for name in ("problem_is_valid", "solution_is_valid")})
    if "answer" not in row:
        return Draft("math", problem, last_box(solution), solution, meta=meta)
    answer = bare(number_or_text(row["answer"], "the column answer"))
    if answer.lower() in NO_ANSWERS:
        return Draft("math", problem, "", solution, meta={**meta, "no_answer": answer.lower()})
    return Draft("math", problem, answer, solution, meta=meta)


def deepscaler(row: Row) -> Draft:
    """DeepScaleR-Preview: an answer, and a solution that is sometimes empty."""
    return Draft("math", text(row, "problem"), _answer(row), optional_text(row, "solution"))


def big_math(row: Row) -> Draft:
    """Big-Math-RL: an answer, where it is from, and how often a small model is right."""
    columns = {"source": "source", "tags": "domain", "solve_rate": "llama8b_solve_rate"}
    return Draft("math", text(row, "problem"), _answer(row), meta=notes(row, columns))


def gsm8k(row: Row) -> Draft:
    """GSM8K: the answer stands after four hashes below its solution, which has the steps of a calculator in it."""
    question, written = text(row, "question"), text(row, "answer")
    solution, hashes, answer = written.rpartition("####")
    if not hashes:
        solution, answer = written, ""
    return Draft("math", question, bare(answer), CALCULATION.sub("", solution).strip())


def math(row: Row) -> Draft:
    """Hendrycks' MATH, whose answers stand boxed in the solutions, and MATH-500, which has them apart."""
    problem, solution = text(row, "problem"), text(row, "solution")
    answer = _answer(row) if "answer" in row else last_box(solution)
    meta = notes(row, {"id": "unique_id", "difficulty": "level"})
    meta |= notes(row, {"subject": "type"}) | notes(row, {"subject": "subject"})
    return Draft("math", problem, answer, solution, meta=meta)


def aime(row: Row) -> Draft:
    """AIME as several people publish it, whose columns differ in their case and in which are there."""
    row = {str(name).lower(): value for name, value in row.items()}
    problem = text(row, "problem" if "problem" in row or "question" not in row else "question")
    solution = optional_text(row, "solution")
    if "answer" in row:
        answer = _answer(row)
    elif "solution" in row:
        answer = last_box(solution)
        if solution.strip().strip("$") == rf"\boxed{{{answer}}}":
            solution = ""  # it says no more than the answer
    else:
        raise BadRow("neither the column answer nor the column solution is there.")
    columns = {"id": "id", "url": "url", "year": "year"}
    return Draft("math", problem, answer, solution, meta=notes(row, columns))


def _answer(row: Row) -> str:
    """The column `answer`, which may hold a number."""
    if "answer" not in row:
        text(row, "answer")  # says that it is missing
    return bare(number_or_text(row["answer"], "the column answer"))
