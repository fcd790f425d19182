"""What faults act on: the cluster, the run, what is seen of both, and the disk that the run writes to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Literal

from benchmarks.chaos.cluster import NODES, Cluster
from benchmarks.chaos.driver import Driver
from benchmarks.chaos.processes import Family
from benchmarks.chaos.watch import Watch

Role = Literal["rollout", "verifier"]
MEND_EVERY_S = 1.0


class NoVictimError(Exception):
    """There is nothing at the moment that this fault could hit."""


class World:
    """`mend` keeps everything going that is not the product's business: nodes, the watch, an ended driver."""

    def __init__(
        self,
        *,
        family: Family,
        cluster: Cluster,
        driver: Driver,
        watch: Watch,
        disk: Path | None,
        seed: int,
    ) -> None:
        self.family = family
        self.cluster = cluster
        self.driver = driver
        self.disk = disk
        self.random = Random(seed)
        self.best_step = 0
        """The highest that was ever seen."""
        self.held: set[str] = set()
        """Nodes that a fault has in hand: no other chooses them."""
        self.watch = watch
        self._mended_s = 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """The controller's; empty where none answers."""
        return self.watch.view.facts

    @property
    def step(self) -> int:
        return int(self.facts.get("step", 0))

    @property
    def nodes(self) -> dict[str, str]:
        return self.watch.view.nodes

    def mend(self) -> None:
        """Once a second at most."""
        self.best_step = max(self.best_step, self.step)
        if time.monotonic() < self._mended_s + MEND_EVERY_S:
            return
        self._mended_s = time.monotonic()
        self.family.reap()
        self.cluster.mend()
        self.watch.mend()
        self.driver.mend(self.best_step)

    def workers(self, role: Role) -> list[dict[str, Any]]:
        """Those that work, and are not asked to leave."""
        workers = self.facts.get(f"{role}_workers", [])
        is_up: Callable[[dict[str, Any]], bool] = (
            (lambda worker: worker["serving"])
            if role == "rollout"
            else (lambda worker: "verifiers" in worker["startup_s"])
        )
        return [worker for worker in workers if is_up(worker) and not worker["leaving"]]

    def pids(self, role: Role) -> set[int]:
        """Of all workers that the controller has."""
        return {worker["pid"] for worker in self.facts.get(f"{role}_workers", [])}

    @property
    def is_whole(self) -> bool:
        """The run trains, all nodes are there, and all workers work."""
        facts = self.facts
        return (
            facts.get("stage") == "training"
            and self.nodes.keys() == NODES.keys()
            and all(len(self.workers(role)) == facts["targets"][role] for role in ("rollout", "verifier"))
        )

    def strike(self, pid: int, number: signal.Signals) -> None:
        """Raises NoVictimError where that process is not there any more."""
        if not self.family.send(pid, number):
            raise NoVictimError
