"""What stands between a program and the machine.

    namespaces   own user, mount, process, network, IPC and host name spaces: an empty network, no process but its
                 own, and a root in memory that holds the interpreter, read-only, and one folder to write in
    landlock     where namespaces are not to be had: files outside the interpreter cannot be opened, none written
    seccomp      where Landlock is missing too: no file can be opened at all, only modules loaded before work

Each includes the system call filter (seccomp.py) and the limits of a case.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import stat
import sys
import sysconfig
from collections.abc import Iterable

from . import kernel, seccomp

LEVELS = ("namespaces", "landlock", "seccomp")
"""From the strongest to the weakest."""
FOLDER = "/tmp"  # where a program may write, at the level of namespaces
NOBODY = 65534
NAMESPACES = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
STACK_BYTES = 120 * 2**20  # the kernel keeps 128 MiB free for it
OPEN_FILES = 32
SERVER_PROCESSES = 4  # both of the server, the program's and the case itself
# Where no new privileges can be had anyway, the bits of statvfs(3) and of mount(2) agree in these.
LOCKED_FLAGS = (
    kernel.MS_NOSUID | kernel.MS_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME
)


def readable_paths(packages: bool) -> list[str]:
    """What the interpreter that runs this reads: libraries of the system, its own, and installed packages."""
    paths = [*LIBRARIES, os.path.join(sys.base_prefix, "lib"), sysconfig.get_paths()["platstdlib"]]
    if packages:
        paths += [os.path.join(sys.prefix, name) for name in ("lib", "lib64")]
    found: list[str] = []
    for path in sorted({path for path in paths if os.path.exists(path)}, key=len):
        if not any(path.startswith(other + "/") for other in found):
            found.append(path)
    return found


def open_paths(paths: Iterable[str]) -> dict[str, int]:
    """Descriptors of the paths, while they can still be reached as the user outside."""
    return {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths}


def build_root(views: dict[str, int]) -> None:
    """Give this mount namespace a root in memory, with read-only views of the paths and a folder to write in.

    Args:
        views: each path with its descriptor, from `open_paths` in this namespace.
    """
    for path in views:
        if path.startswith(f"{FOLDER}/"):
            raise OSError(f"{path} would be hidden: programs write in {FOLDER}, so no interpreter can lie there")
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # The old root moves into a folder of the new one, so that nothing that is mounted hides a source.
    kernel.mount("tmpfs", FOLDER, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    os.mkdir(f"{FOLDER}/old")
    kernel.pivot_root(FOLDER, f"{FOLDER}/old")
    os.mkdir("/new")
    kernel.mount("tmpfs", "/new", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    os.mkdir(f"/new{FOLDER}")
    for path, descriptor in views.items():
        place = "/new" + path
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o444))
        kernel.mount(f"/old/proc/self/fd/{descriptor}", place, None, kernel.MS_BIND | kernel.MS_REC)
        os.close(descriptor)
    for place in _mount_points("/new"):
        flags = os.statvfs(place).f_flag & LOCKED_FLAGS
        kernel.mount("none", place, None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | flags)
    kernel.unmount("/old")
    os.chdir("/new")
    kernel.pivot_root(".", ".")
    kernel.unmount(".")
    os.chdir("/")


def _mount_points(root: str) -> list[str]:
    """Everything that is mounted at or below a folder."""
    with open("/old/proc/self/mountinfo") as file:
        fields = [line.split()[4] for line in file]
    # Spaces and the like are written as \\040.
    points = [re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field) for field in fields]
    return [point for point in points if point == root or point.startswith(root + "/")]


def become_root_inside() -> None:
    """Be the one user that the namespace knows, an ordinary one outside, even if root has made it."""
    with contextlib.suppress(PermissionError):  # an ordinary user may not leave its groups
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def become_nobody() -> None:
    """Without a namespace: let the limits on a user's processes hold for root too.

    Only the real user changes: the interpreter's files may be readable for root alone.
    """
    if os.getuid() == 0:
        os.setresuid(NOBODY, -1, -1)


def limit_setup(seconds: float, memory: int) -> None:
    """Limits for what we do before a case, which must not bind the case: its own may be higher."""
    for limit, value in ((resource.RLIMIT_CPU, math.ceil(seconds)), (resource.RLIMIT_AS, memory)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def limit_case(seconds: float, memory: int, file_bytes: int, processes: int | None) -> None:
    """Limits of a case, for good; `processes` None: as before."""
    limits = {
        resource.RLIMIT_CPU: math.ceil(seconds) + 1,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if processes is not None:
        limits[resource.RLIMIT_NPROC] = processes
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def grow_stack() -> None:
    """Let the main thread's stack grow as deep recursion in C code needs."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    size = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (size, hard))  # programs ask for more, which is no harm


def close_around_server(level: str) -> None:
    """The last step before the server serves; `Walls.close` is the same for a case."""
    # Nobody of the same user may look into this process's memory or descriptors, nor into its children's.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.server_filter({"namespaces": "write", "landlock": "read", "seccomp": "none"}[level]))


class Walls:
    """What the process of a case puts up around itself."""

    def __init__(self, level: str, threads: int, files_megabytes: int) -> None:
        """Prepare it once, for many cases: at the level, with so many threads and so much room for files."""
        inside = level == "namespaces"
        self._folder_megabytes = files_megabytes if inside else None
        self._processes = SERVER_PROCESSES + threads if inside else None
        self.file_bytes = files_megabytes * 2**20 if inside else 0
        # Threads elsewhere would be bounded by nothing but a limit on the whole user.
        self._filter = seccomp.case_filter(threads=inside and threads > 0)

    def close_around_case(self, seconds: float, memory: int, output: int) -> None:
        """The last step before the program: from here this process cannot come back.

        Args:
            seconds: of processor time, after which the kernel kills it.
            memory: address space in bytes.
            output: size of the largest file in bytes, unless its folder has more room.
        """
        if self._folder_megabytes is not None:
            _own_folder(self._folder_megabytes)
        limit_case(seconds, memory, max(output, self.file_bytes), self._processes)
        kernel.drop_capabilities()
        seccomp.install(self._filter)


def _own_folder(megabytes: int) -> None:
    """Give this process a mount namespace with an empty folder in memory, gone with its last process."""
    kernel.unshare(kernel.CLONE_NEWNS)
    flags = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", FOLDER, "tmpfs", flags, f"size={megabytes}m,nr_inodes=1k,mode=700")
    os.chdir(FOLDER)
