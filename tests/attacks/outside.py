"""Attacks on what is outside: files, memory and the network."""

from __future__ import annotations

from tests.attacks import attempts

FILES = {
    "reads files": attempts(
        """
secrets = [told["secret"], told["data"], "/etc/passwd", "/etc/shadow", "/etc/hostname", "/root/.bashrc",
    os.path.expanduser("~/.ssh/id_rsa"), "/var/log/syslog", "/boot", told["project"] + "/pyproject.toml"]
secrets += ["/.." * 8 + told["secret"], "/usr/lib/.." * 3 + told["secret"], "//" + told["secret"]]
@attempt
def by_open(): return each(secrets, lambda path: open(path, "rb").read())
@attempt
def by_a_path(): return each(secrets, lambda path: os.read(os.open(path, os.O_PATH), 100))
@attempt
def by_openat2(): return each(secrets, lambda path: syscall(437, -100, path.encode(), bytes(24), 24))
@attempt
def by_another_root():
    roots = [f"/proc/{process}/{name}" for process in ("self", 1, told["parent"]) for name in ("root", "cwd")]
    return each(roots, lambda root: open(root + told["secret"]).read())
@attempt
def by_the_loader():
    import importlib.machinery
    return importlib.machinery.SourceFileLoader("x", told["secret"]).get_data(told["secret"])
@attempt
def by_the_library():
    libc.fopen.restype = ctypes.c_void_p
    return libc.fopen(told["secret"].encode(), b"r") or None
@attempt
def by_the_linker(): return ctypes.CDLL(told["secret"])
@attempt
def by_a_handle(): return syscall((304, 265), -100, bytes(64), 0)
@attempt
def by_listing():
    return each([os.path.dirname(told["secret"]), told["folder"], "/home", "/var", "/tmp/..", "/proc"],
        lambda path: {*os.listdir(path)} - {"dev", "etc", "lib", "lib64", "root", "tmp", "usr", "opt", "home"} or None)
@attempt
def by_a_step(): return os.chdir(told["folder"]) or os.listdir(".")
@attempt
def by_a_database():
    import sqlite3
    return sqlite3.connect(told["secret"]).execute("select 1").fetchall()
"""
    ),
    "reads processes": attempts(
        """
processes = ["self", "thread-self", 1, 2, os.getppid(), told["parent"], told["server"]]
names = ["environ", "mem", "maps", "cmdline", "status", "stack", "fd/0", "fd/1", "fd/2", "fd/3", "exe", "pagemap"]
@attempt
def files():
    # Its own descriptors, which it has already, it may open once more.
    return each([f"/proc/{one}/{name}" for one in processes for name in names if (one, name[:2]) != ("self", "fd")],
        lambda path: None if path.startswith("/proc/thread-self/fd") else open(path, "rb").read(10))
@attempt
def lists(): return each([f"/proc/{one}/{name}" for one in processes for name in ("fd", "task", "root", "map_files")],
    os.listdir)
@attempt
def all_of_them(): return os.listdir("/proc")
@attempt
def system(): return each(["/proc/kcore", "/proc/kallsyms", "/proc/sys/kernel/hostname", "/proc/mounts",
    "/proc/sysrq-trigger", "/proc/net/tcp"], lambda path: open(path, "rb").read(10))
@attempt
def memory():
    class Vector(ctypes.Structure):
        _fields_ = [("place", ctypes.c_void_p), ("size", ctypes.c_size_t)]
    buffer = ctypes.create_string_buffer(8)
    ours, theirs = Vector(ctypes.addressof(buffer), 8), Vector(id(None), 8)
    return each([1, os.getppid(), told["parent"], told["server"], os.getpid()], lambda process:
        syscall((310, 270), process, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))
@attempt
def writing():
    return each([1, os.getppid(), told["parent"], told["server"]], lambda process: syscall((311, 271), process, 0, 0, 0, 0, 0))
@attempt
def trace(): return each([1, os.getppid(), told["parent"], told["server"]], lambda process:
    syscall((101, 117), 16, process, 0, 0))
@attempt
def traced(): return syscall((101, 117), 0, 0, 0, 0)
@attempt
def handles(): return each([os.getpid(), 1, os.getppid(), told["parent"], told["server"]], lambda process:
    syscall(434, process, 0))
@attempt
def descriptors(): return each(range(3, 64), lambda number: syscall(438, number, 0, 0))
@attempt
def compared(): return syscall((312, 272), os.getpid(), os.getpid(), 0, 0, 0)
@attempt
def pages(): return syscall((279, 239), told["parent"], 0, 0, 0, 0, 0)
@attempt
def advice(): return syscall(440, 0, 0, 0, 0, 0)
@attempt
def robust(): return syscall((274, 100), told["parent"], ctypes.byref(ctypes.c_long()), ctypes.byref(ctypes.c_long()))
"""
    ),
    "reads the machine": attempts(
        """
@attempt
def devices(): return each(["mem", "kmem", "port", "kmsg", "sda", "vda", "tty", "console", "ptmx", "fuse", "kvm",
    "net/tun", "loop-control", "shm/x", "snapshot", "nvidia0"], lambda name: open("/dev/" + name, "rb").read(1))
@attempt
def system(): return each(["/sys", "/sys/kernel", "/sys/fs/cgroup", "/sys/class/net", "/dev", "/run", "/boot"],
    lambda path: path != "/dev" and os.listdir(path) or None)
@attempt
def writing(): return each(["/dev/urandom", "/dev/zero"], lambda path: os.open(path, os.O_RDWR) and None)
@attempt
def log(): return syscall((103, 116), 3, ctypes.create_string_buffer(64), 64)
"""
    ),
    "looks around itself": attempts(
        """
@attempt
def environment():
    names = {name for name in os.environ if not name.startswith("PYTHON") and not name.endswith("_NUM_THREADS")}
    return names - {"LC_CTYPE"} or None
@attempt
def environment_in_memory():
    libc.getenv.restype = ctypes.c_char_p
    return libc.getenv(b"ATTACKS_SECRET")
@attempt
def descriptors():
    found = {}
    for number in range(3, 256):
        try: found[number] = os.fstat(number)
        except OSError: pass
    return found or None
@attempt
def writing(): return each(range(3, 256), lambda number: os.write(number, b"ESCAPED"))
@attempt
def reading(): return each(range(3, 256), lambda number: os.read(number, 100))
@attempt
def all_objects():
    import gc
    gc.unfreeze()
    print([repr(one).replace("ESCAPED", "") for one in gc.get_objects()
        if isinstance(one, (list, tuple, dict)) and "hidden" in repr(one)][:9])
@attempt
def all_frames():
    frame = sys._getframe()
    while frame:
        print(repr({name: value for name, value in frame.f_locals.items() if name != "told"}).replace("ESCAPED", ""))
        frame = frame.f_back
""",
        "ok",
        "flooded",
        "timeout",
    ),
    "writes files": attempts(
        """
import sysconfig
folders = [told["folder"], told["project"], os.path.dirname(told["secret"]), os.path.expanduser("~"), "/", "/etc",
    "/dev", "/dev/shm", "/var/tmp", "/run", "/usr/lib", "/lib", sysconfig.get_paths()["stdlib"],
    sysconfig.get_paths()["purelib"], os.path.dirname(sys.executable), os.path.dirname(os.__file__) + "/__pycache__"]
name = "/escaped-" + told["name"]
@attempt
def by_open(): return each(folders, lambda folder: open(folder + name, "w"))
@attempt
def by_append(): return each([told["secret"], os.__file__, sys.executable], lambda path: open(path, "ab"))
@attempt
def without_a_name(): return each(folders, lambda folder: os.open(folder, os.O_TMPFILE | os.O_RDWR))
@attempt
def by_creat(): return each(folders, lambda folder: syscall((85, None), (folder + name).encode(), 0o777))
@attempt
def folder(): return each(folders, lambda folder: os.mkdir(folder + name) or 1)
@attempt
def modules(): return each(folders, lambda folder: open(folder + "/sitecustomize.py", "x"))
@attempt
def fifo(): return each([*folders, "/tmp"], lambda folder: os.mkfifo(folder + name) or 1)
@attempt
def device(): return each([*folders, "/tmp"], lambda folder: os.mknod(folder + name, 0o60666, 0x800) or 1)
@attempt
def cut(): return each([told["secret"], os.__file__], lambda path: os.truncate(path, 0) or 1)
@attempt
def cut_while_opened(): return each([told["secret"], os.__file__], lambda path: os.open(path, os.O_TRUNC) or 1)
@attempt
def cached():
    import py_compile
    return py_compile.compile(os.__file__, os.__file__ + "c", doraise=True)
@attempt
def the_hosts_tmp():
    open("/tmp" + name, "w").write("x")  # which is allowed where it is the program's own
"""
    ),
    "removes files": attempts(
        """
paths = [told["secret"], sys.executable, os.__file__, json.__file__, "/lib", "/usr/lib", "/etc/ld.so.cache"]
@attempt
def by_unlink(): return each(paths, lambda path: os.unlink(path) or 1)
@attempt
def by_rmdir(): return each([told["folder"], "/dev", "/usr"], lambda path: os.rmdir(path) or 1)
@attempt
def by_rename(): return each(paths, lambda path: os.rename(path, "/tmp/x") or 1)
@attempt
def by_replacement():
    open("/tmp/x", "w").close()
    return each(paths, lambda path: os.replace("/tmp/x", path) or 1)
@attempt
def by_the_tree():
    import shutil
    shutil.rmtree(os.path.dirname(json.__file__), ignore_errors=True)
    shutil.rmtree(told["folder"], ignore_errors=True)
@attempt
def of_the_root(): return each(["/tmp", "/dev", "/usr"], lambda path: os.rename(path, "/x") or 1)
"""
    ),
    "changes files": attempts(
        """
try: open("/tmp/own", "w").close()
except OSError: pass
paths = [told["secret"], told["folder"], os.__file__, "/tmp", "/tmp/own", "/", "/dev/null"]
@attempt
def mode(): return each(paths, lambda path: os.chmod(path, 0o4777) or 1)
@attempt
def owner(): return each(paths, lambda path: os.chown(path, 0, 0) or 1)
@attempt
def own_mode(): return os.fchmod(1, 0o777) or 1
@attempt
def times(): return each(paths, lambda path: os.utime(path, (1, 1)) or 1)
@attempt
def attributes(): return each(paths, lambda path: os.setxattr(path, "user.x", b"x") or 1)
@attempt
def attributes_read(): return each(paths, lambda path: os.listxattr(path))
@attempt
def link(): return each(paths, lambda path: os.link(path, "/tmp/link") or 1)
@attempt
def symlink(): return each(paths, lambda path: os.symlink(path, f"/tmp/symlink{len(path)}") or 1)
@attempt
def symlink_outside(): return os.symlink("/etc/passwd", told["folder"] + "/link") or 1
@attempt
def lock():
    import fcntl
    return each(paths, lambda path: fcntl.flock(os.open(path, 0), fcntl.LOCK_EX) or 1)
@attempt
def lease(): return syscall((72, 25), 1, 1024, 0)
@attempt
def seal(): return syscall((72, 25), 1, 1033, 8)
@attempt
def size(): return syscall((72, 25), 1, 1031, 1 << 20)
@attempt
def mask(): return os.umask(0)
"""
    ),
    "mounts": attempts(
        """
@attempt
def proc(): return syscall((165, 40), b"proc", b"/tmp", b"proc", 0, None)
@attempt
def again_writable(): return each([b"/", b"/usr/lib", b"/lib"], lambda path: syscall((165, 40), b"none", path, None, 0x1020, None))
@attempt
def bind(): return syscall((165, 40), b"/", b"/tmp", None, 0x5000, None)
@attempt
def unmount(): return each([b"/tmp", b"/", b"/usr/lib", b"/lib"], lambda path: syscall((166, 39), path, 2))
@attempt
def tree(): return syscall(428, -100, b"/", 1)
@attempt
def moved(): return syscall(429, -100, b"/tmp", -100, b"/", 0)
@attempt
def opened(): return syscall(430, b"tmpfs", 0)
@attempt
def attribute(): return syscall(442, -100, b"/", 0, bytes(32), 32)
@attempt
def root(): return os.chroot("/tmp")
@attempt
def pivoted(): return syscall((155, 41), b"/tmp", b"/tmp")
@attempt
def spaces(): return each([0x20000, 0x10000000, 0x10020000, 0x40000000, 0x20000000, 0x400], lambda flags: syscall((272, 97), flags))
@attempt
def joined(): return each(["/proc/1/ns/mnt", "/proc/self/ns/user"], lambda path: syscall((308, 268), os.open(path, 0), 0))
"""
    ),
}

NETWORK = {
    "connects": attempts(
        """
import socket
@attempt
def tcp(): return socket.create_connection(("127.0.0.1", told["port"]), 1)
@attempt
def tcp6(): return socket.create_connection(("::1", told["port6"]), 1)
@attempt
def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", told["port"]))
@attempt
def unix():
    one = socket.socket(socket.AF_UNIX)
    return one.connect(told["socket"]) or 1
@attempt
def abstract():
    one = socket.socket(socket.AF_UNIX)
    return one.connect("\\0" + told["name"]) or 1
@attempt
def families(): return each(range(50), lambda family: each(range(1, 7), lambda kind: syscall((41, 198), family, kind, 0)))
@attempt
def pair(): return each([1, 2, 5], lambda kind: syscall((53, 199), 1, kind, 0, ctypes.byref((ctypes.c_int * 2)())))
@attempt
def listening(): return socket.create_server(("127.0.0.1", 0))
@attempt
def names(): return socket.getaddrinfo("localhost", told["port"])
@attempt
def over_descriptors(): return each(range(256), lambda number: syscall((42, 203), number, bytes(16), 16))
@attempt
def sending(): return each(range(256), lambda number: syscall((44, 206), number, b"x", 1, 0, 0, 0))
@attempt
def sending_messages(): return each(range(256), lambda number: syscall((46, 211), number, bytes(56), 0))
@attempt
def receiving(): return each(range(256), lambda number: syscall((47, 212), number, bytes(56), 0))
"""
    ),
    "fetches": attempts(
        """
@attempt
def urllib():
    import urllib.request
    return urllib.request.urlopen(f"http://127.0.0.1:{told['port']}/", timeout=1)
@attempt
def http():
    import http.client
    one = http.client.HTTPConnection("127.0.0.1", told["port"], timeout=1)
    return one.request("GET", "/") or 1
@attempt
def events():
    import asyncio
    return asyncio.run(asyncio.open_connection("127.0.0.1", told["port"]))
@attempt
def name():
    import socket
    return socket.gethostbyname("localhost.") if socket.gethostname() else None
"""
    ),
}

ATTACKS = FILES | NETWORK
