"""No candidate gets more than its share. How an attack is written: `test_verdicts.py`."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import psutil
import pytest

from tests.shared.sandbox_attacks import REFUSED, SHORT_S, attempt
from verifiers.sandbox.remote import GONE


def test_an_infinite_loop_is_a_timeout(attack):
    started = time.monotonic()
    assert attack("while True: pass", wall_s=SHORT_S).kind == "timeout"
    assert time.monotonic() - started < SHORT_S + 5


def test_an_infinite_loop_that_ignores_signals_is_a_timeout(attack):
    program = """
        import signal
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        def f(x):
            while True:
                try:
                    while True: pass
                except BaseException: pass
    """
    assert attack(program, wall_s=SHORT_S).kind == "timeout"


def test_sleeping_is_a_timeout(attack):
    assert attack("import time\ndef f(x): time.sleep(3600)", wall_s=SHORT_S).kind == "timeout"


def test_memory_is_limited(attack):
    outcome = attack("def f(x): return len(bytearray(1 << 30))")
    assert outcome.kind == "failed" and "MemoryError" in outcome.detail


def test_memory_taken_in_small_pieces_is_limited(attack):
    assert attack("def f(x):\n    a = []\n    while True: a.append(bytearray(1 << 20))").kind == "failed"


def test_a_fork_bomb_hits_the_limit_of_processes(attack):
    program = """
        import os
        def f(x):
            for _ in range(20):
                try: os.fork()
                except OSError: pass
            return 0
    """
    assert attack(program, wall_s=2.0).kind in ("failed", "timeout")


def test_the_number_of_processes_is_exact(attack):
    program = attempt("""
        result = 1
        while result < 100:
            if os.fork() == 0: time.sleep(60)
            result += 1
        """).replace("return type(error).__name__", "return result, type(error).__name__")
    assert attack(program, "assert f() == (8, 'BlockingIOError')").kind == "passed"


def test_threads_count_as_processes(attack):
    program = attempt("""
        for _ in range(100): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """)
    assert attack(program, "assert f() == 'RuntimeError'").kind == "passed"


def test_a_thread_does_not_outlive_the_verdict(attack):
    program = """
        import threading
        def spin():
            while True: pass
        threading.Thread(target=spin).start()
        def f(x): return x * x
    """
    assert attack(program).kind == "passed"


def test_a_daemon_does_not_outlive_the_verdict(attack):
    program = """
        import os, time
        def f(x):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.closerange(0, 256)
                    time.sleep(3600)
                os._exit(0)
            os.wait()
            return x * x
    """
    assert attack(program).kind == "passed"


def test_zombies_are_reaped(attack):
    program = """
        import os
        def f(x):
            for _ in range(5):
                if os.fork() == 0: os._exit(0)
            return x * x
    """
    assert attack(program).kind == "passed"


def test_the_disk_is_limited(attack):
    program = attempt("""
        result = 0
        for number in range(100):
            with open(f"file{number}", "wb", buffering=0) as file: result += file.write(bytes(1 << 20))
        """).replace("return type(error).__name__", "return result, error.strerror")
    assert attack(program, "assert f() == (4 << 20, 'No space left on device')").kind == "passed"


def test_a_sparse_file_of_a_terabyte_is_refused(attack):
    program = attempt("with open('file', 'wb') as file: file.truncate(1 << 40)")
    assert attack(program, "assert f() == 'OSError'").kind == "passed"


def test_the_number_of_files_is_limited(attack):
    program = attempt("for number in range(10_000): open(str(number), 'w').close()")
    assert attack(program, "assert f() == 'OSError'").kind == "passed"


def test_the_number_of_open_files_is_limited(attack):
    program = attempt("files = [open('file', 'w') for _ in range(1000)]")
    assert attack(program, "assert f() == 'OSError'").kind == "passed"


def test_a_flood_of_output_goes_nowhere(attack):
    program = """
        import os, sys
        for _ in range(200):
            os.write(1, b"x" * 1_000_000); os.write(2, b"y" * 1_000_000); print("z" * 100_000)
        def f(x): return x * x
    """
    assert attack(program).kind == "passed"


@pytest.mark.parametrize(
    "code", ["while True: os.mkdir('d'); os.chdir('d')", "while True: os.symlink('x' * 4000, str(time.time_ns()))",
             "open('a', 'w')\nfor n in range(10**5): os.setxattr('a', f'user.{n}', bytes(4000))",
             "open('a', 'w')\nfor n in range(10**5): os.link('a', str(n))"],
)  # fmt: skip
def test_what_files_need_beside_their_contents_is_limited_too(attack, code):
    assert attack(attempt(code), "assert f() == 'OSError'").kind == "passed"


def test_huge_pages_cannot_be_kept_in_a_pipe_beyond_the_limit_of_memory(attack):
    number = {"x86_64": 278, "aarch64": 75}[os.uname().machine]
    program = attempt(f"result = syscall_error('syscall', {number}, os.pipe()[1], None, 0, 0)")
    assert attack(program, "assert f() == 'Operation not permitted'").kind == "passed"


def test_descriptors_in_flight_are_limited_and_the_next_candidate_may_send_some(attack):
    program = """
        import array, socket
        pairs = [socket.socketpair() for _ in range(25)]
        ends = array.array("i", [end.fileno() for pair in pairs for end in pair])
        def f(n):
            for turn in range(n):
                try: pairs[turn % 25][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, ends)])
                except OSError: return turn
            return n
    """
    assert attack(program, "assert 0 < f(100) < 10").kind == "passed"
    assert attack(program, "assert f(1) == 1").kind == "passed"


def test_no_program_on_the_host_is_handed_its_core(attack):
    """As core(5) has it, no limit holds for a handler in core_pattern but, in the kernel's source, that of 1."""
    number = {"x86_64": 97, "aarch64": 163}[os.uname().machine]
    program = attempt(f"""
        import resource
        limits = (ctypes.c_ulong * 2)()
        libc.syscall({number}, resource.RLIMIT_CORE, limits)
        result = list(limits)
        try: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        except ValueError: result.append("refused")
        """)
    most = int(resource.getrlimit(resource.RLIMIT_CORE)[1] != 0)
    assert attack(program, f"assert f() == [{most}, {most}, 'refused']").kind == "passed"


def test_the_kernel_ends_a_candidate_before_anything_else_when_memory_runs_out(sandbox):
    for process in (psutil.Process(sandbox.pid), *psutil.Process(sandbox.pid).children()):
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"


def test_priorities_cannot_be_raised(attack):
    program = attempt("""
        result = []
        for call in (lambda: os.nice(-1), lambda: os.setpriority(os.PRIO_USER, 0, -1),
                     lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))):
            try: call(); result.append("done")
            except PermissionError: pass
        """)
    assert attack(program, "assert f() == []").kind == "passed"


def test_anonymous_memory_files_are_refused(attack):
    program = attempt("files = [os.memfd_create(str(i)) for i in range(60)]")
    assert attack(program, f"assert f() == {REFUSED!r}").kind == "passed"


def test_system_v_shared_memory_is_refused(attack):
    program = attempt("result = syscall_error('shmget', 0, 1 << 30, 0o1600)")
    assert attack(program, "assert f() == 'Operation not permitted'").kind == "passed"


def test_locked_memory_is_refused(attack):
    program = attempt(
        "block = ctypes.create_string_buffer(1 << 22); result = syscall_error('mlock', block, 1 << 22)"
    )
    assert attack(program, "assert f() != 'done'").kind == "passed"


def test_deep_recursion_is_an_error_of_the_candidate(attack):
    assert "RecursionError" in attack("def f(x): return f(x)").detail


def test_an_overflow_of_the_c_stack_kills_the_candidate_alone(attack):
    program = "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    for _ in range(10**5): x = [x]\n    return repr(x)"
    assert attack(program).detail == GONE


def test_a_segmentation_fault_kills_the_candidate_alone(attack):
    assert attack("import ctypes\ndef f(x): return ctypes.string_at(0)").detail == GONE


def test_a_program_that_exhausts_the_parser_is_judged(attack):
    for program in ("(" * 100_000, "-" * 100_000 + "1", "[" * 90 + "]" * 90, "f" + "(f" * 3000):
        assert attack(program).kind in ("wrong_format", "failed")


def test_an_interval_timer_ends_nobody_else(attack):
    program = """
        import signal, time
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        def f(x):
            time.sleep(0.1)
            return x * x
    """
    assert attack(program).kind == "passed"
