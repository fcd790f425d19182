"""What the sandbox asks of the Linux kernel: namespaces, limits, and the filter of system calls (`syscalls`).

Runs inside the sandbox: standard library only. Python has none of these calls before 3.12, so they go through libc.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from dataclasses import dataclass

from verifiers.sandbox.syscalls import FILTER

CLONE_NEWNS = 0x0002_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
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


def make_read_only(target: str) -> None:
    """Of a mount point: no change of its inode (times, mode, owner), which is the host's. Devices can be written."""
    kept = MS_NOSUID | MS_NODEV | MS_NOEXEC  # statvfs has the same bits; none may be taken off
    kept &= os.statvfs(target).f_flag
    mount("none", target, "", MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def set_limits(limits: Limits, *, count_processes: bool) -> None:
    """Set the resource limits, soft and hard; the number of processes only where it counts this user namespace."""
    values = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_STACK: limits.stack_bytes,
        # With 0 a program in kernel.core_pattern still runs, outside; with 1 none does. Not to be had if the host's is 0.
        resource.RLIMIT_CORE: int(resource.getrlimit(resource.RLIMIT_CORE)[1] != 0),
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_SIGPENDING: 64,  # timers and queued signals are memory of the kernel
        resource.RLIMIT_NICE: 0,  # a host may grant its users priorities
        resource.RLIMIT_RTPRIO: 0,
    }
    if count_processes:
        values[resource.RLIMIT_NPROC] = limits.max_processes
    for kind, value in values.items():
        resource.setrlimit(kind, (value, value))


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process with its parent. Raises ProcessLookupError if that is dead already."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise ProcessLookupError(f"the parent {parent_pid} has ended")


def give_up_privileges() -> None:
    """No capability, none to be had by executing a file, and no system call that the filter refuses. For good."""
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", header, bytes(24))
    if FILTER is not None:
        _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(FILTER), 0, 0)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
