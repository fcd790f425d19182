"""RUN_DIR/run.json: which process drives a run, on which cluster, and what it does at the moment."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from cluster.run_directory.record import RUN_FILE, write_atomically

CLOCK_SLACK_S = 2.0
"""How much a process's own start, counted in clock ticks since boot, may differ from the time of day."""


class RunFile:
    """The file of the run that this process drives; a context manager that ends with stage `ended`.

    `update` replaces facts. Of a run that ended before it left anything else, the file goes as well. Entering
    raises ValueError where another living process of this machine drives a run in the directory.
    """

    def __init__(self, run_dir: Path, **facts: Any) -> None:
        self._run_dir = run_dir
        self._facts: dict[str, Any] = {
            "name": run_dir.absolute().name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
            **facts,
        }

    def __enter__(self) -> Self:
        self._made_directory = not self._run_dir.exists()
        self._run_dir.mkdir(parents=True, exist_ok=True)
        with _one_process_at_a_time(self._run_dir):
            if (self._run_dir / RUN_FILE).exists():
                about = read_run_file(self._run_dir)
                if about["pid"] != self._facts["pid"] and is_driven_here(about):
                    raise ValueError(
                        f"the run in {self._run_dir} is still running (pid {about['pid']}): stop it first, or begin another "
                        "with run_dir=DIR"
                    )
            self.update(stage="starting")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.update(stage="ended")
        except OSError:
            if error is None:  # else that one is told; a full disk may have caused both
                raise
        if self._made_directory and [path.name for path in self._run_dir.iterdir()] == [RUN_FILE]:
            (self._run_dir / RUN_FILE).unlink()
            self._run_dir.rmdir()

    def update(self, **facts: Any) -> None:
        """Replace facts; a new `stage` begins now."""
        if "stage" in facts and facts["stage"] != self._facts.get("stage"):
            facts["stage_since"] = time.time()
        self._facts |= facts
        write_atomically(self._run_dir / RUN_FILE, json.dumps(self._facts, indent=1))


@contextmanager
def _one_process_at_a_time(directory: Path) -> Iterator[None]:
    """Of those that look at the directory and then write what others are to see in it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # NFS locks no directory; then two must not begin in the same millisecond
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_run_file(run_dir: Path) -> dict[str, Any]:
    """The facts in a run directory. Raises ValueError when it is none, or the file is damaged."""
    try:
        return dict(json.loads((run_dir / RUN_FILE).read_text()))
    except FileNotFoundError:
        raise ValueError(f"{run_dir} has no {RUN_FILE}: it is no run directory") from None
    except ValueError as error:
        raise ValueError(
            f"{run_dir / RUN_FILE} is damaged ({error}): if no process drives that run, delete the file"
        ) from None


def is_driven_elsewhere(about: dict[str, Any]) -> bool:
    """Whether the run's driver is a process of another machine, as far as the file tells."""
    return about.get("host", socket.gethostname()) != socket.gethostname() and about.get("stage") != "ended"


def is_driven_here(about: dict[str, Any]) -> bool:
    """Whether the run's driver is a living process of this machine, and no later one of the same number."""
    if about.get("host", socket.gethostname()) != socket.gethostname() or about.get("stage") == "ended":
        return False
    try:
        process = psutil.Process(about["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.create_time() <= about.get("started", time.time()) + CLOCK_SLACK_S
    except psutil.NoSuchProcess:
        return False
