"""The filter of system calls: what an honest program needs is allowed, and everything else is refused.

Runs inside the sandbox: standard library only. A list of what is allowed, because a list of what is refused is out of
date with the next kernel: `statmount` and `listmount` of Linux 6.8 tell where things lie on the host.

A number is that of x86-64 and that of aarch64; None: the machine never had the call. What is refused says EPERM;
a call newer than this list says ENOSYS, as an older kernel would, so that a newer libc takes the older call.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

ALLOWED: dict[str, tuple[int, int | None]] = {
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216),
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "sendfile": (40, 71),
    "openat": (257, 56), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup3": (292, 24),
    "pipe2": (293, 59), "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "ftruncate": (77, 46), "truncate": (76, 45), "mkdirat": (258, 34),
    "unlinkat": (263, 35), "renameat": (264, 38), "renameat2": (316, 276), "linkat": (265, 37),
    "symlinkat": (266, 36), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "umask": (95, 166),
    "utimensat": (280, 88), "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10),
    "listxattr": (194, 11), "llistxattr": (195, 12), "flistxattr": (196, 13), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "fsync": (74, 82),
    "fdatasync": (75, 83), "msync": (26, 227), "ppoll": (271, 73), "pselect6": (270, 72),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "times": (100, 153), "getitimer": (36, 102), "setitimer": (38, 103),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgid": (121, 155), "setpgid": (109, 154), "getsid": (124, 156),
    "setsid": (112, 157), "execve": (59, 221), "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260),
    "waitid": (247, 95), "uname": (63, 160), "getrusage": (98, 165), "getpriority": (140, 141),
    "setpriority": (141, 140), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "set_tid_address": (218, 96), "set_robust_list": (273, 99), "rseq": (334, 293), "futex": (202, 98),
    "getrandom": (318, 278), "restart_syscall": (219, 128), "getrlimit": (97, 163), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "open": (2, None), "creat": (85, None), "stat": (4, None), "lstat": (6, None), "access": (21, None),
    "pipe": (22, None), "dup2": (33, None), "readlink": (89, None), "mkdir": (83, None), "rmdir": (84, None),
    "unlink": (87, None), "rename": (82, None), "link": (86, None), "symlink": (88, None), "chmod": (90, None),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "poll": (7, None), "select": (23, None),
    "epoll_create": (213, None), "epoll_wait": (232, None), "pause": (34, None), "alarm": (37, None),
    "time": (201, None), "fork": (57, None), "vfork": (58, None), "getpgrp": (111, None),
}  # fmt: skip
"""Memory, files, waiting, time, its own processes and signals, and the pairs of sockets that it may make.

Not here, with a reason that is not plain: sockets with a name, shared memory and queues outgrow the limits; locks,
watches, hints and what the page cache holds are seen by others (`mincore`, `cachestat`, `preadv2`, `fadvise64`);
`sync`, `io_setup`, `membarrier` load them; `sysinfo` and `statfs` tell of the host; `vmsplice` keeps pages in a pipe
that no limit counts; `setsockopt` makes the kernel give a socket a name (SO_PASSCRED)."""

_ONLY, _NOT, _NO_BITS = "only", "not", "no bits"
# Calls of which the filter reads one argument: (numbers, which, how the values are meant, values).
LIMITED: dict[str, tuple[tuple[int, int | None], int, str, tuple[int, ...]]] = {
    # PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME. Others take memory of the
    # kernel that no limit counts (PR_FUTEX_HASH).
    "prctl": ((157, 167), 0, _ONLY, (1, 2, 3, 15, 16)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_SETOWN, F_GETOWN, F_SETSIG, F_GETSIG, F_SETOWN_EX, F_GETOWN_EX,
    # F_DUPFD_CLOEXEC, F_GETPIPE_SZ. Others change what all who open the file share: locks, leases, hints.
    "fcntl": ((72, 25), 1, _ONLY, (0, 1, 2, 3, 4, 8, 9, 10, 11, 15, 16, 1030, 1032)),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Others reach the file system's, the network's and other
    # processes' state by any descriptor.
    "ioctl": ((16, 29), 1, _ONLY, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    # NORMAL, RANDOM, SEQUENTIAL, DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, WIPEONFORK. Others push
    # pages of shared libraries in and out.
    "madvise": ((28, 233), 2, _ONLY, (0, 1, 2, 4, 8, 14, 15, 16, 17, 18)),
    # ARCH_SET_FS, ARCH_GET_FS: a libc that starts
    "arch_prctl": ((158, None), 0, _ONLY, (0x1002, 0x1003)),
    # AF_UNIX. For others the kernel loads the module and makes two sockets before it says that they make no pair.
    "socketpair": ((53, 199), 0, _ONLY, (1,)),
    # SO_PEERPIDFD: a descriptor of the zygote.
    "getsockopt": ((55, 209), 2, _NOT, (77,)),
    # RLIMIT_CORE
    "setrlimit": ((160, 164), 0, _NOT, (4,)),
    "prlimit64": ((302, 261), 1, _NOT, (4,)),
    # Every namespace but that of time, whose bit is one of the signal's here.
    "clone": ((56, 220), 0, _NO_BITS, (0x7E02_0000,)),
}
_CLONE3 = 435
"""Its flags lie in memory, where no filter can read them; libc takes `clone` where it is missing."""
_NEWEST_KNOWN = 462

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _LEAVE = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _MISSING = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 0x0005_0000 | errno.ENOSYS
_KILL = 0x8000_0000
_X32 = 0x4000_0000
_MACHINES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}


class FilterProgram(ctypes.Structure):
    """`struct sock_fprog` of the kernel."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip if it holds, and if not, its constant."""


def filter_instructions(machine: str) -> list[Instruction]:
    """The classic BPF program that allows `ALLOWED` and part of `LIMITED`; empty on an unknown machine.

    A call made for another architecture (32-bit) kills the process: its numbers mean something else. A search by
    halves: the kernel tries a new filter on every number, twice for each candidate.
    """
    if machine not in _MACHINES:
        return []
    column, architecture = _MACHINES[machine]
    leaf_of: dict[int | None, list[Instruction]] = {
        row[column]: [(_LEAVE, 0, 0, _ALLOW)] for row in ALLOWED.values()
    }
    leaf_of |= {row[0][column]: _limited_leaf(*row[1:]) for row in LIMITED.values()}
    leaf_of[_CLONE3] = [(_LEAVE, 0, 0, _MISSING)]
    refuse: list[Instruction] = [(_LEAVE, 0, 0, _REFUSE)]
    ranges: list[tuple[int, list[Instruction]]] = []
    for number in range(_NEWEST_KNOWN + 1):
        leaf = leaf_of.get(number, refuse)
        if not ranges or ranges[-1][1] != leaf:
            ranges.append((number, leaf))
    ranges += [(_NEWEST_KNOWN + 1, [(_LEAVE, 0, 0, _MISSING)]), (_X32, refuse)]
    return [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 1, 0, architecture),
        (_LEAVE, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        *_search(ranges),
    ]


def _limited_leaf(which: int, meaning: str, values: tuple[int, ...]) -> list[Instruction]:
    compare = _ANY_BIT if meaning == _NO_BITS else _EQUAL
    listed, others = (_ALLOW, _REFUSE) if meaning == _ONLY else (_REFUSE, _ALLOW)
    argument = 16 + 8 * which  # the lower half of seccomp_data.args[which]: the kernel takes an int
    return [
        (_LOAD, 0, 0, argument),
        *((compare, len(values) - index, 0, value) for index, value in enumerate(values)),
        (_LEAVE, 0, 0, others),
        (_LEAVE, 0, 0, listed),
    ]


def _search(ranges: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """From the number to the leaf of its range; each begins where the one before it ends."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    return [(_AT_LEAST, len(below), 0, ranges[middle][0]), *below, *above]


def build_filter(machine: str) -> FilterProgram | None:
    """The filter as the kernel takes it; None on a machine that has none here."""
    instructions = filter_instructions(machine)
    code = b"".join(struct.pack("=HBBI", *row) for row in instructions)
    return FilterProgram(len(instructions), code) if instructions else None


FILTER = build_filter(platform.machine())
