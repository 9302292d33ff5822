"""Read-only access to a few folders and to nothing else, without any privilege (Landlock, landlock(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from . import kernel

# The same numbers on every processor.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
QUERY_VERSION = 1
RULE_PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
# Rights on files that a kernel of each version can refuse: execute, read, write, make and remove from the
# first; then to link across folders, to truncate, and to use ioctl on devices.
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}


def version() -> int:
    """What this kernel can do; 0: nothing."""
    found: int = kernel.LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), QUERY_VERSION)
    return max(found, 0)


def allow_reading_only(paths: Iterable[str]) -> None:
    """From now on this process and all that it starts can open nothing but what lies beneath the paths."""
    rights = RIGHTS[max(known for known in RIGHTS if known <= version())]
    attribute = struct.pack("=Q", rights)
    ruleset = kernel.checked(
        kernel.LIBC.syscall(CREATE_RULESET, attribute, ctypes.c_size_t(len(attribute)), 0),
        "landlock_create_ruleset",
    )
    for path in paths:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        wanted = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        rule = struct.pack("=Qi", wanted, descriptor)
        kernel.checked(kernel.LIBC.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0), "landlock_add_rule")
        os.close(descriptor)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.checked(kernel.LIBC.syscall(RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)
