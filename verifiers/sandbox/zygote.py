"""A warm Python inside the sandbox that forks, for each candidate, a process for it and one for its checker.

    host ── control socket ──▶ zygote            one message a candidate: its time, with the checker's socket
      └──── job, outcome ────▶ checker ◀── values ──▶ candidate

The zygote never reads a job, so no test is ever in the memory that candidates inherit. Each of the two processes
is the first of its own PID namespace: when it is killed, the kernel kills all that it started. Neither outlives
its judgement.

Runs inside the sandbox: standard library only. `main` finds the control socket at stdin.
"""

from __future__ import annotations

import ast
import bisect  # noqa: F401  imported here, once, is imported in every candidate
import contextlib
import copy  # noqa: F401
import functools  # noqa: F401
import gc
import heapq  # noqa: F401
import itertools
import json
import math  # noqa: F401
import operator  # noqa: F401
import os
import random
import re  # noqa: F401
import select
import shutil
import signal
import socket
import statistics  # noqa: F401
import string  # noqa: F401
import struct
import tempfile
import time
import traceback
import typing  # noqa: F401
from collections.abc import Callable

from verifiers.sandbox.blocks import forget_compiled
from verifiers.sandbox.candidate import answer_calls, program_digest
from verifiers.sandbox.checker import check, make_outcome, names_to_ask
from verifiers.sandbox.kernel import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    Limits,
    die_with_parent,
    give_up_privileges,
    make_read_only,
    mount,
    set_limits,
    set_namespace,
    unshare,
)
from verifiers.sandbox.reading import read_program
from verifiers.sandbox.values import Channel, decode, encode

SCRATCH = "/tmp"
READY = b"ready"
REQUEST = struct.Struct("!d")
"""Seconds of wall time for the candidate."""
ENDING = struct.Struct("!?")
"""Sent before the two processes are killed: whether time ran out."""
REPORT = struct.Struct("!i")
"""Sent when nothing of them is left: how the checker ended (as `os.waitstatus_to_exitcode` tells)."""
MAX_DESCRIPTORS = 256
"""More than the zygote ever has."""
WARM_UP_ROUNDS = 20
"""More than the interpreter runs a function before it specialises it."""
SETUP_FAILED = 97
"""Exit code of a process that could not be confined, and did nothing."""
BODY_FAILED = 98
"""Exit code of a confined process that raised."""


def main(limits: Limits, *, isolated: bool, scratch: str) -> None:
    """Serve until the host closes the control socket."""
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    if isolated:
        make_read_only(os.devnull)  # bubblewrap's --remount-ro would also take the device away
    os.environ.clear()
    zygote = _Zygote(limits, isolated=isolated, scratch=scratch)
    _warm_up()
    gc.collect()
    gc.freeze()  # so that no collection in a child touches, and thereby copies, what it inherited
    control.sendall(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, REQUEST.size, 1)
        if not message:
            return
        (wall_s,) = REQUEST.unpack(message)
        zygote.judge(socket.socket(fileno=descriptors[0]), control, wall_s)


def _warm_up() -> None:
    """Have the interpreter specialise here what every candidate and every checker run, instead of in each of them."""
    code = (
        "from math import pi\ndef f(x):\n    'Doc.'\n    return [x, (1, 2.5), {'a': {3}}]\nassert f(1) == f(1)\n"
        * 4
    )
    for _ in range(WARM_UP_ROUNDS):
        tree = ast.parse(read_program(f"```python\n{code}```", {"kind": "whole", "wanted": ["f"]}))
        names_to_ask("f", tree, {})
        program_digest(tree)
        sent = json.dumps(
            encode([1, (2.5, "a"), {"b": {3}}, None], lambda value, depth: {}), separators=(",", ":")
        )
        decode(json.loads(sent), lambda tag, body, depth: None)
    forget_compiled()


class _Zygote:
    def __init__(self, limits: Limits, *, isolated: bool, scratch: str) -> None:
        self._limits = limits
        self._isolated = isolated
        self._scratch = scratch
        self._myself = os.pidfd_open(os.getpid())

    def judge(self, job: socket.socket, control: socket.socket, wall_s: float) -> None:
        """Run a checker and its candidate until the checker ends, time is up, or the host is gone; report it."""
        deadline = time.monotonic() + wall_s
        ours, theirs = socket.socketpair()
        limit = self._limits.reply_bytes
        candidate = self._fork(lambda: answer_calls(Channel(theirs, max_sent=limit)), theirs)
        checker = self._fork(
            lambda: _report_outcome(Channel(job), Channel(ours, max_received=limit)), job, ours
        )
        for end in (job, ours, theirs):
            end.close()
        poll = select.poll()
        checker_ended = os.pidfd_open(checker)
        poll.register(checker_ended, select.POLLIN)
        poll.register(control, select.POLLRDHUP)
        events = poll.poll(max(0.0, 1e3 * (deadline - time.monotonic())))
        os.close(checker_ended)
        with contextlib.suppress(OSError):  # the host is gone
            control.sendall(ENDING.pack(not events))
        code = self._end(checker)  # first, or it would take the candidate's end for its failure
        self._end(candidate)
        if not self._isolated:
            for entry in os.scandir(self._scratch):
                shutil.rmtree(entry.path, ignore_errors=True)
        control.sendall(REPORT.pack(code))

    def _fork(self, body: Callable[[], None], *kept: socket.socket) -> int:
        """A confined process that runs `body` with these descriptors and its standard streams only."""
        if self._isolated:
            unshare(CLONE_NEWPID)
        parent_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = SETUP_FAILED
            try:
                self._confine([end.fileno() for end in kept], parent_pid)
                code = BODY_FAILED
                body()
                code = 0
            except BaseException:  # noqa: BLE001  nothing may return into the zygote's loop
                if code == SETUP_FAILED:
                    traceback.print_exc()
            finally:
                os._exit(code)
        if self._isolated:
            set_namespace(self._myself, CLONE_NEWPID)  # or there could be no second unshare
        return pid

    def _confine(self, kept: list[int], parent_pid: int) -> None:
        os.setsid()  # a process group reaches across PID namespaces
        if self._isolated:
            unshare(CLONE_NEWNS | CLONE_NEWIPC)
            # As the zygote's root: a user namespace without a mapping, like the next, can create no files.
            options = f"size={self._limits.file_bytes},nr_inodes=1024,mode=700"
            mount("none", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
            os.chdir(SCRATCH)
            # Its processes are counted by themselves, and without a mapping it can hold no further namespaces.
            unshare(CLONE_NEWUSER)
        else:
            die_with_parent(parent_pid)  # nothing else would end it when the zygote is killed
            os.chdir(tempfile.mkdtemp(dir=self._scratch))
        set_limits(self._limits, count_processes=self._isolated)
        if self._isolated:
            give_up_privileges()
        random.seed(0)  # a verdict is the same whoever gives it
        # Opened anew: flags, owner and signal belong to the open file, and would outlast a candidate in the zygote's.
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        _close_all_but({0, 1, 2, *kept})

    def _end(self, pid: int) -> int:
        """Kill a process and all that it started; returns how it ended, -SIGKILL if it had to be killed."""
        if self._isolated:
            os.kill(pid, signal.SIGKILL)  # of the first in its PID namespace: the kernel kills the others
        else:
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status)


def _report_outcome(host: Channel, candidate: Channel) -> None:
    """Read the job, check it, and send the outcome: the checker's whole life."""
    try:
        outcome = check(host.receive(), candidate)
    except (MemoryError, RecursionError) as error:
        detail = f"its values were too much for the checker ({type(error).__name__})"
        outcome = make_outcome("failed", detail)
    except Exception:  # noqa: BLE001  the host raises it
        outcome = make_outcome("sandbox", traceback.format_exc())
    host.send(outcome)


def _close_all_but(kept: set[int]) -> None:
    for below, above in itertools.pairwise([-1, *sorted(kept), MAX_DESCRIPTORS]):
        if above - below > 1:  # an empty range is a negative end to close_range, which then closes everything
            os.closerange(below + 1, above)
