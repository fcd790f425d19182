"""What the sandbox asks of the Linux kernel: namespaces, limits, and a filter of system calls.

Runs inside the sandbox: standard library only. Python has none of these calls before 3.12, so they go through libc.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from dataclasses import dataclass

CLONE_NEWNS = 0x0002_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x2008_0522

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one candidate may use. The checker, which handles the candidate's values, gets the same."""

    memory_bytes: int
    """Address space of each process."""
    max_processes: int
    """Processes and threads together."""
    file_bytes: int
    """One file, and all files together."""
    reply_bytes: int
    """One value that the candidate returns, as sent."""
    cpu_s: int
    """CPU time of each process."""
    open_files: int = 64
    stack_bytes: int = 8 << 20


def unshare(flags: int) -> None:
    """Move this process (for CLONE_NEWPID: its next children) into new namespaces."""
    _call("unshare", flags)


def set_namespace(descriptor: int, flags: int) -> None:
    """Move this process into the namespaces of the process behind a pidfd."""
    _call("setns", descriptor, flags)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (text.encode() for text in (source, target, kind))
    _call("mount", *arguments, ctypes.c_ulong(flags), options.encode())


def set_limits(limits: Limits, *, count_processes: bool) -> None:
    """Set the resource limits, soft and hard; the number of processes only where it counts this user namespace."""
    values = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_STACK: limits.stack_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if count_processes:
        values[resource.RLIMIT_NPROC] = limits.max_processes
    for kind, value in values.items():
        resource.setrlimit(kind, (value, value))


def give_up_privileges() -> None:
    """No capability, none to be had by executing a file, and no system call of `_DENIED`. For good."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", header, bytes(24))
    if _FILTER is not None:
        _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_FILTER), 0, 0)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


# Number of each call on x86-64 and on aarch64. Most need a capability that no candidate has; they are here so that
# a hole in the kernel behind them is out of reach too. Sockets, shared memory and queues would outgrow the limits.
_DENIED = {
    "socket": (41, 198),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
}
_MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _build_filter(machine: str) -> _FilterProgram | None:
    """The classic BPF program that refuses `_DENIED` with EPERM; None on a machine whose numbers are not known here.

    A call made for another architecture (32-bit) kills the process: its numbers mean something else.
    """
    if machine not in _MACHINES:
        return None
    column, architecture = _MACHINES[machine]
    numbers = [row[column] for row in _DENIED.values()]
    load, equal, at_least, leave = 0x20, 0x15, 0x35, 0x06
    deny, x32 = len(numbers) + 1, 0x4000_0000
    program = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 1, 0, architecture),
        (leave, 0, 0, 0x8000_0000),  # kill the process
        (load, 0, 0, 0),  # seccomp_data.nr
        (at_least, deny, 0, x32),
        *((equal, deny - 1 - index, 0, number) for index, number in enumerate(numbers)),
        (leave, 0, 0, 0x7FFF_0000),  # allow
        (leave, 0, 0, 0x0005_0000 | errno.EPERM),
    ]
    code = b"".join(struct.pack("=HBBI", *row) for row in program)
    return _FilterProgram(len(program), code)


_FILTER = _build_filter(platform.machine())
