"""The candidate's side of a program that reads standard input and prints: one process for each input.

Runs inside the sandbox, in the candidate's process: standard library only. The expected outputs are not here.

    checker:   the text of standard input
    candidate: ["printed", text] | ["failed", why] | ["too large", why]
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import errno
import gc
import os
import signal
import sys
import tempfile
import types
from typing import IO

from verifiers.sandbox.common_imports import import_commons
from verifiers.sandbox.values import Channel, ValueRefusedError

MAX_REASON_BYTES = 400


def answer_inputs(channel: Channel, code: types.CodeType) -> None:
    """Run the program on each input that the checker sends, until it hangs up."""
    while True:
        text = channel.receive()
        try:
            reply = _run(channel, code, text)
        except OSError as error:
            # No room for the input; anything else is what the program has made of its directory.
            kind = "too large" if error.errno in (errno.ENOSPC, errno.EFBIG) else "failed"
            reply = [kind, f"{type(error).__name__}: {error}"]
        try:
            channel.send(reply)
        except ValueRefusedError as error:
            channel.send(["too large", str(error)])


def _run(channel: Channel, code: types.CodeType, text: str) -> list[str]:
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as why,
    ):
        given.write(text.encode("utf-8", "surrogatepass"))
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            channel.close()
            _become_program(code, given, printed, why)
        _, status = os.waitpid(pid, 0)
        _end_the_rest(pid)
        size = os.fstat(printed.fileno()).st_size
        if size > channel.max_sent:
            return ["too large", f"an output of {size} bytes"]
        if status:
            why.seek(0)
            reason = why.read(MAX_REASON_BYTES).decode(errors="replace")
            ending = f"the program ends with exit code {os.waitstatus_to_exitcode(status)}"
            return ["failed", reason or ending]
        printed.seek(0)
        return ["printed", printed.read().decode(errors="replace")]


def _become_program(code: types.CodeType, given: IO[bytes], printed: IO[bytes], why: IO[bytes]) -> None:
    """Be the program, as `python main.py` would be it; never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        os.dup2(given.fileno(), 0)
        os.dup2(printed.fileno(), 1)
        for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
            stream = open(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        sys.argv = ["main.py"]
        vars(builtins).update(exit=sys.exit, quit=sys.exit)  # of the module `site`, which is not here
        printing = sys.stdout
        module = types.ModuleType("__main__")
        module.__file__ = "main.py"
        sys.modules["__main__"] = module
        import_commons(module.__dict__)
        try:
            exec(code, module.__dict__)  # noqa: S102  the sandbox's purpose
            status = 0
        except SystemExit as ending:
            status = _exit_code(ending.code)
        if threads := sys.modules.get("threading"):
            threads._shutdown()  # waits for the program's threads, as an interpreter's end does
        atexit._run_exitfuncs()
        if not getattr(sys.stdout, "closed", False):
            sys.stdout.flush()
        module.__dict__.clear()
        gc.collect()  # other files of the program's that write to descriptor 1
        with contextlib.suppress(ValueError):  # closed, or detached
            printing.flush()
    except BaseException as error:  # noqa: BLE001  whatever it raises is its answer
        status = 1
        reason = f"the program raises {type(error).__name__}: {error}"
        os.write(why.fileno(), reason.encode(errors="replace")[:MAX_REASON_BYTES])
    finally:
        os._exit(status)


def _exit_code(code: object) -> int:
    """As the interpreter has it: None is 0, an integer itself, anything else 1."""
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


def _end_the_rest(pid: int) -> None:
    """Nothing that a program started goes on when it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpid() == 1:  # of its own PID namespace: everybody else there
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
