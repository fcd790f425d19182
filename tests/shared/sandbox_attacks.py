"""What attacks on the sandbox share: its limits, their programs, and that nothing of them is left."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import psutil

from verifiers.sandbox.kernel import Limits
from verifiers.sandbox.sandbox import Job, Outcome, Sandbox

LIMITS = Limits(memory_bytes=256 << 20, max_processes=8, file_bytes=4 << 20, reply_bytes=1 << 20, cpu_s=10)
WALL_S = 10.0
"""More than anything here needs; an attack that is to run out of time gets SHORT_S."""
SHORT_S = 0.3
GOOD = Job(program="def f(x):\n    return x * x", tests=("assert f(7) == 49",))
REFUSED = "PermissionError"

SEND = """
import os, struct
def send(data, length=None):
    for descriptor in range(3, 64):
        try: os.write(descriptor, struct.pack("!I", len(data) if length is None else length) + data)
        except OSError: pass
"""
"""What a hostile program needs to write into its socket, wherever that is."""

Attack = Callable[..., Outcome]


def assert_nothing_left(sandbox: Sandbox) -> None:
    """Processes in inner PID namespaces are descendants of bubblewrap too: the zygote must be the only one."""
    assert sandbox.pid is not None
    assert len(psutil.Process(sandbox.pid).children(recursive=True)) == 1


def attempt(code: str) -> str:
    """A program whose f runs the code and returns its `result`, or the class of what it raises."""
    body = textwrap.indent(textwrap.dedent(code), " " * 8)
    return (
        "import ctypes, os, signal, socket, subprocess, sys, threading, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def syscall_error(name, *arguments):\n"
        "    ctypes.set_errno(0)\n"
        "    return os.strerror(ctypes.get_errno()) if getattr(libc, name)(*arguments) < 0 else 'done'\n"
        f"def f():\n    result = None\n    try:\n{body}\n"
        "    except BaseException as error:\n        return type(error).__name__\n    return result\n"
    )
