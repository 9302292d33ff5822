"""Attacks on other processes, on who a program is, and on the kernel."""

from __future__ import annotations

from tests.attacks import alone, attempts

ATTACKS = {
    "forks": attempts(
        """
@attempt
def once(): return os.fork()
@attempt
def terminal():
    import pty
    return pty.fork()
@attempt
def by_number(): return syscall((57, None))
@attempt
def vfork(): return syscall((58, None))
@attempt
def clone(): return each([17, 0x4111, 0x100 | 17, 0x10000000 | 17, 0x8000 | 17, 0x00800000 | 17],
    lambda flags: syscall((56, 220), flags, 0, 0, 0, 0))
@attempt
def clone3(): return syscall(435, (ctypes.c_uint64 * 8)(0, 0, 0, 0, 17), 64)
@attempt
def a_thread_in_a_namespace(): return each([0x10000000, 0x20000, 0x40000000, 0x20000000, 0x02000000, 0x80],
    lambda space: syscall((56, 220), 0x10f00 | space, 0, 0, 0, 0))
@attempt
def hidden_in_the_upper_half(): return syscall((56, 220), 17 | 1 << 48, 0, 0, 0, 0)
"""
    ),
    "forks without end": alone("import os\nwhile True:\n try: os.fork()\n except OSError: pass", "timeout"),
    "starts programs": attempts(
        """
@attempt
def subprocess():
    import subprocess
    return each([["/bin/sh", "-c", "true"], [sys.executable, "-c", ""]], subprocess.run)
@attempt
def shell(): return os.system("true") if os.system("true") == 0 else None
@attempt
def popen(): return os.popen("echo x").read() or None
@attempt
def spawn(): return os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})
@attempt
def multiprocessing():
    import multiprocessing
    one = multiprocessing.get_context("fork").Process(target=print)
    return one.start() or 1
@attempt
def pool():
    import concurrent.futures
    return concurrent.futures.ProcessPoolExecutor(1).submit(os.getpid).result()
@attempt
def instead(): return each(["/bin/sh", sys.executable, "/usr/bin/env"], lambda path: os.execv(path, [path]))
@attempt
def linker(): return each(["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"], lambda path: os.execv(path, [path]))
@attempt
def own_file():
    open("/tmp/x", "w").write("#!/bin/sh")
    return os.execv("/tmp/x", ["x"])
@attempt
def descriptor(): return syscall((322, 281), 1, b"", 0, 0, 0x1000)
@attempt
def daemon(): return os.setsid()
@attempt
def group(): return os.setpgid(0, 0) or 1
"""
    ),
    "signals": attempts(
        """
import signal
others = [-1, 0, 1, 2, os.getppid(), told["parent"], told["server"], -told["parent"], -told["server"]]
@attempt
def kill(): return each(others, lambda process: os.kill(process, 9) or 1)
@attempt
def ask(): return each(others, lambda process: os.kill(process, 0) or 1)
@attempt
def group(): return os.killpg(told["server"], 9) or 1
@attempt
def thread(): return each(others, lambda process: syscall((234, 131), process, process, 9))
@attempt
def old_thread(): return each(others, lambda process: syscall((200, 130), process, 9))
@attempt
def queue(): return each(others, lambda process: syscall((129, 138), process, 9, bytes(128)))
@attempt
def by_handle(): return each(range(64), lambda number: syscall(424, number, 9, 0, 0))
@attempt
def by_file():
    return each([(1, 8, told["server"]), (1, 10, 9), (1, 15, 0), (1, 4, 0o20000)], lambda one: syscall((72, 25), *one))
@attempt
def by_ioctl(): return each([0x8901, 0x8902, 0x5452, 0x5421, 0x5412, 0x540E], lambda what: syscall((16, 29), 0, what, bytes(8)))
@attempt
def by_timer(): return syscall((222, 107), 0, bytes(64), bytes(8))
@attempt
def at_the_parents_end(): return libc.prctl(1, 0) == 0 or None
@attempt
def reading_them(): return syscall((289, 74), -1, bytes(8), 8, 0)
"""
    ),
    "changes who it is": attempts(
        """
import resource
@attempt
def user(): return each([0, 1, 65534], lambda number: os.setuid(number) or 1)
@attempt
def users(): return each([0, 1, 65534], lambda number: os.setresuid(number, number, number) or 1)
@attempt
def group(): return each([0, 1], lambda number: os.setresgid(number, number, number) or 1)
@attempt
def groups(): return os.setgroups([0]) or 1
@attempt
def file_user(): return syscall((122, 151), 0)
@attempt
def capabilities(): return syscall((126, 91), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[2 ** 32 - 1] * 6))
@attempt
def controls():
    options = [(2, 0), (3, 0), (4, 1), (8, 1), (22, 1), (22, 2), (23, 21), (24, 21), (28, 0), (35, 1), (36, 1), (38, 1),
        (47, 2), (52, 0), (59, 0), (62, 0), (0x59616d61, -1), (1, 0), (1, 9)]
    return each(options, lambda one: libc.prctl(one[0], ctypes.c_ulong(one[1]), 0, 0, 0) >= 0 or None)
@attempt
def higher_limits(): return each([getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_") and
    name not in ("RLIMIT_STACK",) and resource.getrlimit(getattr(resource, name))[1] != -1],
    lambda limit: resource.setrlimit(limit, (-1, -1)) or 1)
@attempt
def limits_of_others(): return each([1, os.getppid(), told["parent"], told["server"]], lambda process:
    resource.prlimit(process, resource.RLIMIT_CPU, (0, 0)) or 1)
@attempt
def limits_of_others_read(): return each([1, os.getppid(), told["parent"]], lambda process:
    resource.prlimit(process, resource.RLIMIT_CPU))
@attempt
def priority(): return os.setpriority(0, 0, 5) or 1
@attempt
def priorities(): return os.nice(-5)
@attempt
def processors(): return os.sched_setaffinity(told["parent"], [0]) or 1
@attempt
def schedule(): return os.sched_setscheduler(0, 1, os.sched_param(1)) or 1
@attempt
def io_priority(): return syscall((251, 30), 1, 0, 0)
@attempt
def personality(): return syscall((135, 92), 0x40000)
@attempt
def host_name():
    import socket
    return socket.sethostname("x") or 1
@attempt
def clock(): return time.clock_settime(time.CLOCK_REALTIME, 0) or 1
"""
    ),
    "asks the kernel": attempts(
        """
calls = dict(io_uring_setup=425, bpf=(321, 280), userfaultfd=(323, 282), perf_event_open=(298, 241), keyctl=(250, 219),
    add_key=(248, 217), request_key=(249, 218), seccomp=(317, 277), fanotify=(300, 262), landlock=444, reboot=(169, 142),
    acct=(163, 89), swapon=(167, 224), init_module=(175, 105), finit_module=(313, 273), kexec=(246, 104), iopl=(172, None),
    ioperm=(173, None), modify_ldt=(154, None), quotactl=(179, 60), splice=(275, 76), vmsplice=(278, 75), tee=(276, 77),
    sendfile=(40, 71), copy_file_range=(326, 285), sysfs=(139, None), lookup_dcookie=(212, 18), timerfd=(283, 85),
    membarrier=(324, 283), mbind=(237, 235), set_mempolicy=(238, 237), pkey_alloc=(330, 289), io_setup=(206, 0),
    fallocate=(285, 47), sync=(162, 81), remap_file_pages=(216, 234), uselib=(134, None), vhangup=(153, 58))
@attempt
def refused():
    allowed = {}
    for name, numbers in calls.items():
        try: allowed[name] = syscall(numbers, -1, -1, -1, -1, -1, -1)
        except OSError as error:
            if error.errno not in (1, 38): allowed[name] = error
    return allowed or None
@attempt
def another_filter():
    instruction = ctypes.create_string_buffer(b"\\x06\\0\\0\\0\\0\\0\\xff\\x7f")
    header = (ctypes.c_uint64 * 2)(1, ctypes.addressof(instruction))
    return syscall((317, 277), 1, 0, header)
"""
    ),
    "calls of another machine": attempts(
        """
@attempt
def x32(): return each([39, 57, 512, 520, 521, 539], lambda number: syscall((0x40000000 + number, 0x40000000 + number), 0, 0, 0))
@attempt
def large_numbers(): return each([2 ** 31, 2 ** 32 - 1, 2 ** 32 + 57, -1, 10 ** 6], lambda number: syscall((number, number)))
if machine == 0:
    libc.mmap.restype = ctypes.c_void_p
    place = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, 0)
    # mov eax, 2 (fork); int 0x80; ret
    ctypes.memmove(place, b"\\xb8\\x02\\0\\0\\0\\xcd\\x80\\xc3", 8)
    print("ESCAPED" if ctypes.CFUNCTYPE(ctypes.c_int)(place)() != -1 else "")
""",
        "killed",
        "ok",
    ),
    "loads what it has written": attempts(
        """
@attempt
def library():
    import _ctypes
    with open(_ctypes.__file__, "rb") as file, open("/tmp/own.so", "wb") as copy: copy.write(file.read())
    ctypes.CDLL("/tmp/own.so")  # its own code may run, but can do no more than before
    return os.fork()
@attempt
def module():
    open("/tmp/own.py", "w").write("import os; found = os.fork()")
    sys.path.append("/tmp")
    import own
    return own.found
"""
    ),
    "crashes": alone("import ctypes\nctypes.string_at(0)", "killed"),
    "aborts": alone("import os\nos.abort()", "killed"),
}
