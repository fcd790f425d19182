"""Runs `bonfire` commands for a study, each in a process of its own, with a log that begins with the command."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cluster.terminal.interrupts import Interrupted, interrupts

T = TypeVar("T")


class RunFailed(RuntimeError):
    """A command of the study failed; the message names its log."""


class Commands:
    """Commands of one study, from any thread; their logs are in a folder of its directory."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.is_stopping = False
        logs.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, *arguments: str) -> None:
        """`bonfire ARGUMENTS` to its end. Raises RunFailed with its last line when it fails or was stopped."""
        command = [str(Path(sys.executable).with_name("bonfire")), *arguments]
        log = self._logs / f"{name}.log"
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            with self._lock:
                if self.is_stopping:
                    raise RunFailed("interrupted")
                # Its own session: Ctrl-C reaches it once, from `stop`.
                child = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
                self._children.add(child)
            try:
                code = child.wait()
            finally:
                with self._lock:
                    self._children.discard(child)
        if code:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise RunFailed(f"{name} failed (exit code {code}): {lines[-1]} (log: {log})")

    def stop(self) -> None:
        """Ask every running command to end in order; no further one starts."""
        with self._lock:
            self.is_stopping = True
            for child in self._children:
                child.terminate()


@contextmanager
def threads(commands: Commands, num: int) -> Iterator[tuple[ThreadPoolExecutor, Callable[[], None]]]:
    """Threads to run the commands from, and what raises Interrupted once the user asks to stop.

    Whatever is raised within, no command outlives it.
    """
    with interrupts() as interrupted, ThreadPoolExecutor(num) as pool:

        def heed_interrupts() -> None:
            if interrupted:
                raise Interrupted("stopped in order; the same command goes on")

        try:
            yield pool, heed_interrupts
        except BaseException:
            commands.stop()
            pool.shutdown(cancel_futures=True)
            raise


def in_order(commands: Commands, work: Callable[[], T]) -> T:
    """What `work` returns, which runs commands one after the other. Raises Interrupted once the user asks to stop."""
    with threads(commands, 1) as (pool, heed_interrupts):
        working = pool.submit(work)
        while not wait([working], timeout=1.0).done:
            heed_interrupts()
        return working.result()
