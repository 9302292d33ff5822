"""Attacks on what runs and judges the program: none may earn a reward or touch the program that comes next."""

from __future__ import annotations

from tests.attacks import END, TOOLS, alone, attempts, calls

F = "\ndef f(told, number): return 0\n"
WRONG = ("ok", "failed")

ATTACKS = {
    "exits at once": alone("import os\nos._exit(0)", "ok"),
    "exits in order": alone("import sys\nsys.exit()", "ok"),
    "exits in order with a code like that of success": alone("raise SystemExit(256)", "ok"),
    "exits with a lying code": alone(
        "class Code(int):\n def __and__(self, other): return 0\nraise SystemExit(Code(1))", "ok", "failed"
    ),
    "takes away the exit": alone(
        "import os\nos._exit = lambda code: None\nraise ValueError", "failed", "killed", "ok"
    ),
    "exits when it is called": calls("def f(told, number): raise SystemExit(0)", "failed"),
    "exits at once when it is called": calls("def f(told, number): os._exit(0)", "failed"),
    "exits while it is defined": calls("os._exit(0)", "failed"),
    "interrupts": calls("def f(told, number): raise KeyboardInterrupt", "failed"),
    "raises something that cannot be told": alone(
        "class E(Exception):\n def __str__(self): raise self\nraise E", "failed"
    ),
    "raises something endless": alone(
        "class E(Exception):\n def __str__(self):\n  while True: pass\nraise E", "timeout"
    ),
    "raises something long": alone("raise ValueError('x' * 10 ** 6 + '\\n' * 10 ** 6)", "failed", "flooded"),
    "raises text that is none": alone("raise ValueError('\\ud800\\0\\x1b[2J')", "failed"),
    "raises as it is called, endlessly": calls(
        "class E(Exception):\n def __str__(self): raise SystemExit(0)\ndef f(told, number): raise E", "failed"
    ),
    "equals everything": calls(
        """
class Right:
    def __eq__(self, other): return True
    def __hash__(self): return 0
    def __iter__(self): return iter([])
    def __len__(self): return 0
    def tolist(self): return self
def f(told, number): return Right()
""",
        "failed",
    ),
    "is a list by its own account": calls(
        "class L(list):\n def __eq__(s, o): return True\n def __len__(s): return 1\ndef f(told, number): return L()",
        *WRONG,
    ),
    "is a text by its own account": calls(
        "class S(str):\n def __eq__(s, o): return True\n def encode(s, *a): return b'='\ndef f(told, number): return S()",
        *WRONG,
    ),
    "is a number by its own account": calls(
        "class N(int):\n def __repr__(s): return 'true'\n __eq__ = lambda s, o: True\ndef f(told, number): return N(1)",
        *WRONG,
    ),
    "is a dictionary by its own account": calls(
        "class D(dict):\n def items(s): return [('x', s)]\ndef f(told, number): return D(x=1)", *WRONG
    ),
    "is no number": calls("def f(told, number): return [float('nan'), float('inf')][number % 2]", "failed"),
    "is no number in text": alone("print('nan'); print('inf')", "ok"),
    "has a tolist without end": calls(
        "class T:\n def tolist(self): return T()\ndef f(told, number): return T()", "failed"
    ),
    "is a generator": calls("def f(told, number):\n yield 1", "failed"),
    "patches json": calls(
        "json.dumps = lambda *a, **k: 'NaN'\njson.loads = lambda text: ['x', 1]" + F, "ok", "failed"
    ),
    "patches json into many lines": calls("json.dumps = lambda *a, **k: '1\\n=1\\n=1\\n=1\\n=1'" + F, "ok"),
    "patches json into objects": calls("json.dumps = lambda *a, **k: None" + F, "failed"),
    "patches what is built in": calls(
        "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.len = lambda x: 0\n"
        "builtins.Exception = BaseException" + F,
        *WRONG,
        "killed",
    ),
    "patches the harness": calls(
        """
from inside import cases, kernel, python, seccomp, server, walls
python.VALUE = python.ERROR = b""
python.write_all = python.describe = python.plain = print
cases.PASSED = cases.FAILED = 0
walls.limit_case = walls.Walls.close_around_case = lambda *a: None
seccomp.install = kernel.drop_capabilities = lambda *a: None
cases.Cases._report = cases.Cases._in_fork = lambda *a: None
server._serve = server.kill_everything_inside = server.reap_all = lambda *a: None
"""
        + F,
        *WRONG,
    ),
    "removes the harness": calls(
        "for name in list(sys.modules):\n if name.startswith('inside') or name in ('os', 'json'): sys.modules[name] = None"
        + F,
        *WRONG,
    ),
    "runs the harness": attempts(
        """
from inside import cases, landlock, server, walls, seccomp
@attempt
def serve(): return server.main(["0", "{}"])
@attempt
def again():
    frame = sys._getframe()
    while not isinstance(frame.f_locals.get("self"), cases.Cases): frame = frame.f_back
    it = frame.f_locals["self"]
    os.write(it._results, cases.FRAME.pack(0, 0, 0))
    return it._standard_streams(compile("1", "x", "exec"), "")
@attempt
def wider(): return seccomp.install(b"\\x06\\0\\0\\0\\0\\0\\xff\\x7f") or 1
@attempt
def folder(): return walls._own_folder(1000) or 1
"""
    ),
    "replaces its output": alone(
        "import sys\nclass Out:\n def __getattr__(self, name): return lambda *a: 1\nsys.stdout = Out()\nprint(1)",
        "ok",
    ),
    "takes its output away": alone("import sys\nsys.stdout = sys.stderr = sys.stdin = None", "failed", "ok"),
    "closes all descriptors": alone("import os\nos.closerange(0, 256)", "ok", "failed"),
    "closes all descriptors when it is called": calls("def f(told, number): os.closerange(0, 256)", "failed"),
    "exchanges its descriptors": alone(
        "import os\nfor one in range(3):\n for other in range(10):\n  if one != other: os.dup2(one, other)",
        "ok",
        "failed",
    ),
    "exchanges its descriptors when it is called": calls(
        "def f(told, number):\n for one in range(4): os.dup2(one, (one + 1) % 4)", *WRONG
    ),
    "forges answers": calls("def f(told, number): os.write(3, b'=0\\n=0\\n=0\\n=0\\n=0\\n'); os._exit(0)", "ok"),
    "forges answers that are none": calls(
        "def f(told, number): os.write(3, b'\\xff\\xfe\\n!\\n\\n=\\n==\\n' * 9); os._exit(0)", *WRONG
    ),
    "forges endless answers": calls("def f(told, number):\n while True: os.write(3, b'=0\\n')", "ok", "flooded"),
    "forges results": alone(
        TOOLS
        + """
import struct
for number in range(256):
    for frame in (struct.pack("=BIH", 0, 6, 0) + b"hidden", struct.pack("=BIH", 255, 2 ** 32 - 1, 2 ** 16 - 1)):
        try:
            if number not in (0, 1, 2): os.write(number, frame); print("ESCAPED")
        except OSError: pass
"""
        + f"print({END!r})",
        "ok",
    ),
    "forges messages of the server": attempts(
        "@attempt\ndef done(): return each(range(3, 256), lambda number: os.write(number, b'done') )\n"
    ),
    "takes its answer back": calls(
        "def f(told, number):\n if number: os.ftruncate(3, 0)\n os.lseek(3, 0, 0)\n return number", *WRONG
    ),
    "answers from a thread": calls(
        """
import _thread
def later():
    while True:
        try: os.write(3, b"=0\\n")
        except OSError: os._exit(0)
def f(told, number):
    _thread.start_new_thread(later, ())
    time.sleep(0.02)
    return 0
""",
        *WRONG,
        "flooded",
    ),
    "goes on in a thread": calls(
        "import threading\ndef f(told, number):\n"
        " threading.Thread(target=time.sleep, args=[1000], daemon=True).start()\n return 0",
        *WRONG,
    ),
    "looks for what is expected": calls(
        """
import gc
gc.unfreeze()
def f(told, number):
    frame, found = sys._getframe(), []
    while frame:
        found += [repr(value) for name, value in frame.f_locals.items() if name != "told"]
        frame = frame.f_back
    found += [repr(one) for one in gc.get_objects() if type(one) in (list, dict, tuple) and len(one) < 50]
    return [text[:200] for text in found if "hidden" in text][:20]
""",
        "ok",
        "failed",
        "timeout",
    ),
    "looks for what is expected in its memory": attempts(
        """
@attempt
def heap():
    libc.sbrk.restype = ctypes.c_void_p
    end = libc.sbrk(0)
    for size in (1 << 20, 1 << 16, 1 << 12):
        print(b"hidden-" in ctypes.string_at(end - size, size) and b"the word is there" or b"")
        at = ctypes.string_at(end - size, size)
        print(at[at.find(b"hidden-"):][:60] if b"hidden-" in at else "")
""",
        "ok",
        "killed",
    ),
    "traces": calls(
        "def trace(*a):\n sys.stdout.write(repr(a))\n return trace\nsys.settrace(trace)\nsys.setprofile(trace)"
        + F,
        *WRONG,
    ),
    "hooks": calls(
        "def hook(*a): raise SystemExit(0)\nsys.excepthook = sys.unraisablehook = hook\nsys.addaudithook(hook)"
        + F,
        *WRONG,
    ),
    "hooks forks": calls(
        "os.register_at_fork(before=os._exit, after_in_parent=os._exit, after_in_child=os._exit)" + F, "ok"
    ),
    "writes into its memory": calls(
        "ctypes.memset(id(True) + 24, 0, 4)\nctypes.memset(id(0) + 24, 1, 4)" + F, *WRONG, "killed", "timeout"
    ),
    "imports its own way": calls(
        "class Finder:\n def find_spec(self, *a): raise SystemExit(0)\nsys.meta_path.insert(0, Finder())\n"
        "sys.path[:] = []\nsys.path_hooks[:] = []" + F,
        *WRONG,
    ),
    "pickles": attempts(
        """
import pickle
@attempt
def system(): return pickle.loads(b"cos\\nfork\\n(tR.")
@attempt
def opening(): return pickle.loads(b"cio\\nopen\\n(S'" + told["secret"].encode() + b"'\\ntR.")
"""
    ),
    "takes memory apart": calls(
        "import gc\nfor one in gc.get_objects():\n if type(one) is dict: one.clear()" + F, *WRONG, "killed"
    ),
    "defines nothing": calls("g = 1", "failed"),
    "defines no function": calls("f = 1", "failed"),
    "defines a class that is none": calls(
        "class Solution:\n def __init__(self): os._exit(0)\n def f(self, *a): 1", "failed"
    ),
    "defines a method that changes": calls(
        "class Solution:\n def __getattribute__(self, name): return lambda *a: self\n", "failed"
    ),
    "reads its later inputs": calls(
        "def f(told, number):\n frame = sys._getframe()\n"
        " while 'inputs' not in frame.f_locals: frame = frame.f_back\n return frame.f_locals['inputs']",
        "ok",
    ),
}
