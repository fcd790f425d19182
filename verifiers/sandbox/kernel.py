"""What the sandbox asks of the Linux kernel: namespaces, limits, and a filter of system calls.

Runs inside the sandbox: standard library only. Python has none of these calls before 3.12, so they go through libc.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from dataclasses import dataclass

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
    if _FILTER is not None:
        _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_FILTER), 0, 0)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


# Number of each call on x86-64 and on aarch64. Most need a capability that no candidate has; they are here so that
# a hole in the kernel behind them is out of reach too. Sockets, shared memory and queues would outgrow the limits;
# locks, watches, names of sockets and what the page cache holds are seen by others; the io_, quota and sync calls load
# them. `vmsplice` keeps pages in a pipe that no limit counts: 2 MiB for each of its 16 slots, if they are huge.
_DENIED = {
    "socket": (41, 198),
    "bind": (49, 200),
    "connect": (42, 203),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "setsockopt": (54, 208),  # SO_PASSCRED makes the kernel give a socket a name
    "io_setup": (206, 0),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "sync_file_range": (277, 84),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "flock": (73, 32),
    "inotify_init": (253, 26),  # aarch64 has inotify_init1 only
    "inotify_init1": (294, 26),
    "mincore": (27, 232),
    "fadvise64": (221, 223),
    "readahead": (187, 213),
    "cachestat": (451, 451),
    "preadv2": (327, 286),  # RWF_NOWAIT tells what is cached
    "syslog": (103, 116),
    "seccomp": (317, 277),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "vmsplice": (278, 75),
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
# Calls of which the filter reads one argument: (numbers, which, values, whether these are allowed or refused).
_LIMITED = {
    # PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME. Others take memory of the
    # kernel that no limit counts (PR_FUTEX_HASH).
    "prctl": ((157, 167), 0, (1, 2, 3, 15, 16), True),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_SETOWN, F_GETOWN, F_SETSIG, F_GETSIG, F_SETOWN_EX, F_GETOWN_EX,
    # F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Others change what all who open the file share: locks, leases, hints.
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 8, 9, 10, 11, 15, 16, 1030, 1032), True),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Others reach the file system's, the network's and other
    # processes' state by any descriptor.
    "ioctl": ((16, 29), 1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451), True),
    # AF_UNIX. For others the kernel loads the module and makes two sockets before it says that they make no pair.
    "socketpair": ((53, 199), 0, (1,), True),
    # SO_PEERPIDFD: a descriptor of the zygote.
    "getsockopt": ((55, 209), 2, (77,), False),
    # RLIMIT_CORE
    "setrlimit": ((160, 164), 0, (4,), False),
    "prlimit64": ((302, 261), 1, (4,), False),
}
_LOAD, _EQUAL, _AT_LEAST, _LEAVE = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 0x8000_0000
_MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _build_filter(machine: str) -> _FilterProgram | None:
    """The classic BPF program that refuses `_DENIED` and part of `_LIMITED` with EPERM; None on an unknown machine.

    A call made for another architecture (32-bit) kills the process: its numbers mean something else.
    """
    if machine not in _MACHINES:
        return None
    column, architecture = _MACHINES[machine]
    numbers = [row[column] for row in _DENIED.values()]
    refuse, x32 = len(numbers) + 1, 0x4000_0000
    program = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 1, 0, architecture),
        (_LEAVE, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
    ]
    for of_machine, which, values, listed_allowed in _LIMITED.values():
        listed, others = (_ALLOW, _REFUSE) if listed_allowed else (_REFUSE, _ALLOW)
        program += [
            (_EQUAL, 0, len(values) + 3, of_machine[column]),
            (
                _LOAD,
                0,
                0,
                16 + 8 * which,
            ),  # the lower half of seccomp_data.args[which]: the kernel takes an int
            *((_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)),
            (_LEAVE, 0, 0, others),
            (_LEAVE, 0, 0, listed),
        ]
    program += [
        (_AT_LEAST, refuse, 0, x32),
        *((_EQUAL, refuse - 1 - index, 0, number) for index, number in enumerate(numbers)),
        (_LEAVE, 0, 0, _ALLOW),
        (_LEAVE, 0, 0, _REFUSE),
    ]
    code = b"".join(struct.pack("=HBBI", *row) for row in program)
    return _FilterProgram(len(program), code)


_FILTER = _build_filter(platform.machine())
