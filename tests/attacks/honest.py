"""Programs that do nothing wrong, in the ways in which contests are written."""

from __future__ import annotations

READING = {
    "input": "a = input()\nb = input()",
    "lines": "import sys\na, b = sys.stdin",
    "readline": "import sys\ninput = sys.stdin.readline\na, b = input(), input()",
    "bytes": "import sys\na, b = sys.stdin.buffer.read().split()",
    "read by number": "import os\na, b = os.read(0, os.fstat(0).st_size).split()",
    "opened by number": "a, b = open(0)",
    "opened by number, split": "a, b = open(0).read().split('\\n')[:2]",
    "io": "import io, os\ninput = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline\na, b = input(), input()",
    "fdopen": "import os\nwith os.fdopen(0, closefd=False) as file: a, b = file.readlines()",
    "iterator": "import sys\nit = iter(sys.stdin.read().split())\na, b = next(it), next(it)",
    "fileinput by hand": "import sys\na, b = [line.rstrip() for line in sys.stdin.readlines()]",
    "until the end": "a = input()\nb = input()\ntry:\n  input()\nexcept EOFError: pass\nelse: 1 / 0",
}
"""Into a and b, from two lines."""

WRITING = {
    "print": "print('x')",
    "without a line end": "print('x', end='')\nprint()",
    "write": "import sys\nsys.stdout.write('x\\n')",
    "bytes": "import sys\nsys.stdout.buffer.write(b'x\\n')",
    "write by number": "import os\nos.write(1, b'x\\n')",
    "at the end": "import atexit\natexit.register(print, 'x')",
    "at the end by number": "import atexit, os\natexit.register(os.write, 1, b'x\\n')",
    "a replaced output": "import io, os, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach())\nprint('x')",
    "an output by number": "f = open(1, 'w')\nf.write('x\\n')",
    "an output by number, buffered": "import io\nf = io.BufferedWriter(io.FileIO(1, 'w'))\nf.write(b'x\\n')",
    "an output that collects": "import io, sys\no = sys.stdout\nsys.stdout = io.StringIO()\nprint('x')\n"
    "o.write(sys.stdout.getvalue())",
    "an output that flushes": "import os, sys\nclass Out:\n def __init__(s): s.all = []\n def write(s, t): s.all.append(t)\n"
    " def flush(s): os.write(1, ''.join(s.all).encode()); s.all = []\nsys.stdout = Out()\nprint('x')",
    "a closed output": "import sys\nprint('x')\nsys.stdout.close()",
    "exit": "import sys\nprint('x')\nsys.exit()",
    "exit with zero": "print('x')\nexit_code = 0\nraise SystemExit(exit_code)",
    "in a function": "def main():\n print('x')\nif __name__ == '__main__': main()",
    "errors beside": "import sys\nprint('x')\nprint('y', file=sys.stderr)",
}
"""Of x and the end of a line."""

HONEST = {
    "dataclasses": "from dataclasses import dataclass, field\n@dataclass(order=True)\nclass P:\n x: int\n"
    " y: list = field(default_factory=list)\nprint(sorted([P(2), P(1)])[0].x)",
    "enum": "from enum import Enum\nclass E(Enum): A = 1\nprint(E(1).value)",
    "a named tuple": "from typing import NamedTuple\nclass N(NamedTuple):\n a: int = 1\nprint(N().a)",
    "dates": "from datetime import datetime\nd = datetime.strptime('2020-02-29', '%Y-%m-%d')\nprint(d.month - 1)",
    "decimal": "from decimal import Decimal, getcontext\ngetcontext().prec = 50\nprint(Decimal(1))",
    "fractions": "from fractions import Fraction\nprint(Fraction(1, 2) * 2)",
    "statistics": "import statistics\nprint(statistics.median([1, 1, 2]))",
    "heap and bisect": "import heapq, bisect, array\nh = [2, 1]\nheapq.heapify(h)\nprint(h[0])",
    "collections": "from collections import Counter, defaultdict, deque, OrderedDict\nprint(Counter('aab')['b'])",
    "caches": "from functools import lru_cache, cache, reduce, cmp_to_key\n@cache\ndef f(n): return n\nprint(f(1))",
    "text": "import re, string, textwrap, unicodedata\nprint(re.sub('a', '1', 'a'))",
    "random": "import random\nrandom.seed(1)\nprint(random.randint(1, 1))",
    "hashes": "import hashlib, base64, zlib, binascii\nprint(len(hashlib.sha256(b'').digest()) // 32)",
    "copies": "import copy, pickle\nprint(pickle.loads(pickle.dumps(copy.deepcopy([1])))[0])",
    "a class": "import abc\nclass A(abc.ABC):\n @abc.abstractmethod\n def f(self): ...\nclass B(A):\n def f(self): return 1\nprint(B().f())",
    "introspection": "import inspect, types\ndef f(x): ...\nprint(len(inspect.signature(f).parameters))",
    "time": "import time, calendar\nt = time.time()\ntime.sleep(0.001)\nprint(int(time.time() > t))",
    "an alarm": "import signal, time\ndef stop(*a): raise TimeoutError\nsignal.signal(signal.SIGALRM, stop)\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\ntry: time.sleep(10)\nexcept TimeoutError: print(1)",
    "the stack": "import resource, sys\nresource.setrlimit(resource.RLIMIT_STACK, (2 ** 29, -1))\nprint(1)",
    "recursion": "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return f(n - 1) if n else 1\nprint(f(50000))",
    "recursion in C": "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10 ** 6)\n@lru_cache(None)\n"
    "def f(n): return f(n - 1) if n else 1\nprint(f(100000))",
    "large numbers": "import sys\nsys.set_int_max_str_digits(0)\nprint(len(str(7 ** 20000)) // 16902)",
    "warnings": "import warnings\nwarnings.warn('x')\nx = 1\nprint(1 if x is 1 else 0)",
    "a warning that is caught": "import warnings\nwith warnings.catch_warnings(record=True) as w:\n"
    " warnings.simplefilter('always')\n warnings.warn('x')\nprint(len(w))",
    "assertions": "try: assert False\nexcept AssertionError: print(1)",
    "a generator": "def g():\n yield from [1]\nprint(*g())",
    "an own module": "import sys\nprint(sys.modules['__main__'].__dict__ is globals() and 1)",
    "evaluation": "exec('x = 1')\nprint(eval('x'))",
    "letters": "# \u00e9\nprint(len('\U0001f600'))",
    "tabs and carriage returns": "if 1:\r\n\tprint(1)\r\n",
    "annotations": "from __future__ import annotations\ndef f(x: Nothing) -> Nothing: ...\nprint(1)",
    "logging": "import logging\nlogging.basicConfig(level=10)\nlogging.info('x')\nprint(1)",
}
"""They print 1."""
