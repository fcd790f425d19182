"""The sandbox itself: what it does when it fails, is given up, cannot be had, or is not wanted."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.shared.paths import ROOT
from tests.shared.sandbox_attacks import GOOD, LIMITS, SEND, SHORT_S, WALL_S
from verifiers.process.killable import GRACE_S as PROCESS_GRACE_S
from verifiers.sandbox.sandbox import Job, Sandbox, SandboxError, UnsupportedTestsError


def test_a_dead_sandbox_is_no_verdict_and_the_next_candidate_gets_a_new_one(sandbox):
    zygote = psutil.Process(sandbox.pid).children()
    os.kill(sandbox.pid, signal.SIGKILL)
    psutil.wait_procs(zygote, timeout=5)
    with pytest.raises(SandboxError, match="the sandbox has ended"):
        sandbox.run(GOOD, wall_s=WALL_S)
    assert sandbox.run(GOOD, wall_s=WALL_S).kind == "passed"


def test_a_zygote_killed_during_a_candidate_is_no_verdict(sandbox):
    script = f"sleep 0.3; kill -9 {psutil.Process(sandbox.pid).children()[0].pid}"
    killer = subprocess.Popen(["sh", "-c", script])
    with pytest.raises(SandboxError):
        sandbox.run(Job(program="while True: pass", tests=("f()",)), wall_s=WALL_S)
    killer.wait()
    assert sandbox.run(GOOD, wall_s=WALL_S).kind == "passed"


def test_nothing_is_left_when_a_sandbox_is_closed(sandbox):
    with Sandbox(LIMITS) as other:
        processes = [psutil.Process(other.pid), *psutil.Process(other.pid).children(recursive=True)]
        assert len(processes) == 2
    assert psutil.wait_procs(processes, timeout=5)[1] == []


def test_nothing_is_left_when_its_host_is_killed(sandbox):
    program = (
        "from verifiers.sandbox.sandbox import *; from tests.shared.sandbox_attacks import LIMITS\n"
        "s = Sandbox(LIMITS); print(s.pid, flush=True)\n"
        "s.run(Job(program='while True: pass', tests=('f()',)), wall_s=60)"
    )
    host = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    assert host.stdout is not None
    inner = psutil.Process(int(host.stdout.readline()))
    deadline = time.monotonic() + 10
    while len(processes := [inner, *inner.children(recursive=True)]) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    host.kill()
    host.wait()
    host.stdout.close()
    assert len(processes) == 4 and psutil.wait_procs(processes, timeout=5)[1] == []


def test_verdicts_do_not_depend_on_which_sandbox_gives_them(sandbox):
    program = "import random\ndef f(): return [random.random(), hash('a'), list({'x', 'y', 'z'})]"
    with Sandbox(LIMITS) as other:
        seen = {
            run.run(Job(program=program, tests=("assert f() == 0, f()",)), wall_s=WALL_S).detail
            for run in (sandbox, sandbox, other)
        }
    assert len(seen) == 1 and "0." in seen.pop()


def test_tests_that_cannot_be_run_are_not_held_against_the_candidate(sandbox):
    with pytest.raises(UnsupportedTestsError, match="ZeroDivisionError"):
        sandbox.run(Job(program="", tests=("f()",), prelude="1 / 0"), wall_s=WALL_S)
    with pytest.raises(UnsupportedTestsError, match="cannot import name 'none_such'"):
        tests = ("assert f(1) == 1", "from math import none_such")
        sandbox.run(Job(program="def f(x): return x", tests=tests), wall_s=WALL_S)
    for value in (
        "open('/dev/null')",
        "compile('1', '', 'eval')",
        "(lambda: (yield))().send",
        "__builtins__['open'](0)",
    ):
        with pytest.raises(UnsupportedTestsError, match="which is no plain data"):
            sandbox.run(Job(program="def f(x): return x", tests=(f"f({value})",)), wall_s=WALL_S)


def test_tests_that_are_too_large_are_the_problems_fault_and_the_sandbox_goes_on(sandbox):
    with pytest.raises(UnsupportedTestsError, match="the problem's tests are too large"):
        sandbox.run(Job(program="", cases=(("x" * (65 << 20), ""),)), wall_s=WALL_S)
    assert sandbox.run(GOOD, wall_s=WALL_S).kind == "passed"


@pytest.mark.parametrize(
    ("program", "test"),
    [("Stack = object\ndef empty(s): return False", "assert empty(Stack()) == True"),
     ("def Stack(x): return {}\ndef total(x): return 4", "s = Stack([1, 2])\nassert total(s.items) == 3"),
     ("Stack = {}\ndef total(x): return 4", "assert total(Stack.items) == 3"),
     ("def make(n): return {}\ndef total(x): return 3", "try:\n    total(make(3).items())\nexcept BaseException: pass"),
     ("def f(x): raise ImportError('numpy')", ("try:\n    f(1)\nexcept Exception as e:\n    error = e\n"
      "try:\n    f(2)\nexcept Exception:\n    raise error"))],
)  # fmt: skip
def test_no_candidate_can_choose_that_its_tests_are_at_fault(attack, program, test):
    assert attack(program, test).kind == "failed"


def test_no_candidate_can_leave_too_little_memory_for_what_the_tests_import(attack):
    program = (
        SEND
        + """
import json, mmap, os
least, most = 0, 1 << 30
while most - least > 1 << 14:
    middle = (least + most) // 2
    try: mmap.mmap(-1, middle).close(); least = middle
    except OSError: most = middle
send(b'["value",null,"",null]')
send(json.dumps(["value", {"x": ["bytearray", least - SPARED]}, "", None]).encode())
os._exit(0)
"""
    )
    for spared_kib in (256, 512):
        test = "import cmath, unicodedata, _codecs_jp\nassert f(7) == 49"
        assert attack(program.replace("SPARED", str(spared_kib << 10)), test).kind == "failed"


def test_a_candidate_that_cannot_be_cleared_away_is_a_timeout_and_costs_the_next_one_nothing(sandbox):
    """While another process traces it, a killed candidate stays, as one does whose memory takes long to undo."""
    libc, seize, answers, is_judged = ctypes.CDLL(None), 0x4206, [], threading.Event()
    pid = sandbox.pid

    def trace() -> None:
        zygote = psutil.Process(pid).children()[0]
        while len(children := zygote.children()) < 2:
            time.sleep(0.01)
        time.sleep(0.3)
        candidate = min(children, key=lambda process: process.create_time()).pid
        answers.append(libc.ptrace(seize, candidate, None, None))
        is_judged.wait()  # a tracer that ends gives its tracee up

    tracer = threading.Thread(target=trace)
    tracer.start()
    started = time.monotonic()
    outcome = sandbox.run(Job(program="while True: pass", tests=("f()",)), wall_s=1.0)
    took_s = time.monotonic() - started
    assert sandbox.run(GOOD, wall_s=WALL_S).kind == "passed"
    is_judged.set()
    tracer.join()
    if answers != [0]:
        pytest.skip("a process may not be traced here")
    assert outcome.kind == "timeout" and sandbox.pid != pid
    assert took_s < 1.0 + PROCESS_GRACE_S


def test_without_bubblewrap_the_refusal_is_one_line_that_says_what_to_do(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ValueError, match=r"apt-get install bubblewrap.*trusted_candidates = true") as caught:
        Sandbox(LIMITS)
    assert "\n" not in str(caught.value)


def test_trusted_candidates_are_judged_without_bubblewrap(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with Sandbox(LIMITS, trusted=True) as plain:
        assert plain.run(GOOD, wall_s=WALL_S).kind == "passed"
        assert plain.run(Job(program="def f(x): return 0", tests=GOOD.tests), wall_s=WALL_S).kind == "failed"
        assert plain.run(Job(program="while True: pass", tests=("f()",)), wall_s=SHORT_S).kind == "timeout"
        assert len(psutil.Process(plain.pid).children(recursive=True)) == 0


def test_a_trusted_candidate_that_sleeps_ends_with_its_zygote():
    with Sandbox(LIMITS, trusted=True) as plain:
        zygote = psutil.Process(plain.pid)
        sleeper = Job(program="import time\ndef f(x): time.sleep(60)", tests=("f(1)",))
        seen: list[psutil.Process] = []

        def kill() -> None:
            while len(zygote.children()) < 2:
                time.sleep(0.01)
            time.sleep(0.5)
            seen.extend(zygote.children())
            zygote.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(SandboxError, match="has ended"):
            plain.run(sleeper, wall_s=WALL_S)
        killer.join()
    assert len(seen) == 2 and psutil.wait_procs(seen, timeout=5)[1] == []
