"""What Ray and a run's controller say, a line of JSON twice a second: `python -m benchmarks.chaos.watch ADDRESS RUN`.

A process of its own: a client of Ray may hang, or be ended by Ray, when the cluster is hurt. It is then started again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.cluster import HEAD, NODES, Cluster
from benchmarks.chaos.processes import NODE_VARIABLE, Family

LOOK_S = 0.5
ANSWER_TIMEOUT_S = 5.0
FRESH_S = 5.0
SILENT_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was seen at one time."""

    facts: dict[str, Any] = field(default_factory=dict)
    """The controller's; empty where none answered."""
    nodes: dict[str, str] = field(default_factory=dict)
    """Name to id of the nodes that Ray holds for alive; empty where Ray did not answer."""
    at_s: float = 0.0


class Watch:
    """Keeps a watching process alive, and knows what it saw last."""

    def __init__(self, family: Family, cluster: Cluster, run: str, log: Path) -> None:
        self._family = family
        self._cluster = cluster
        self._run = run
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._newest = View()

    @property
    def view(self) -> View:
        """Empty when what was seen last is old."""
        return self._newest if time.monotonic() < self._newest.at_s + FRESH_S else View()

    def mend(self) -> None:
        """Start the process where it has ended, or has said nothing for long."""
        if self._process is not None and self._process.poll() is None:
            if time.monotonic() < self._newest.at_s + SILENT_S:
                return
            self._process.kill()
        command = [sys.executable, "-m", "benchmarks.chaos.watch", self._cluster.address, self._run]
        environment = {**self._cluster.environment, NODE_VARIABLE: HEAD}
        self._process = self._family.spawn(command, environment=environment, log=self._log, piped=True)
        self._newest = View(at_s=time.monotonic())
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if process is self._process and line.startswith("{"):  # Ray writes there too
                self._newest = View(**json.loads(line), at_s=time.monotonic())


def look(run: str) -> dict[str, Any]:
    """Raises RayError, or ValueError where there is no controller."""
    import ray

    from cluster.fleet.ray_cluster import CONTROLLER_NAME

    seen: dict[str, Any] = {"nodes": {}, "facts": {}}
    for node in ray.nodes():
        if node["Alive"]:
            seen["nodes"] |= {name: node["NodeID"] for name in NODES if name in node["Resources"]}
    try:
        controller = ray.get_actor(CONTROLLER_NAME, namespace=run)
        seen["facts"] = ray.get(controller.facts.remote(), timeout=ANSWER_TIMEOUT_S)
    except (ValueError, ray.exceptions.RayError) as error:
        print(repr(error), file=sys.stderr)
    return seen


def main() -> None:
    address, run = sys.argv[1:]
    from cluster.jobs.joining import connect
    from cluster.run_directory.record import without_infinities

    connect(address, local=False)
    while True:
        seen = look(run)
        seen["facts"] = without_infinities(seen["facts"])
        print(json.dumps(seen), flush=True)
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main()
