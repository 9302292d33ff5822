"""What a prompt says of the function that a program must define: our judge calls it by its name."""

from __future__ import annotations

import re

BACKTICKS = re.compile(r"`{3,}")


def with_function(prompt: str, function: str, starter_code: str) -> str:
    """The prompt with a sentence that names the function at its end, and the code that it starts from, if any.

    An empty prompt stays empty, as nothing is asked.
    """
    return f"{prompt.rstrip()}\n\n{function_note(function, starter_code)}" if prompt.strip() else ""


def names(code: str, function: str) -> bool:
    """Whether the function's name stands in the code."""
    return re.search(rf"\b{re.escape(function)}\b", code) is not None


def function_note(function: str, starter_code: str) -> str:
    """One sentence that says what must be defined, and below it the starter code in a fence."""
    if not names(starter_code, function):
        starter_code = ""  # of something else; it would lead away from what is called
    what = f"the function `{function}`"
    if not starter_code:
        return f"Your program must define {what}, or a class `Solution` with a method of this name."
    if re.search(r"^\s*class\s+Solution\b", starter_code, re.MULTILINE):
        what = f"the method `{function}` of the class `Solution`"
    fence = max(["```", *(found + "`" for found in BACKTICKS.findall(starter_code))], key=len)
    code = starter_code.strip("\n").rstrip()
    return f"Your program must define {what}, starting from this code:\n{fence}python\n{code}\n{fence}"
