"""Gives up root, if it is root, and becomes bubblewrap: `python launcher.py PATHS_JSON bwrap ARGUMENTS...`.

Whoever starts it: should the machine run out of memory, the kernel ends a candidate and not, say, the learner.

Two reasons to start the sandbox as nobody. The number of processes of the real root cannot be limited; and who gets
out of the sandbox is then nobody, not root. But nobody cannot pass a directory such as /root (mode 700), under which
the interpreter may lie. So, in a mount namespace of its own, such a directory is covered by an empty one that holds
nothing but the paths the sandbox needs.

Standard library only; run by its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import stat
import sys
from pathlib import Path

NOBODY = 65534
FIRST_TO_GO = "1000"
"""For the kernel, which ends processes in the order of their share of memory, in thousandths, plus this."""
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2_0000, 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def first_closed_directory(path: Path) -> Path | None:
    """The uppermost directory on the way to `path` that nobody may not pass."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None


def open_up(paths: list[Path]) -> None:
    """Make the paths reachable for nobody, in a mount namespace of this process."""
    closed = {path: first_closed_directory(path) for path in paths}
    if not any(closed.values()):
        return
    _call("unshare", _CLONE_NEWNS)
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    sources = {path: os.open(path, os.O_PATH) for path, directory in closed.items() if directory}
    for directory in dict.fromkeys(closed.values()):
        if directory is not None:
            _mount("none", str(directory), "tmpfs", 0, "mode=755")
    for path, source in sources.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(os.stat(source).st_mode):
            path.mkdir(exist_ok=True)
        else:
            path.touch()
        _mount(f"/proc/self/fd/{source}", str(path), "", _MS_BIND | _MS_REC)
        os.close(source)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


if __name__ == "__main__":
    os.umask(0o022)
    with contextlib.suppress(OSError):  # of a masked /proc; everything else holds without it
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    if os.geteuid() == 0:
        try:
            open_up([Path(path) for path in json.loads(sys.argv[1])])
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError as error:
            sys.exit(f"cannot start bubblewrap as nobody: {error}")
    os.chdir("/")
    os.execv(sys.argv[2], sys.argv[2:])
