"""Ray nodes on one machine, each made by `ray start` as docs/cluster.md says, which can be lost and come back."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.chaos.network import Network
from benchmarks.chaos.processes import NODE_VARIABLE, Family
from cluster.fleet.nodes import HUNG_WORKER_SETTINGS, NODE_LOSS_SETTINGS

BIN = Path(sys.executable).parent
HEAD = "head"
SAMPLING = {"rollout": 2, "verifier": 2}
NODES = {"learner": {"learner": 2}, "east": {"east": 1, **SAMPLING}, "west": {"west": 1, **SAMPLING}}
"""Nodes beside the head and the resources that each offers, its name among them. Either that samples has room for all."""
STORE_BYTES = 96 << 20
START_TIMEOUT_S = 120.0
RESTART_PAUSE_S = 1.0


class Cluster:
    """The head keeps Ray's records on disk, so that its GCS can be killed and come back.

    Ray's own files go into `ray_dir`, whose path must be short for the sake of Unix sockets. Nodes are started with --block: one whose raylet dies ends with an error, and `mend` starts it again, as a
    service manager would.
    """

    def __init__(self, family: Family, network: Network, *, ray_dir: Path, logs: Path) -> None:
        self._family = family
        self._network = network
        self._ray_dir = ray_dir
        self._logs = logs
        self._port = _free_port()
        self._nodes: dict[str, subprocess.Popen[str]] = {}
        self._ended_at_s: dict[str, float] = {}
        self._cut: set[str] = set()
        self._gcs: tuple[list[str], dict[str, str]] | None = None
        self.num_restarts = 0
        """Times that all of it had to be started again."""
        token = ray_dir / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TMPDIR": str(ray_dir),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            # Else Ray puts all workers on one node as long as half of it is free.
            "RAY_scheduler_spread_threshold": "0.0",
        }

    @property
    def address(self) -> str:
        return f"{self._network.head_address}:{self._port}"

    def start(self) -> None:
        """Returns when the head is up. Raises RuntimeError when it does not come up."""
        records = self._ray_dir / "gcs"
        shutil.rmtree(records, ignore_errors=True)
        head = [
            "--head", f"--port={self._port}", "--num-cpus=0", "--include-dashboard=false",
            f"--ray-client-server-port={_free_port()}",
        ]  # fmt: skip
        kept = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(records), **NODE_LOSS_SETTINGS}
        # Without --block: that would end the node when its GCS is killed.
        process = self._ray_start(HEAD, head, environment=kept)
        if process.wait(START_TIMEOUT_S):
            raise RuntimeError(f"the head does not start: see {self._log(HEAD)}")
        for name in NODES:
            self._start(name)

    def mend(self) -> None:
        """Start what has ended and was not to end. Blocks only if it is the head."""
        for name, node in self._nodes.items():
            if node.poll() is None or name in self._cut:
                continue
            since_s = self._ended_at_s.setdefault(name, time.monotonic())
            if time.monotonic() > since_s + RESTART_PAUSE_S:
                del self._ended_at_s[name]
                self._kill(name)
                self._start(name)
        if self._gcs is None and not self._head_is_up():
            self.num_restarts += 1
            for name in (HEAD, *NODES):
                self._kill(name)
            self.start()

    def raylet(self, node: str) -> psutil.Process | None:
        return next(iter(self._family.find("raylet", node=node)), None)

    def kill_head(self) -> None:
        """All of its processes at once, as when the machine is lost."""
        self._kill(HEAD)

    def kill_gcs(self) -> psutil.Process | None:
        """End Ray's global control service; None where it does not run. `start_gcs` brings it back."""
        server = next(iter(self._family.find("gcs_server", node=HEAD)), None)
        if server is not None:
            self._gcs = server.cmdline(), server.environ()
            server.kill()
        return server

    def start_gcs(self) -> None:
        """As it was started before."""
        assert self._gcs is not None
        command, environment = self._gcs
        self._family.spawn(command, environment=environment, log=self._logs / "gcs.log")
        self._gcs = None

    def cut(self, node: str) -> None:
        """Cut a node off the network."""
        self._cut.add(node)
        self._network.cut(node)

    def join(self, node: str) -> None:
        """Its network is back."""
        self._network.join(node)
        self._cut.discard(node)

    def _head_is_up(self) -> bool:
        return len(self._family.find("raylet", "gcs_server", node=HEAD)) == 2

    def _start(self, node: str) -> None:
        offered = "{" + ", ".join(f'"{name}": {count}' for name, count in NODES[node].items()) + "}"
        arguments = [
            "--block", f"--address={self.address}", "--num-cpus=0", f"--resources={offered}",
        ]  # fmt: skip
        self._nodes[node] = self._ray_start(node, arguments, environment={})

    def _ray_start(
        self, node: str, arguments: Sequence[str], *, environment: dict[str, str]
    ) -> subprocess.Popen[str]:
        is_head = node == HEAD
        address = self._network.head_address if is_head else self._network.address(node)
        command = [
            *([] if is_head else self._network.enter(node)), str(BIN / "ray"), "start", *arguments,
            f"--node-ip-address={address}", f"--object-store-memory={STORE_BYTES}",
            f"--dashboard-agent-listen-port={_free_port()}", "--min-worker-port=0", "--max-worker-port=0",
            "--disable-usage-stats",
        ]  # fmt: skip
        environment = {**self.environment, **HUNG_WORKER_SETTINGS, NODE_VARIABLE: node, **environment}
        return self._family.spawn(command, environment=environment, log=self._log(node))

    def _kill(self, node: str) -> None:
        killed = self._family.of_node(node)
        for process in killed:
            self._family.send(process.pid, signal.SIGKILL)
        psutil.wait_procs(killed, timeout=5)
        self._family.reap()

    def _log(self, node: str) -> Path:
        return self._logs / f"node-{node}.log"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
