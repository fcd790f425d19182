"""A Ray cluster as a user starts one on one machine, and the shell of a user who may use it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE_S = 240.0
"""For what takes seconds on an idle machine."""


@dataclass(frozen=True, kw_only=True)
class Shell:
    """The shell of a user: a home and a token of its own, and nothing of what pytest's own Ray and engine have set."""

    environment: dict[str, str]
    directory: Path

    def start(self, *arguments: object, cwd: Path, **changes: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bonfire", *map(str, arguments)],
            cwd=cwd, env={**self.environment, **changes}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def bonfire(self, *arguments: object, cwd: Path, **changes: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        process = self.start(*arguments, cwd=cwd, **changes)
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        return process.returncode, out, err


@dataclass(frozen=True, kw_only=True)
class Cluster(Shell):
    """A Ray cluster of one node and the shell of a user who may use it."""

    gcs: str
    dashboard: str


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def opened_shell() -> Iterator[Shell]:
    """A user's shell on this machine, whose token no other cluster has."""
    directory = Path(tempfile.mkdtemp(prefix="bj", dir="/tmp"))  # Unix sockets want short paths
    token = directory / "token"
    token.write_text("bonfire-jobs-" + os.urandom(16).hex())
    token.chmod(0o600)
    home = directory / "home"
    home.mkdir()
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "VLLM_", "LD_PRELOAD"))
        },
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # stay on the loopback interface
    }
    try:
        yield Shell(environment=environment, directory=directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def started_cluster() -> Iterator[Cluster]:
    """Started as a user starts one, on the loopback interface with a token; ended by its own process number."""
    with opened_shell() as shell:
        yield from _started_cluster(shell)


def _started_cluster(shell: Shell) -> Iterator[Cluster]:
    environment, directory = shell.environment, shell.directory
    gcs_port, dashboard_port, client_port = free_ports(3)
    log = directory / "head.log"
    with log.open("w") as output:
        head = subprocess.Popen(
            [
                "ray", "start", "--head", "--block", f"--port={gcs_port}", f"--dashboard-port={dashboard_port}",
                f"--ray-client-server-port={client_port}", "--dashboard-agent-listen-port=0", "--min-worker-port=0",
                "--max-worker-port=0", "--num-cpus=16", f"--object-store-memory={128 << 20}",
                f"--temp-dir={directory / 'ray'}", "--disable-usage-stats",
            ],
            env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "runtime started" not in log.read_text():
            assert head.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Cluster(
            gcs=f"127.0.0.1:{gcs_port}",
            dashboard=f"http://127.0.0.1:{dashboard_port}",
            environment=environment,
            directory=directory,
        )
    finally:
        children = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.terminate()
        head.wait(60)
        for child in psutil.wait_procs(children, timeout=10)[1]:
            child.kill()
