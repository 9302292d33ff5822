"""System calls for which Python 3.11 has no function.  Linux on x86-64 and arm64."""

from __future__ import annotations

import ctypes
import os
import signal

# <linux/sched.h>
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
# <linux/mount.h>
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2
# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
# <linux/capability.h>
CAPABILITY_VERSION_3 = 0x20080522

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def checked(result: int, name: str) -> int:
    """The result of a call, or the OSError that it means."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, value: int, pointer: ctypes.c_void_p | None = None) -> None:
    """prctl(2)."""
    checked(LIBC.prctl(option, ctypes.c_ulong(value), pointer or ctypes.c_ulong(0), 0, 0), f"prctl({option})")


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, or end it now if that has happened already.

    A change of user undoes it.

    Args:
        parent: what getppid(2) must say; 0 where the parent is outside of this process's namespace.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def unshare(flags: int) -> None:
    """unshare(2)."""
    checked(LIBC.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    texts = [None if text is None else text.encode() for text in (source, target, kind, options)]
    result = LIBC.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    checked(result, f"mount({source}, {target}, {kind}, {flags:#x})")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    checked(LIBC.syscall(SYSCALL_PIVOT_ROOT, new.encode(), old.encode()), "pivot_root")


def unmount(target: str) -> None:
    """Take a mount out of sight at once (umount2(2))."""
    checked(LIBC.umount2(target.encode(), MNT_DETACH), f"umount2({target})")


def drop_capabilities() -> None:
    """Give up all capabilities; with no_new_privs, for good."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    checked(LIBC.capset(header, (ctypes.c_uint32 * 6)()), "capset")


MACHINE = os.uname().machine
SYSCALL_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(MACHINE, -1)
