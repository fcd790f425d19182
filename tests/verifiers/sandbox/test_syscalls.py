"""The filter of system calls allows what is listed and nothing else, on both machines that have one."""

from __future__ import annotations

import errno
import struct

import pytest

from tests.shared.sandbox_attacks import attempt
from verifiers.sandbox import syscalls

ALLOW, REFUSE, MISSING, KILL = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 0x0005_0000 | errno.ENOSYS, 0x8000_0000
COLUMNS = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
LOAD, EQUAL, AT_LEAST, ANY_BIT, LEAVE = 0x20, 0x15, 0x35, 0x45, 0x06


def judge(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the kernel would answer: the classic BPF program, run step by step."""
    rows = syscalls.filter_instructions(machine)
    data = struct.pack("=IIQ6Q", number, architecture or COLUMNS[machine][1], 0, *(*arguments, *[0] * 6)[:6])
    position, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = rows[position]
        if operation == LEAVE:
            return value
        if operation == LOAD:
            (accumulator,) = struct.unpack_from("=I", data, value)
            position += 1
            continue
        holds = {
            EQUAL: accumulator == value,
            AT_LEAST: accumulator >= value,
            ANY_BIT: bool(accumulator & value),
        }[operation]
        position += 1 + (if_true if holds else if_false)


@pytest.mark.parametrize("machine", COLUMNS)
def test_each_number_is_allowed_if_and_only_if_it_is_listed(machine):
    column = COLUMNS[machine][0]
    listed = {row[column] for row in syscalls.ALLOWED.values()} - {None}
    limited = {row[0][column] for row in syscalls.LIMITED.values()}
    for number in set(range(600)) - limited:
        expected = ALLOW if number in listed else MISSING if number == 435 or number > 462 else REFUSE
        assert judge(machine, number) == expected, number
    for number in (0x4000_0000, 0x4000_0000 | 165, 0x7FFF_FFFF, 0xFFFF_FFFF):
        assert judge(machine, number) == REFUSE
    assert judge(machine, 0, architecture=0x4000_0003) == KILL


@pytest.mark.parametrize("machine", COLUMNS)
def test_each_limited_call_is_decided_by_its_argument(machine):
    column = COLUMNS[machine][0]
    for numbers, which, meaning, values in syscalls.LIMITED.values():
        number = numbers[column]
        if number is None:
            continue
        listed = ALLOW if meaning == "only" else REFUSE
        for value in values:
            assert judge(machine, number, *[0] * which, value) == listed
            assert judge(machine, number, *[0] * which, value | 1 << 32) == listed, "the kernel takes an int"
        assert judge(machine, number, *[0] * which, 0x0101_0101) == (REFUSE if meaning == "only" else ALLOW)


def test_no_system_call_but_those_listed_does_anything(attack):
    """Of a candidate: with arguments of zero, each number that is not listed."""
    own_end = {
        335,
        336,
    }  # uretprobe, uprobe: the kernel asks no filter, and ends whoever calls them from here
    numbers = [*syscalls.ALLOWED.values(), *(row[0] for row in syscalls.LIMITED.values())]
    listed = sorted(own_end | {of_x86 for of_x86, _ in numbers})
    machine = attempt("result = os.uname().machine")
    if attack(machine, "assert f() == 'x86_64'").kind != "passed":
        pytest.skip("the numbers here are those of x86-64")
    program = attempt(f"""
        result = {{syscall_error('syscall', number, 0, 0, 0, 0, 0, 0) for number in range(1000) if number not in {listed}}}
        """)
    assert (
        attack(program, "assert f() == {'Operation not permitted', 'Function not implemented'}").kind
        == "passed"
    )


@pytest.mark.parametrize(
    "number", [457, 458, 332 + 2000, 447, 449, 450, 451, 453, 459, 460, 461, 462, 463, 470, 500],
)  # fmt: skip
def test_calls_of_newer_kernels_are_refused(attack, number):
    """statmount (457) and listmount (458) tell where things lie on the host."""
    program = attempt(f"result = syscall_error('syscall', {number}, bytes(64), bytes(4096), 4096, 0)")
    assert (
        attack(program, "assert f() in ('Operation not permitted', 'Function not implemented')").kind
        == "passed"
    )


def test_threads_processes_and_event_loops_work_without_clone3(attack):
    program = attempt("""
        import asyncio, tempfile, shutil, mmap, select, concurrent.futures
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            squares = list(pool.map(lambda x: x * x, range(4)))
        async def wait():
            await asyncio.sleep(0.001)
            return await asyncio.gather(*(asyncio.to_thread(abs, -n) for n in range(3)))
        waited = asyncio.run(wait())
        with tempfile.TemporaryDirectory() as folder:
            with open(folder + "/a", "w") as file: file.write("x" * 100)
            shutil.copy2(folder + "/a", folder + "/b")
            copied = os.path.getsize(folder + "/b")
        done = subprocess.run([sys.executable, "-S", "-c", "print(6 * 7)"], capture_output=True, text=True)
        pid = os.fork()
        if pid == 0: os._exit(3)
        result = squares, waited, copied, done.stdout, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        """)
    assert attack(program, "assert f() == ([0, 1, 4, 9], [0, 1, 2], 100, '42\\n', 3)").kind == "passed"
