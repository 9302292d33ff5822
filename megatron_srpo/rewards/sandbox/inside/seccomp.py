"""The system calls that a test case may make; everything else is refused with EPERM (seccomp-BPF).

The list is what an interpreter needs to compute, to read its modules and, where that is safe, to write files
in its own folder.  It has no way to start a process, to signal or trace one, to open a socket, to load another
program, or to change a file's owner, mode or place outside that folder.

There are two filters, as a long one takes half a millisecond to install: the server puts a list of all that is
ever allowed around itself and what it will start, a case takes back the few calls that only the server and a
program's process need.  References: seccomp(2), <linux/seccomp.h>, <linux/bpf_common.h>; numbers from
<asm/unistd_64.h> and <asm-generic/unistd.h>.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from . import kernel

# Numbers on x86-64 and on arm64; None where arm64 has only a newer call.
PLAIN: dict[str, tuple[int, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "select": (23, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "dup2": (33, None),
    "pause": (34, None),
    "nanosleep": (35, 101),
    "getitimer": (36, 102),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "exit": (60, 93),
    "wait4": (61, 260),
    "uname": (63, 160),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "readlink": (89, None),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "arch_prctl": (158, None),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "set_tid_address": (218, 96),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "dup3": (292, 24),
    "getrandom": (318, 278),
    "statx": (332, 291),
    "rseq": (334, 293),
    "faccessat2": (439, 439),
}
# Only where the whole file system but one folder in memory is read-only: the walls of `namespaces`.
FILES: dict[str, tuple[int, int | None]] = {
    "open": (2, None),
    "openat": (257, 56),
    "ftruncate": (77, 46),
    "rename": (82, None),
    "mkdir": (83, None),
    "rmdir": (84, None),
    "unlink": (87, None),
    "mkdirat": (258, 34),
    "unlinkat": (263, 35),
    "renameat": (264, 38),
    "renameat2": (316, 276),
}
# What sets up a case and watches over it, and a case itself may not do.
SERVER: dict[str, tuple[int, int | None]] = {
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "kill": (62, 129),
    "capset": (126, 91),
    "mount": (165, 40),
    "unshare": (272, 97),
    "memfd_create": (319, 279),
    "pidfd_open": (434, 434),
    "close_range": (436, 436),
}
# Allowed for some arguments only, the last two without conditions in the server.
IOCTL, FCNTL, PRLIMIT, CLONE, PRCTL = (16, 29), (72, 25), (302, 261), (56, 220), (157, 167)
# Refused as unknown, so that the C library goes on with the older call.
UNKNOWN = ((435, 435),)  # clone3, whose flags a filter cannot read

IOCTLS = (0x5401, 0x541B, 0x5451)  # TCGETS, FIONREAD, FIOCLEX
# No F_SETOWN and F_SETSIG: with O_ASYNC they send any signal to any process of the user.
FCNTLS = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
PRCTLS = (15, 16)  # PR_SET_NAME, PR_GET_NAME
CLONE_THREAD = 0x00010000
CLONE_NAMESPACES = 0x7E020080
OPEN_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000

# Places in struct seccomp_data; arguments are 64 bits, of which the lower half comes first on both machines.
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000

LOAD, EQUAL, GREATER_EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
Instruction = tuple[int, int, int, int]
REFUSE: Instruction = (RETURN, 0, 0, ERRNO | errno.EPERM)


def supported() -> bool:
    """Whether there is a list for this machine's processor and the kernel takes filters."""
    return kernel.MACHINE in AUDIT_ARCH and os.path.exists("/proc/sys/kernel/seccomp/actions_avail")


def server_filter(files: str) -> bytes:
    """For the server and all that it starts, as an array of struct sock_filter.

    Args:
        files: `write` (where it sees only what it may change), `read`, or `none`.
    """
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT_ARCH[kernel.MACHINE]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER),
        (GREATER_EQUAL, 0, 1, X32_BIT),
        REFUSE,
    ]
    for numbers in [
        *PLAIN.values(),
        *SERVER.values(),
        CLONE,
        PRCTL,
        *(FILES.values() if files == "write" else ()),
    ]:
        program += _case(numbers, [(RETURN, 0, 0, ALLOW)])
    program += _case(IOCTL, _if_equal(1, IOCTLS))
    program += _case(FCNTL, _if_equal(1, FCNTLS))
    program += _case(PRLIMIT, _if_equal(0, (0,)))  # its own limits, which it can only lower
    if files == "read":
        for numbers, flags in ((FILES["open"], 1), (FILES["openat"], 2)):
            program += _case(
                numbers,
                [
                    (LOAD, 0, 0, ARGUMENTS + 8 * flags),
                    (ANY_BIT, 0, 1, OPEN_FOR_WRITING),
                    REFUSE,
                    (RETURN, 0, 0, ALLOW),
                ],
            )
    for numbers in UNKNOWN:
        program += _case(numbers, [(RETURN, 0, 0, ERRNO | errno.ENOSYS)])
    return _packed([*program, REFUSE])


def case_filter(threads: bool) -> bytes:
    """For a case, inside the server's filter; `threads`: whether it may start some.  Processes never."""
    program: list[Instruction] = [(LOAD, 0, 0, NUMBER)]
    for numbers in SERVER.values():
        program += _case(numbers, [REFUSE])
    program += _case(PRCTL, _if_equal(0, PRCTLS))
    only_threads: list[Instruction] = [
        (LOAD, 0, 0, ARGUMENTS),
        (ANY_BIT, 2, 0, CLONE_NAMESPACES),
        (ANY_BIT, 0, 1, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
        REFUSE,
    ]
    program += _case(CLONE, only_threads if threads else [REFUSE])
    return _packed([*program, (RETURN, 0, 0, ALLOW)])


def install(program: bytes) -> None:
    """Filter this thread and all that it starts, for good; needs no_new_privs."""
    instructions = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions)))
    mode_filter = 2
    kernel.prctl(kernel.PR_SET_SECCOMP, mode_filter, ctypes.cast(header, ctypes.c_void_p))


def _if_equal(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow where the lower half of an argument (an int of C) is one of the values."""
    body: list[Instruction] = [(LOAD, 0, 0, ARGUMENTS + 8 * argument)]
    for value in values:
        body += [(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
    return [*body, REFUSE]


def _case(numbers: tuple[int, int | None], body: list[Instruction]) -> list[Instruction]:
    """The body, which ends with a return, where the loaded number is that of a call."""
    number = numbers[tuple(AUDIT_ARCH).index(kernel.MACHINE)]
    return [] if number is None else [(EQUAL, 0, len(body), number), *body]


def _packed(program: list[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
