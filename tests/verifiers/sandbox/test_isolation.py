"""No candidate reaches others. How an attack is written: `test_verdicts.py`."""

from __future__ import annotations

import os

import pytest

from tests.shared.sandbox_attacks import REFUSED, attempt


def test_a_signal_to_everyone_reaches_no_one_outside(attack):
    assert attack(attempt("os.kill(-1, 9)"), "assert f() == 'ProcessLookupError'").kind == "passed"


def test_a_signal_to_the_parent_reaches_no_one_outside(attack):
    program = attempt("result = os.getppid(); os.kill(os.getppid() or 2, signal.SIGKILL)")
    assert attack(program, "assert f() == 'ProcessLookupError'").kind == "passed"


def test_a_signal_to_its_own_process_group_reaches_no_one_outside(attack):
    """A group outlasts a PID namespace's border, unlike a process id; only init's immunity keeps the candidate alive."""
    assert attack("import os\ndef f(x):\n    os.kill(0, 9)\n    return x * x").kind == "passed"


def test_it_sees_no_process_but_its_own(attack):
    program = attempt("""
        result = []
        for pid in range(1, 2000):
            try: os.kill(pid, 0); result.append(pid)
            except ProcessLookupError: pass
        """)
    assert attack(program, "assert f() == [1]").kind == "passed"


def test_ptrace_is_refused(attack):
    program = attempt("result = syscall_error('ptrace', 16, 1, 0, 0)")
    assert attack(program, "assert f() == 'Operation not permitted'").kind == "passed"


def test_reading_another_process_memory_is_refused(attack):
    program = attempt("result = syscall_error('process_vm_readv', 1, None, 0, None, 0, 0)")
    assert attack(program, "assert f() == 'Operation not permitted'").kind == "passed"


def test_new_namespaces_are_refused(attack):
    program = attempt("""
        result = [syscall_error('unshare', flag) for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000)]
        """)
    assert attack(program, "assert f() == ['Operation not permitted'] * 4").kind == "passed"


def test_new_namespaces_by_clone_are_refused(attack):
    """The filter cannot look into clone's flags; a user namespace needs an owner with a mapping, and there is none."""
    numbers = {"x86_64": 56, "aarch64": 220}
    program = attempt(f"""
        number = {numbers}[os.uname().machine]
        result = [syscall_error('syscall', number, flag | 17, None, None, None, None) for flag in (0x10000000, 0x20000)]
        """)
    assert attack(program, "assert f() == ['Operation not permitted'] * 2").kind == "passed"


def test_the_zygote_cannot_be_had_by_the_socket_that_it_made(attack):
    program = attempt("""
        result = []
        for descriptor in range(3, 64):
            try: end = socket.socket(fileno=descriptor)
            except OSError: continue
            try: result.append(end.getsockopt(socket.SOL_SOCKET, 77))  # SO_PEERPIDFD
            except OSError as error: result.append(type(error).__name__)
            end.detach()
        """)
    assert attack(program, f"assert f() == [{REFUSED!r}]").kind == "passed"


def test_no_child_is_the_zygotes(attack):
    """CLONE_PARENT: a child of its parent. The first of a namespace may not, and another's parent is within it."""
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    program = attempt(f"result = syscall_error('syscall', {number}, 0x8000 | 17, None, None, None, None)")
    assert attack(program, "assert f() == 'Invalid argument'").kind == "passed"


def test_calls_numbered_for_another_interface_are_refused(attack):
    program = attempt("result = [syscall_error('syscall', n) for n in (0x40000000 | 165, -1, 0x7fffffff)]")
    expected = "['Operation not permitted'] * 3" if os.uname().machine == "x86_64" else "f()"
    assert attack(program, f"assert f() == {expected}").kind == "passed"


@pytest.mark.parametrize("stopped", ["os.getpid()", "0", "-1"])
def test_stopping_itself_stops_nobody_else(attack, stopped):
    program = f"import os, signal\ndef f(x):\n    try: os.kill({stopped}, signal.SIGSTOP)\n    except OSError: pass\n    return x * x"
    assert attack(program).kind == "passed"


def test_mounting_is_refused(attack):
    program = attempt("result = syscall_error('mount', b'none', b'/tmp', b'tmpfs', 0, None)")
    assert attack(program, "assert f() == 'Operation not permitted'").kind == "passed"


def test_it_has_no_privileges_and_executing_a_file_gives_none(attack):
    child = "import os; os.setuid(0)"
    program = attempt(f"""
        try: os.setuid(0)
        except OSError as error: first = type(error).__name__
        done = subprocess.run([sys.executable, "-S", "-c", {child!r}], capture_output=True, text=True)
        result = os.getuid(), first, done.stderr.split()[-1] if done.stderr else "done"
        """)
    assert (
        attack(program, "assert f()[0] == 65534", "assert f()[1] != 'done'", "assert f()[2] != 'done'").kind
        == "passed"
    )


def test_a_library_of_its_own_cannot_be_preloaded(attack):
    program = attempt("""
        open("evil.so", "wb").write(open(sys.executable, "rb").read(1 << 20))
        done = subprocess.run([sys.executable, "-S", "-c", "print(7)"], env={"LD_PRELOAD": "/tmp/evil.so"},
                              capture_output=True, text=True)
        result = done.stdout.strip(), "cannot be preloaded" in done.stderr
        """)
    assert attack(program, "assert f() == ('7', True)").kind == "passed"


def test_no_internet_socket_can_be_made(attack):
    program = attempt("socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(('1.1.1.1', 53))")
    assert attack(program, f"assert f() == {REFUSED!r}").kind == "passed"


def test_nothing_can_listen(attack):
    program = attempt("socket.create_server(('127.0.0.1', 0))")
    assert attack(program, f"assert f() == {REFUSED!r}").kind == "passed"


def test_no_pair_of_sockets_loads_a_module_into_the_kernel(attack):
    program = attempt("""
        pair = (ctypes.c_int * 2)()
        result = [i for i in range(64) if syscall_error('socketpair', i, 2, 0, pair) != 'Operation not permitted']
        """)
    assert attack(program, "assert f() == [1]").kind == "passed"


@pytest.mark.parametrize(
    "code",
    ["socket.socket(socket.AF_UNIX).bind('\\0ours')", "a.bind('\\0ours')", "a.listen()", "a.accept()",
     "a.connect('\\0ours')", "result = syscall_error('connect', a.fileno(), bytes(16), 16)",
     "a.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)"],
)  # fmt: skip
def test_no_socket_gets_a_name_that_others_can_find(attack, code):
    program = attempt(f"a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n{code}")
    assert attack(program, f"assert f() in ({REFUSED!r}, 'Operation not permitted')").kind == "passed"


def test_it_inherits_its_own_socket_and_no_other_descriptor(attack):
    program = attempt("""
        result = []
        for descriptor in range(1024):
            try: os.fstat(descriptor); result.append(descriptor)
            except OSError: pass
        """)
    assert attack(program, "assert f()[:3] == [0, 1, 2] and len(f()) == 4").kind == "passed"
