"""One worker in each slot, and the next one when it is lost: what both fleets do alike.

| loop             | waits for                          | unblocked by                    |
|------------------|------------------------------------|---------------------------------|
| `_tend` (a slot) | resources for its worker           | a node; or the slot is to leave |
|                  | its work: `_work` of each fleet    | the worker; or it is lost       |
|                  | a pause, where it starts in vain   | the clock; or it is to leave    |
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from cluster.fleet.calls import WorkerLost
from cluster.fleet.handles import WorkerHandle, judge_failed_start
from cluster.fleet.scaling import Role
from cluster.fleet.slots import Slot, Slots

Handle = TypeVar("Handle", bound=WorkerHandle)


class Fleet(ABC, Generic[Handle]):
    """Keeps `slots.size` workers alive, `size` to begin with.

    `on_lost` hears of each that is lost; `on_news` how one left that was asked to, for which it has `leave_within_s`, None:
    as long as it takes.
    """

    def __init__(
        self,
        role: Role,
        *,
        size: int,
        leave_within_s: float | None,
        on_lost: Callable[[str, WorkerLost], None],
        on_news: Callable[[str], None],
    ) -> None:
        self._role = role
        self._size = size
        self._on_lost = on_lost
        self._on_news = on_news
        self.slots = Slots(self._tend, leave_within_s=leave_within_s)
        self.workers: dict[str, Handle] = {}
        self.num_restarts = 0

    def start(self) -> asyncio.Task[None]:
        """Start all workers. The task ends when a callback raises, and with Halt when none of them starts.

        One that does not while others do is tried again after a pause.
        """
        return self.slots.start(self._size)

    async def stop(self) -> None:
        """End all workers."""
        await self.slots.stop()
        for worker in list(self.workers.values()):
            self._remove(worker)

    async def _tend(self, slot: Slot) -> None:
        """One slot: a worker, and the next one when it is lost, until the slot is to leave."""
        while not slot.is_leaving:
            worker = self._create(slot)
            self.workers[worker.name] = worker
            try:
                await self._serve(worker)
                self._leave(worker)
            except WorkerLost as error:
                self._remove(worker)
                slot.is_initial = False
                lost = worker.lost or error
                lost.made_s = worker.made_s
                if slot.is_leaving:
                    self._on_news(f"{lost}, when it was to leave")
                else:
                    self.num_restarts += 1
                    pause_s = 0.0
                    if not worker.has_started:
                        pause_s = judge_failed_start(worker, lost, self.workers.values())
                    self._on_lost(self._role, lost)
                    self.slots.settle(slot, is_lost=True)
                    await slot.unless_leaving(asyncio.sleep(pause_s))
            self._pass_on()

    async def _serve(self, worker: Handle) -> None:
        """Until the worker's slot is to leave, and its last work or its time is over."""
        async with worker.slot.until_deadline():
            if await worker.slot.unless_leaving(self._bring_up(worker)):
                await self._work(worker)

    @abstractmethod
    def _create(self, slot: Slot) -> Handle:
        """Ask Ray for the slot's next worker."""

    @abstractmethod
    async def _bring_up(self, worker: Handle) -> bool:
        """True, once the worker is placed and can work."""

    @abstractmethod
    async def _work(self, worker: Handle) -> None:
        """Until the worker's slot is to leave, and what the worker still does then is done."""

    @abstractmethod
    def _leave(self, worker: Handle) -> None:
        """Remove a worker that was asked to leave, and say so."""

    @abstractmethod
    def _remove(self, worker: Handle) -> None:
        """End its process and give back what it had."""

    @abstractmethod
    def _pass_on(self) -> None:
        """Give others what a worker had that is gone."""
