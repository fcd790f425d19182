"""A worker as the controller knows it, from the moment it is asked for."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from actors.worker import RolloutFacts
from cluster.fleet.calls import Halt, WorkerLost, reply
from cluster.fleet.slots import MAX_FAILED_STARTS, Slot

PLACEMENT_NOTICE_S = 20.0
"""A process is up within seconds of getting its resources; one that takes longer is waiting for them."""
FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 300.0


def pause_s(num_failed_starts: int) -> float:
    """Before a slot's worker is started again: none at first, for what a start fails of is often gone at once; from
    MAX_FAILED_STARTS in a row on FIRST_PAUSE_S, twice as long each time.
    """
    if num_failed_starts < MAX_FAILED_STARTS:
        return 0.0
    return min(FIRST_PAUSE_S * 2.0 ** (num_failed_starts - MAX_FAILED_STARTS), LONGEST_PAUSE_S)


@dataclass(slots=True, kw_only=True, eq=False)
class WorkerHandle:
    """Name, actor, and how its start went."""

    name: str
    actor: Any
    slot: Slot
    made_s: float = field(default_factory=time.monotonic)
    pid: int = 0
    node_id: str = ""
    address: str = ""
    """Of its node."""
    startup_s: dict[str, float] = field(default_factory=dict)
    """Seconds that each phase of its start took, in their order; their sum counts from its making."""
    silent: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while it is suspected: it has not answered for longer than it should."""
    has_started: bool = False
    """It works, or did before it fell silent."""
    lost: WorkerLost | None = None
    """Why it is being given up, when that was found elsewhere than in its own loop."""

    @property
    def is_late(self) -> bool:
        """No node had room for it in time, as far as one can tell by how long that takes."""
        return self.startup_s.get("placed", time.monotonic() - self.made_s) > PLACEMENT_NOTICE_S

    @property
    def waits_for_resources(self) -> bool:
        return self.is_late and not self.pid

    def describe(self) -> dict[str, Any]:
        """What `bonfire status` shows of it."""
        return {
            "name": self.name,
            "pid": self.pid,
            "node_id": self.node_id,
            "leaving": self.slot.is_leaving,
            "silent": self.silent.is_set(),
            "startup_s": dict(self.startup_s),
        }

    def end_phase(self, phase: str) -> None:
        """A phase of its start is over."""
        self.startup_s[phase] = time.monotonic() - self.made_s - sum(self.startup_s.values())

    async def place(self) -> None:
        """Wait until Ray has found resources for it and its process is up, however long that takes."""
        facts = await self.ping(timeout_s=None, doing="being placed")
        self.pid, self.node_id, self.address = facts["pid"], facts["node_id"], facts["address"]
        self.end_phase("placed")

    async def ping(self, *, timeout_s: float | None, doing: str) -> dict[str, Any]:
        """Pid and node, its sign of life."""
        facts: dict[str, Any] = await reply(
            self.actor.place.remote(), timeout_s=timeout_s, of=self.name, doing=doing
        )
        return facts

    def begin_work(self) -> None:
        """Its start is over."""
        self.has_started = self.slot.is_working = True
        self.slot.failed_starts = 0

    def suspect(self, late_s: float) -> str:
        """It has not answered for so long; returns what to say of it."""
        self.silent.set()
        self.slot.is_working = False
        return f"{self.name} has not answered for {late_s:g} s: others may take its groups"

    def trust(self) -> str:
        """It answers again, and can work; returns what to say of it."""
        self.silent.clear()
        self.slot.is_working = True
        return f"{self.name} answers again"

    async def make_ready(self, *, timeout_s: float, doing: str, phase: str) -> dict[str, Any]:
        """What it says of itself once it can work."""
        if self.address and not self.address.startswith("127."):  # of many nodes one may lack a file
            doing = f"{doing} on {self.address}"
        facts: dict[str, Any] = await reply(
            self.actor.ready.remote(), timeout_s=timeout_s, of=self.name, doing=doing
        )
        self.end_phase(phase)
        return facts


@dataclass(slots=True, kw_only=True, eq=False)
class RolloutHandle(WorkerHandle):
    """One living rollout worker."""

    version: int = -1
    serving: bool = False
    facts: RolloutFacts | None = None
    num_leased: int = 0
    """Sequences since its start, whatever became of them."""

    @property
    def num_unfinished(self) -> int:
        """Sequences it has yet to finish: those it told of last, and those leased to it since."""
        if self.facts is None:
            return self.num_leased
        return self.facts.num_unfinished + self.num_leased - self.facts.num_leased

    def describe(self) -> dict[str, Any]:
        counted = dataclasses.asdict(self.facts) if self.facts else {}
        # Without arguments super() does not find a class that slots have made anew.
        about = WorkerHandle.describe(self)
        return {**counted, **about, "version": self.version, "serving": self.serving}

    @property
    def takes_leases(self) -> bool:
        return self.serving and not self.slot.is_leaving


def judge_failed_start(worker: WorkerHandle, error: WorkerLost, others: Iterable[WorkerHandle]) -> float:
    """Seconds to wait before its slot's next start; `error` says so where that is not at once.

    Raises Halt after MAX_FAILED_STARTS in a row where none of `others` works or may still come to work: the rest fail
    like it, or wait for resources.
    """
    slot = worker.slot
    slot.failed_starts += 1
    error.is_failed_start = True
    if slot.failed_starts < MAX_FAILED_STARTS:
        return 0.0
    times = f"{slot.failed_starts} starts of it in a row have failed"
    has_hope = any(
        other.slot.failed_starts < MAX_FAILED_STARTS and not other.waits_for_resources
        for other in others
        if other.slot is not slot and not other.slot.is_leaving
    )
    if not has_hope:
        raise Halt(f"no {worker.name.partition('-')[0]} worker starts: {error}; {times}") from error
    seconds = pause_s(slot.failed_starts)
    error.args = (f"{error}; {times}: the next one in {seconds:.0f} s",)
    return seconds
