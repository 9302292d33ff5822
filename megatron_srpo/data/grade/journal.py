"""SET/grades.jsonl: what is being measured, then one line for each problem that is finished.

    {"setup": {"model": ..., "sampling": ..., "template": ..., "reward": ...}}
    {"id": "p17", "key": "5d41402abc4b2a76", "n": 8, "c": 3, "errors": 0, ...}

A line is there or not: what a kill has cut is dropped at the next start.  The newest line of a problem counts.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from megatron_srpo.data.grade.grade import Grade
from megatron_srpo.data.problem_set import hold_set
from megatron_srpo.errors import SrpoError, one_line
from megatron_srpo.recipe.differences import changed_keys

FILE = "grades.jsonl"
_FREE = ("model.path",)
"""Of a set-up: where the model lies says nothing, as its files are compared."""


class GradeJournal:
    """The grades of a set, held by this process; use it with `with`."""

    def __init__(self, folder: Path) -> None:
        """Take the set; raises SrpoError when another process has it or the file cannot be written."""
        self.path = folder / FILE
        self._grades: dict[str, Grade] = {}
        self.setup: dict[str, Any] = {}
        self._lock = hold_set(folder)
        try:
            self._file: IO[bytes] = self.path.open("a+b")
        except OSError as error:
            raise SrpoError(f"{self.path}: cannot be written ({error.strerror}).") from None

    def __enter__(self) -> GradeJournal:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._file.close()
        self._lock.close()

    def begin(self, setup: dict[str, Any], fresh: bool) -> None:
        """Read what is there, or begin with this set-up.

        Args:
            setup: what is measured, and how; plain JSON values.
            fresh: forget what is there.

        Raises:
            SrpoError: when grades of another set-up are there, or a line cannot be read.
        """
        if fresh:
            self._file.truncate(0)
        recorded = self._read()
        if recorded is None:
            self._file.truncate(0)
            self._append({"setup": setup})
        else:
            self._compare(recorded, setup)
        self.setup = recorded or setup

    def get(self, id: str, key: str) -> Grade | None:
        """The grade of a problem, unless it has none or the problem was another one then."""
        grade = self._grades.get(id)
        return grade if grade is not None and grade.key == key else None

    def add(self, grade: Grade) -> None:
        """Record a finished problem; raises SrpoError when the disk refuses it."""
        self._append(asdict(grade))
        self._grades[grade.id] = grade

    def _append(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise SrpoError(f"{self.path}: cannot be written ({error.strerror}); make room and go on.") from None

    def _read(self) -> dict[str, Any] | None:
        """Take in all whole lines and drop what follows them; the set-up, or None where there is not even that."""
        setup: dict[str, Any] | None = None
        whole = 0
        self._file.seek(0)
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                if number == 1:
                    setup = dict(record["setup"])
                else:
                    grade = Grade(**{**record, "model": sys.intern(record["model"])})
                    self._grades[grade.id] = grade
            except (ValueError, TypeError, KeyError) as error:
                raise SrpoError(
                    f"{self.path}: line {number} cannot be read ({one_line(error)}); "
                    "restore the file, or measure anew with --fresh."
                ) from None
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)
        return setup

    def _compare(self, recorded: dict[str, Any], setup: dict[str, Any]) -> None:
        changed = {key: values for key, values in changed_keys(recorded, setup).items() if key not in _FREE}
        if changed:
            told = "; ".join(f"{key} was {old!r:.80} and is {new!r:.80}" for key, (old, new) in changed.items())
            raise SrpoError(
                f"{self.path}: the grades there were measured with another set-up ({told}); "
                "undo the change, or measure all problems anew with --fresh."
            )
