"""Questions to other programs, which may be missing, crash, hang or answer with anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from megatron_srpo.errors import LONGEST_CAUSE
from megatron_srpo.launch.process import describe_exit
from megatron_srpo.plain import line_of

Form = TypeVar("Form", bound=BaseModel)
SHOWN_OF_GARBAGE = 60  # characters
LONGEST_ANSWER = 2**20  # bytes; what is before them is not read


@dataclass(frozen=True)
class Trouble:
    """Why there is no answer: `text` goes on where a sentence has named the program; whether it had `started`."""

    text: str
    started: bool = True


async def output_of(command: Sequence[str], seconds: float) -> str | Trouble:
    """Standard output of a command that ends well within `seconds`; nothing of it goes on behind them."""
    # Into memory and not through pipes, which a child of the command could hold open behind its end.
    with _memory_file() as output, _memory_file() as complaints:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=complaints,
                start_new_session=True,
            )
        except OSError as error:
            return Trouble(f"cannot be started ({error.strerror or type(error).__name__})", started=False)
        try:
            async with asyncio.timeout(seconds):
                code = await process.wait()
        except TimeoutError:
            return Trouble(f"no answer within {seconds:g} seconds")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        said = _tail(output)
        if code:
            last = _last_line(_tail(complaints)) or _last_line(said) or "it said nothing"
            return Trouble(f"ended with {describe_exit(code)}: {last}")
        return said


async def ask(command: Sequence[str], form: type[Form], seconds: float) -> Form | Trouble:
    """The last line that a command prints, which is to be one JSON object of that form."""
    output = await output_of(command, seconds)
    if isinstance(output, Trouble):
        return output
    answer = output.strip().rpartition("\n")[2]
    try:
        return form.model_validate_json(answer)
    except ValidationError:
        if not answer:
            return Trouble("ended without an answer")
        return Trouble(f"answered what was not asked: {line_of(answer)[:SHOWN_OF_GARBAGE]}")


def _memory_file() -> BinaryIO:
    return open(os.memfd_create("answer"), "w+b")


def _tail(file: BinaryIO) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - LONGEST_ANSWER))
    return file.read().decode(errors="replace")


def _last_line(text: str) -> str:
    """The last line that is not empty, cut to the length of a message."""
    lines = [line for line in text.splitlines() if line.strip()]
    return line_of(lines[-1])[:LONGEST_CAUSE] if lines else ""
