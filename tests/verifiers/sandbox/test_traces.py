"""No candidate leaves word for the next one, or for the machine. How an attack is written: `test_verdicts.py`."""

from __future__ import annotations

import os

import pytest

from tests.shared.sandbox_attacks import REFUSED, attempt


@pytest.mark.parametrize(
    ("write", "read"),
    [("fcntl.fcntl(0, fcntl.F_SETSIG, 37)", "fcntl.fcntl(0, fcntl.F_GETSIG)"),
     ("fcntl.fcntl(1, fcntl.F_SETOWN, 1)", "fcntl.fcntl(1, fcntl.F_GETOWN)"),
     ("fcntl.fcntl(2, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)", "fcntl.fcntl(2, fcntl.F_GETFL)"),
     ("os.utime('/dev/null', (7, 7))", "os.stat('/dev/null').st_mtime == 7"),
     ("os.chmod('/dev/null', 0o600)", "oct(os.stat('/dev/null').st_mode)"),
     ("os.chdir('/'); os.umask(0o777)", "(os.getcwd(), os.umask(0))"),
     ("os.nice(5)", "os.nice(0)")],
)  # fmt: skip
def test_what_one_candidate_sets_the_next_does_not_see(attack, write, read):
    program = f"""
        import fcntl, os
        def f(change):
            seen = {read}
            if change:
                try: {write}
                except OSError: pass
            return seen
        """
    asked = "assert f({}) == 0, repr(f({}))"
    before = attack(program, asked.format(0, 0)).detail
    attack(program, asked.format(1, 0))
    assert attack(program, asked.format(0, 0)).detail == before


def test_the_hosts_null_device_keeps_its_times(attack):
    before = os.stat("/dev/null")
    assert attack(attempt("os.utime('/dev/null', (7, 7))"), "assert f() == 'OSError'").kind == "passed"
    assert os.stat("/dev/null").st_mtime_ns == before.st_mtime_ns
    assert attack(attempt("result = open('/dev/null', 'w').write('x')"), "assert f() == 1").kind == "passed"


@pytest.mark.parametrize("path", ["/dev/null", os.__file__])
@pytest.mark.parametrize(
    "code", ["fcntl.flock(file, fcntl.LOCK_SH)", "fcntl.lockf(file, fcntl.LOCK_SH)",
             "fcntl.fcntl(file, fcntl.F_OFD_SETLK, bytes(32))", "fcntl.fcntl(file, fcntl.F_SETLEASE, 0)",
             "fcntl.fcntl(file, fcntl.F_NOTIFY, 1)", "os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)",
             "os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)"],
)  # fmt: skip
def test_what_others_would_see_at_a_shared_file_is_refused(attack, code, path):
    program = attempt(f"import fcntl\nfile = open({path!r}, 'rb')\n{code}")
    assert attack(program, f"assert f() == {REFUSED!r}").kind == "passed"


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [("io_setup", 206, 0), ("sync", 162, 81), ("syncfs", 306, 267), ("sync_file_range", 277, 84),
     ("inotify_init1", 294, 26), ("mincore", 27, 232), ("readahead", 187, 213), ("cachestat", 451, 451),
     ("syslog", 103, 116), ("seccomp", 317, 277)],
)  # fmt: skip
def test_calls_that_reach_the_whole_machine_are_refused(attack, name, x86_64, aarch64):
    numbers = {"x86_64": x86_64, "aarch64": aarch64}
    program = attempt(f"result = syscall_error('syscall', {numbers}[os.uname().machine], 0, 0, 0, 0, 0, 0)")
    assert attack(program, "assert f() == 'Operation not permitted'").kind == "passed"


def test_hints_and_flags_that_a_file_keeps_are_refused(attack):
    """Of its own file too: where an interpreter is its user's own, the kernel would let it at those of every library."""
    program = attempt("""
        import fcntl
        file = open('own', 'w')
        result = []
        for call, code in ((fcntl.fcntl, 1036), (fcntl.fcntl, 1024 + 16), (fcntl.ioctl, 0x40086602), (fcntl.ioctl, 0xc0506617)):
            try: call(file, code, bytes(128)); result.append(code)
            except PermissionError: pass
        """)  # F_SET_RW_HINT, F_SETDELEG, FS_IOC_SETFLAGS, FS_IOC_ADD_ENCRYPTION_KEY
    assert attack(program, "assert f() == []").kind == "passed"
    a_tty = attempt(
        "result = sys.stdin.isatty(), os.isatty(0), open('own', 'w').isatty(), os.get_blocking(0)"
    )
    assert attack(a_tty, "assert f() == (False, False, False, True)").kind == "passed"


def test_memory_of_the_kernel_that_no_limit_counts_is_refused(attack):
    program = attempt("result = [syscall_error('prctl', option, 1, 16, 0, 0) for option in range(100)]")
    allowed = "[i for i, error in enumerate(f()) if error != 'Operation not permitted']"
    assert attack(program, f"assert set({allowed}) <= {{1, 2, 3, 15, 16}}").kind == "passed"
    high = attempt("result = syscall_error('prctl', ctypes.c_ulong((1 << 32) + 78), 1, 16, 0, 0)")
    assert attack(high, "assert f() == 'Operation not permitted'").kind == "passed"
    pipe = attempt("import fcntl\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 1 << 20)")
    assert attack(pipe, f"assert f() == {REFUSED!r}").kind == "passed"
