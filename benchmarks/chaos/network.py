"""A network of its own for every Ray node of this machine, so that one can be cut off from the others.

A network namespace a node, joined by a bridge. A node that is cut off keeps its carrier and its addresses: its packets
are dropped, as behind a switch that failed, and nobody is told. Needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

DISABLED, FORWARDING = "0", "3"  # states of a bridge's port
NOWHERE = "127.0.0.1"


def why_not_separate() -> str:
    """Why nodes cannot have networks of their own here; empty where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [command for command in ("ip", "bridge") if shutil.which(command) is None]
    if missing:
        return f"{' and '.join(missing)} (iproute2) not installed"
    name = f"bf{os.getpid()}"
    commands = [
        ["netns", "add", name],
        ["link", "add", f"{name}b", "type", "bridge"],
        ["link", "del", f"{name}b"],
        ["netns", "del", name],
    ]
    try:
        for command in commands:
            _ip(*command)
    except RuntimeError as error:
        for command in commands[2:]:
            subprocess.run(["ip", *command], capture_output=True, check=False, timeout=10)
        return str(error)
    return ""


class Network:
    """Addresses for a head and some nodes; one on 127.0.0.1 for all unless they are `separate`."""

    def __init__(self, nodes: Sequence[str], *, separate: bool) -> None:
        number = os.getpid() % 250 + 1
        self.is_separate = separate
        self._prefix = f"198.18.{number}"  # RFC 2544: for benchmarks, routed nowhere
        self._tag = f"bf{number}"
        self._indices = {node: index for index, node in enumerate(nodes, start=2)}

    def __enter__(self) -> Self:
        if not self.is_separate:
            return self
        self._remove()
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("address", "add", f"{self.head_address}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for node in self._indices:
                space, port = self._space(node), self._port(node)
                _ip("netns", "add", space)
                _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
                _ip("link", "set", port, "master", self._bridge, "up")
                _ip("-n", space, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-n", space, "link", "set", device, "up")
                _ip("-n", space, "route", "add", "default", "via", self.head_address)
        except RuntimeError:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_separate:
            self._remove()

    @property
    def head_address(self) -> str:
        return f"{self._prefix}.1" if self.is_separate else NOWHERE

    def address(self, node: str) -> str:
        return f"{self._prefix}.{self._indices[node]}" if self.is_separate else NOWHERE

    def enter(self, node: str) -> list[str]:
        """What a command begins with that is to run in a node's network."""
        return ["ip", "netns", "exec", self._space(node)] if self.is_separate else []

    def cut(self, node: str) -> None:
        """From now on no packet passes between the node and all others."""
        _run("bridge", "link", "set", "dev", self._port(node), "state", DISABLED)

    def join(self, node: str) -> None:
        """Packets pass again."""
        _run("bridge", "link", "set", "dev", self._port(node), "state", FORWARDING)

    @property
    def _bridge(self) -> str:
        return f"{self._tag}b"

    def _space(self, node: str) -> str:
        return f"{self._tag}-{node}"

    def _port(self, node: str) -> str:
        return f"{self._tag}p{self._indices[node]}"

    def _remove(self) -> None:
        """What is there of it, if anything is."""
        for command in (
            *(["link", "del", self._port(node)] for node in self._indices),
            *(["netns", "del", self._space(node)] for node in self._indices),
            ["link", "del", self._bridge],
        ):
            subprocess.run(["ip", *command], capture_output=True, check=False, timeout=10)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    """Raises RuntimeError, in one line."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
