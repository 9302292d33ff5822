"""Attacks on processor, memory, files and patience."""

from __future__ import annotations

from tests.attacks import alone, attempts, calls

CLOCK = ("timeout",)
MEMORY = ("failed", "killed", "timeout")

ATTACKS = {
    "busy": alone("while True: pass", *CLOCK),
    "sleeps": alone("import time\ntime.sleep(1000)", *CLOCK),
    "busy in C: a power": alone("10 ** 10 ** 8", *CLOCK),
    "busy in C: a sum": alone("sum(range(10 ** 12))", *CLOCK),
    "busy in C: a search": alone("import re\nre.match('(a+)+$', 'a' * 64 + 'b')", *CLOCK),
    "busy in C: a hash": alone("import hashlib\nhashlib.pbkdf2_hmac('sha256', b'', b'', 10 ** 9)", *CLOCK),
    "sleeps while it prints": alone(
        "import time\nwhile True:\n print('.', flush=True)\n time.sleep(0.01)", *CLOCK
    ),
    "busy while it prints": alone(
        "while True: print('.' if sum(range(1000)) else '', flush=True)", "timeout", "flooded"
    ),
    "shows that it goes on but does not": calls(
        "def f(told, number):\n while True:\n  os.write(3, b'=')\n  time.sleep(0.01)", *CLOCK
    ),
    "ignores all signals": alone(
        """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: pass
""",
        *CLOCK,
    ),
    "shoots itself by a timer": alone(
        "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(1000)", "killed"
    ),
    "waits for input without end": alone(
        "import select, sys, os\nos.read(0, 10 ** 6)\nselect.select([], [], [])", *CLOCK
    ),
    "waits for itself": alone("import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()", *CLOCK),
    "waits at its end": alone("import atexit, time\natexit.register(time.sleep, 1000)", *CLOCK),
    "waits for a thread at its end": alone(
        "import threading, time\nthreading.Thread(target=time.sleep, args=[1000]).start()",
        "timeout",
        levels=("namespaces",),
    ),
    "more threads than allowed": alone(
        """
import threading, time
try:
    while True: threading.Thread(target=time.sleep, args=[1000], daemon=True).start()
except RuntimeError:
    count = threading.active_count()
print("the attack is over" if count <= 9 else "ESCAPED")
""",
        "ok",
    ),
    "threads without end": alone(
        """
import _thread, time
def work():
    while True:
        try: _thread.start_new_thread(work, ())
        except RuntimeError: time.sleep(0.001)
work()
""",
        *CLOCK,
    ),
    "its first thread ends, others go on": attempts(
        """
import threading, time
def work():
    time.sleep(0.05)
    while True: time.sleep(0.1)
threading.Thread(target=work).start()
syscall((60, 93), 0)
""",
        "timeout",
        levels=("namespaces",),
    ),
    "memory at once": alone("x = bytearray(10 ** 10)", *MEMORY),
    "memory slowly": alone("x = []\nwhile True: x.append(bytes(10 ** 6))", *MEMORY),
    "memory in small pieces": alone("x = []\nwhile True: x = [x, [], {}]", *MEMORY),
    "memory in swallowed pieces": alone(
        "x = []\nwhile True:\n try:\n  while True: x.append(bytes(10 ** 6))\n except MemoryError: pass", *CLOCK
    ),
    "a large integer": alone("x = 7\nwhile True: x *= x", *MEMORY),
    "a large text": alone("x = 'x'\nwhile True: x += x", *MEMORY),
    "a large list by a comparison": alone("sorted([0] * 10 ** 9)", *MEMORY),
    "a zip bomb": alone(
        """
import zlib
bomb = zlib.compressobj(9)
data = b"".join(bomb.compress(bytes(10 ** 6)) for _ in range(400)) + bomb.flush()
zlib.decompress(data)
""",
        *MEMORY,
    ),
    "a pickle bomb": alone(
        "import pickle\npickle.loads(b'\\x8c\\x01a\\x94' + b'h\\x00h\\x00\\x86\\x94' * 10 ** 6 + b'.')\n"
        "pickle.loads(b'cbuiltins\\nbytearray\\n(I10000000000\\ntR.')",
        *MEMORY,
    ),
    "maps memory": attempts(
        """
libc.mmap.restype = ctypes.c_void_p
@attempt
def private():
    count = 0
    while libc.mmap(None, ctypes.c_size_t(1 << 22), 3, 0x22, -1, 0) != 2 ** 64 - 1: count += 1
    return count if count > 64 else None
@attempt
def shared():
    count = 0
    while libc.mmap(None, ctypes.c_size_t(1 << 22), 3, 0x21, -1, 0) != 2 ** 64 - 1: count += 1
    return count if count > 64 else None
@attempt
def without_reserve():
    place = libc.mmap(None, ctypes.c_size_t(1 << 40), 0, 0x4022, -1, 0)
    return place if place != 2 ** 64 - 1 else None
@attempt
def locked(): return syscall((149, 228), id(libc), 4096)
@attempt
def all_locked(): return syscall((151, 230), 3)
"""
    ),
    "memory elsewhere": attempts(
        """
@attempt
def memory_file(): return os.memfd_create("x")
@attempt
def secret_memory(): return syscall(447, 0)
@attempt
def system_v(): return syscall((29, 194), 0, 1 << 20, 0o1777)
@attempt
def semaphores(): return syscall((64, 190), 0, 1, 0o1777)
@attempt
def messages(): return syscall((68, 186), 0, 0o1777)
@attempt
def message_queue(): return syscall((240, 180), b"escaped", 0o102, 0o777, None)
@attempt
def posix():
    from multiprocessing import shared_memory
    return shared_memory.SharedMemory("escaped", create=True, size=4096)
@attempt
def pipes(): return os.pipe()
@attempt
def event(): return syscall((290, 19), 0, 0)
@attempt
def poll(): return syscall((291, 20), 0)
@attempt
def watches(): return syscall((294, 26), 0)
"""
    ),
    "fills its folder": attempts(
        """
@attempt
def fill():
    size = 0
    with open("/tmp/large", "wb", 0) as file:
        while True:
            size += file.write(bytes(1 << 20))
            if size > 9 << 20: return size
@attempt
def fill_by_many():
    size = 0
    for number in range(20):
        with open(f"/tmp/part{number}", "wb", 0) as file: size += file.write(bytes(1 << 20))
    return size if size > 9 << 20 else None
@attempt
def sparse():
    with open("/tmp/sparse", "wb", 0) as file:
        file.truncate(1 << 30)
    return 1
@attempt
def many():
    for number in range(5000): open(f"/tmp/{number}", "w").close()
    return number
@attempt
def deep():
    for number in range(5000):
        os.mkdir("d")
        os.chdir("d")
    return number
"""
    ),
    "takes all descriptors": attempts(
        "@attempt\ndef copies():\n count = 0\n while os.dup(0) < 64: pass\n return 1"
    ),
    "recursion": alone("def f(): return f()\nf()", "failed"),
    "recursion without limit": alone(
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): return f() + 1\nf()", "failed", "killed", "timeout"
    ),
    "recursion in C": alone(
        "import sys\nsys.setrecursionlimit(10 ** 9)\nx = []\nfor _ in range(10 ** 6): x = [x]\nrepr(x)", *MEMORY
    ),
    "floods its output": alone("while True: print('x' * 10 ** 5)", "flooded"),
    "floods its output and swallows": alone(
        "while True:\n try:\n  print('x' * 10 ** 5)\n except OSError: pass", "flooded", "timeout"
    ),
    "floods its errors": alone(
        "import sys\nwhile True: print('x' * 10 ** 5, file=sys.stderr)", "failed", "flooded", "timeout"
    ),
    "floods its input": alone("import os\nwhile True: os.write(0, b'x' * 10 ** 5)", "failed"),
    "floods its answers": calls(
        "def f(told, number):\n while True: os.write(3, b'x' * 10 ** 5)", "flooded", "failed"
    ),
    "floods with one answer": calls("def f(told, number): return 'x' * 10 ** 7", "flooded"),
    "a sparse output": alone("import os\nos.lseek(1, 10 ** 15, 0)\nos.write(1, b'x')", "failed", "flooded"),
    "a grown output": alone("import os\nos.ftruncate(1, 2 ** 23)", "flooded", "failed"),
    "output that is no text": alone("import os\nos.write(1, bytes(range(256)) * 500)", "ok"),
    "answers without end": calls("import itertools\ndef f(told, number): return itertools.count()", "failed"),
    "a list without end": calls(
        "class Endless(list):\n def __iter__(self):\n  while True: yield 1\ndef f(told, number): return Endless([1])",
        "failed",
        "timeout",
        "flooded",
        "ok",
    ),
    "an answer that contains itself": calls("def f(told, number):\n x = []\n x.append(x)\n return x", "failed"),
    "a deep answer": calls(
        "def f(told, number):\n x = []\n for _ in range(10 ** 5): x = [x]\n return x", "failed", "killed"
    ),
}
"""By what they do."""

COMPILER = {
    "parentheses": "(" * 10**5 + ")" * 10**5,
    "lists": "x = " + "[" * 199 + "]" * 199,
    "minus signs": "x = " + "-" * 10**6 + "1",
    "nots": "x = " + "not " * 10**5 + "1",
    "attributes": "x" + ".x" * 10**5,
    "calls": "x" + "()" * 10**5,
    "sums": "x = " + "1+" * 10**5 + "1",
    "powers": "x = " + "2**" * 10**5 + "1",
    "lambdas": "x = " + "lambda: " * 10**4 + "1",
    "conditions": "x = " + "1 if 1 else " * 10**5 + "1",
    "blocks": "".join(" " * depth + "if 1:\n" for depth in range(200)),
    "functions": "".join(" " * depth + "def f():\n" for depth in range(99)) + " " * 99 + "pass",
    "comprehensions": "x = " + "[" * 100 + "0" + " for _ in []]" * 100,
    "f-strings": "x = " + "f'{'" * 10,
    "many lines": "x = 1\n" * 10**5 + "1/0",
    "many names": "\n".join(f"x{number} = {number}" for number in range(5 * 10**4)) + "\n1/0",
    "a large constant": "x = 9 ** 9 ** 9 ** 9",
    "a large constant text": "x = ('x' * 4000,) * 4000 * 4000",
    "many digits": "x = " + "9" * 10**6,
    "a null byte": "print(1)\0",
    "a lone surrogate": "x = '\ud800'",
    "a lone surrogate in a name": "x\udcff = 1",
    "a cookie": "# -*- coding: rot13 -*-\ncevag(1)",
    "an unknown cookie": "# coding: nothing\n1/0",
    "a byte order mark": "\ufeff1/0",
    "nothing": "",
    "warnings": "1 is 1\n" * 10**4 + "1/0",
    "a future": "from __future__ import braces",
}
"""Texts at which the compiler may despair; none answers anything."""
