"""The one exception that users are meant to read."""

from __future__ import annotations


class SrpoError(Exception):
    """Something the user can mend: one sentence that names the file, key or rank and says what to do.

    The command line prints it without a traceback and ends with exit code 2.
    """


EXIT_BAD_INPUT = 2
