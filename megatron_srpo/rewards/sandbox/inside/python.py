"""Programs in Python: what happens in the process of a case, after the walls are closed."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import json
import os
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any, NoReturn

VALUE, ERROR = b"=", b"!"
"""First byte of a line of answers: the returned value as JSON follows, or what went wrong."""

# What programs for contests use most: loaded before the fork, a case need not load it.  A megabyte of memory
# costs every fork a sixth of a millisecond, so no more than that.
COMMON = """
array bisect cmath collections copy functools heapq io itertools json math operator queue random re string
struct threading time typing
"""
# What else a program may reasonably want, where nothing can be loaded later.
MORE = """
_strptime abc argparse ast base64 binascii calendar codecs collections.abc contextlib contextvars csv dataclasses
datetime decimal difflib encodings.ascii encodings.latin_1 enum fractions gc graphlib hashlib html inspect keyword
linecache locale logging numbers optparse pathlib pickle platform pprint reprlib sched secrets shlex statistics
textwrap timeit tokenize traceback types unicodedata uuid warnings weakref zlib
"""


def preload(packages: Sequence[str], *, everything: bool) -> None:
    """Import what programs use; raises ImportError for a package that is not there."""
    for name in (*COMMON.split(), *(MORE.split() if everything else ()), *packages):
        importlib.import_module(name)


def prepare(program: str) -> types.CodeType:
    """Compile a program; raises what `compile` raises for a text that is none."""
    return compile(program, "solution.py", "exec", dont_inherit=True)


def describe(error: BaseException) -> str:
    """One line about an exception."""
    return f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")


def run_whole(program: types.CodeType) -> NoReturn:
    """Run a program as Python would with the standard streams, and exit with its code.

    The streams are those that Python has made for the descriptors 0, 1 and 2, of which nothing was used yet.
    """
    code = 0
    module = new_module("__main__")
    try:
        exec(program, module)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        os.write(2, describe(error).encode("utf-8", "replace"))
        code = 1
    finish_threads()
    atexit._run_exitfuncs()
    flush(module)
    os._exit(code & 0xFF)


def call_each(program: types.CodeType, name: str, inputs: Sequence[str], answers: int) -> NoReturn:
    """Define a function by running the program, call it for each input (JSON, a list of arguments), answer."""
    try:
        function = find(new_module("solution"), name, program)
    except BaseException as error:
        os.write(2, describe(error).encode("utf-8", "replace"))
        os._exit(1)
    for text in inputs:
        try:
            value = function()(*json.loads(text))
            line = VALUE + json.dumps(value, allow_nan=False, default=plain).encode()
        except Exception as error:
            line = ERROR + describe(error).encode("utf-8", "replace")
        write_all(answers, line + b"\n")
    os._exit(0)


def find(module: dict[str, Any], name: str, program: types.CodeType) -> Any:
    """Something that gives the function anew for each call: of the module, or of its class Solution."""
    exec(program, module)
    if name in module:
        return lambda: module[name]
    if isinstance(module.get("Solution"), type):
        return lambda: getattr(module["Solution"](), name)
    raise NameError(f"no function {name}, nor a class Solution with it")


def new_module(name: str) -> dict[str, Any]:
    """The namespace of a new module, which is found by its name, as dataclasses and others expect."""
    sys.argv = ["solution.py"]
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module.__dict__


def plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's own; raises TypeError for what is neither."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} was returned, which JSON has no form for")


def finish_threads() -> None:
    """Wait for the threads that Python would wait for at its end."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def flush(module: dict[str, Any]) -> None:
    """Write what files still hold that the interpreter would close at its end."""
    files = [value for value in module.values() if isinstance(value, io.IOBase)]
    for file in (sys.stdout, *files, sys.__stdout__):
        with contextlib.suppress(ValueError):  # closed or detached by the program
            file.flush()  # type: ignore[union-attr]


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of the bytes; a full file ends the process."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
