"""What runs on the other side of the wall, with the standard library only.

The interpreter that runs programs imports this package by itself, not as a part of `megatron_srpo`, whose
dependencies it may not have.

    server      process 1 of the sandbox: forks a program's process on request, sees neither program nor output
    cases       a program's process: compiles it, runs each test case in a fork of its own, reports
    python      what a case of a Python program does
    walls       namespaces, Landlock and the limits of a case
    seccomp     the system calls that a case may make
    kernel      the system calls that Python has no function for
"""
