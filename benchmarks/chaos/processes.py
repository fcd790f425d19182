"""The processes of a chaos run: all are descendants of this one, whoever started them, and none is left at the end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
EXIT_TIMEOUT_S = 30.0
NODE_VARIABLE = "BONFIRE_CHAOS_NODE"
"""In the environment of everything that belongs to a Ray node: the node's name."""

KINDS: dict[str, Callable[[psutil.Process], bool]] = {
    "raylet": lambda process: process.name() == "raylet",
    "gcs_server": lambda process: process.name() == "gcs_server",
    "controller": lambda process: title(process).startswith("ray::Controller"),
    "learner": lambda process: title(process).startswith("ray::LearnerWorker"),
    "rollout": lambda process: title(process).startswith("ray::RolloutWorker"),
    "verifier": lambda process: title(process).startswith("ray::VerifierWorker"),
    "verifier_child": lambda process: "verifiers.process.child" in title(process),
    "sandbox": lambda process: process.name() == "bwrap",
}
OF_A_RUN = ("controller", "learner", "rollout", "verifier", "verifier_child", "sandbox")


def title(process: psutil.Process) -> str:
    """Its command line; Ray writes an actor's class into it."""
    return " ".join(process.cmdline())


class Family:
    """Starts processes, and adopts those that their children leave behind."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._started: dict[int, subprocess.Popen[str]] = {}

    def spawn(
        self, command: Sequence[str], *, environment: Mapping[str, str], log: Path, piped: bool = False
    ) -> subprocess.Popen[str]:
        """Ctrl-C does not reach it. What it writes is appended to `log`; with `piped` only what goes to stderr."""
        with log.open("a") as file:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else file,
                stderr=file,
                start_new_session=True,
                text=True,
            )
        self._started[process.pid] = process
        return process

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)

    def find(self, *kinds: str, node: str | None = None) -> list[psutil.Process]:
        """Living descendants of these kinds, of one node or of all."""
        found = []
        for process in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.status() == psutil.STATUS_ZOMBIE or not any(
                    KINDS[kind](process) for kind in kinds
                ):
                    continue
                if node is None or process.environ().get(NODE_VARIABLE) == node:
                    found.append(process)
        return found

    def of_node(self, node: str) -> list[psutil.Process]:
        """All living descendants that were started by a node."""
        found = []
        for process in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get(NODE_VARIABLE) == node:
                    found.append(process)
        return found

    def send(self, pid: int, number: signal.Signals) -> bool:
        """Whether a living descendant of that id was there to be signalled. Never signals anybody else."""
        if pid not in {process.pid for process in self.descendants() if is_alive(process)}:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def reap(self) -> None:
        """Let go of adopted children that have ended; those that were started here are their starter's."""
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                if child.pid not in self._started and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)

    def end(self) -> list[str]:
        """Kill every descendant; those that could not be."""
        deadline_s = time.monotonic() + EXIT_TIMEOUT_S
        while (left := self.descendants()) and time.monotonic() < deadline_s:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            for started in self._started.values():
                started.poll()
            self.reap()
            time.sleep(0.05)
        return [f"{process.pid} {process.name()}" for process in left if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    """Whether it is there, and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
