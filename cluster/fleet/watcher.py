"""Ends what a private cluster leaves behind when its driver is gone, however it went.

Ray has its processes killed with the driver by the kernel, and its workers end when they see that: not one that hangs,
or stands still, or was born a moment before. So a process of ours looks on: in a session of its own, so that what is
sent to the driver's process group does not reach it. It remembers what descends from the driver, by process id and
time of birth, and what carries the driver's mark in its environment. Once the driver is gone it waits GRACE_S for
all of that to end by itself, kills the rest, and ends.

Run as a program: `python -m cluster.fleet.watcher PID MARK`, with a pipe from the driver as its stdin.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "BONFIRE_DRIVER"
LOOK_EVERY_S = 0.5
GRACE_S = 3.0
GIVE_UP_AFTER_S = 30.0
"""A process that SIGKILL does not end waits for a device, and nobody can end it."""

_watching: subprocess.Popen[bytes] | None = None


def watch_this_process() -> None:
    """Start the watcher of this process, once; to be called before Ray's processes are started, which inherit a mark."""
    global _watching
    if _watching is not None and os.environ.get(MARK, "").startswith(f"{os.getpid()}-"):
        return
    mark = os.environ[MARK] = f"{os.getpid()}-{os.urandom(8).hex()}"
    root = str(Path(__file__).resolve().parents[2])
    _watching = subprocess.Popen(
        [sys.executable, "-P", "-m", "cluster.fleet.watcher", str(os.getpid()), mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name != MARK} | {"PYTHONPATH": root},
        start_new_session=True,
    )


def watch(driver: psutil.Process, mark: str, stdin: int) -> None:
    """Return when the driver and all that it started are gone."""
    started: set[psutil.Process] = set()
    is_open = True
    while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
        with suppress(psutil.Error):
            started |= _descendants(driver, started)
        if not is_open:
            time.sleep(LOOK_EVERY_S)
        elif select.select([stdin], [], [], LOOK_EVERY_S)[0]:
            is_open = bool(
                os.read(stdin, 1)
            )  # the driver's end is closed: it is gone, or will be in a moment
    deadline_s = time.monotonic() + GRACE_S
    while left := _left(started, mark):
        now_s = time.monotonic()
        if now_s > deadline_s + GIVE_UP_AFTER_S:
            return
        if now_s > deadline_s:
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
        time.sleep(0.1)


def _descendants(driver: psutil.Process, known: set[psutil.Process]) -> set[psutil.Process]:
    """Of the driver, and of those that it started and that have other parents by now; not this process."""
    parents: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            parents.setdefault(process.ppid(), []).append(process)
    found: set[psutil.Process] = set()
    left = [driver.pid, *(process.pid for process in known if process.is_running())]
    while left:
        new = [one for one in parents.get(left.pop(), []) if one.pid != os.getpid() and one not in found]
        found.update(new)
        left += [one.pid for one in new]
    return found


def _left(started: set[psutil.Process], mark: str) -> list[psutil.Process]:
    """Those that are not gone, with what came of them since, and what carries the mark."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process not in started and process.environ().get(MARK) == mark:
                started.add(process)
    for process in list(started):
        with suppress(psutil.Error):
            started.update(process.children(recursive=True))
    return [process for process in started if process.pid != os.getpid() and _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    with suppress(psutil.NoSuchProcess):
        watch(psutil.Process(int(sys.argv[1])), sys.argv[2], 0)
