"""A number of tasks that changes while they run: the slots of a fleet. Knows no Ray.

A slot is asked to leave, never cancelled: its task ends by itself once it has put in order what it held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

MAX_FAILED_STARTS = 3
"""In a row: with more a slot is expected to fail again."""
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


async def unless(event: asyncio.Event, work: Awaitable[Result]) -> Result | None:
    """What `work` returns or raises; None, and `work` is cancelled, when the event is set first."""
    task = asyncio.ensure_future(work)
    stop = asyncio.create_task(event.wait())
    try:
        if not event.is_set():  # work that need not wait would come first, again and again
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stop.cancel()


class Slot:
    """One task's place, and whether and by when it is to be given up."""

    def __init__(self, *, is_initial: bool) -> None:
        self.is_initial = is_initial
        """A run begins with it, and with its first worker: False, set by who tends it, once that is lost."""
        self.is_working = False
        """Set by who tends it: of several slots those that do not work yet leave first."""
        self.failed_starts = 0
        """In a row, counted by who tends it."""
        self.stand_in: Slot | None = None
        """Works meanwhile, where this one has fallen silent."""
        self.stands_in_for: Slot | None = None
        self._leaving = asyncio.Event()
        self._deadline_s: float | None = None
        self._timeout: asyncio.Timeout | None = None

    @property
    def is_leaving(self) -> bool:
        return self._leaving.is_set()

    @property
    def may_have_stand_in(self) -> bool:
        """It has none, is none, and stays."""
        return not self.is_leaving and self.stand_in is None and self.stands_in_for is None

    @property
    def has_worker(self) -> bool:
        """One that works: its own or its stand-in's."""
        return self.is_working or (self.stand_in is not None and self.stand_in.is_working)

    def leave(self, within_s: float | None) -> None:
        """Ask its task to end in order; None: however long that takes. Of two deadlines the earlier holds."""
        self._leaving.set()
        if within_s is None:
            return
        deadline_s = asyncio.get_running_loop().time() + within_s
        self._deadline_s = deadline_s if self._deadline_s is None else min(self._deadline_s, deadline_s)
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self._deadline_s)

    @asynccontextmanager
    async def until_deadline(self) -> AsyncIterator[None]:
        """A block of the slot's task that ends where it is when the deadline is over, set before or meanwhile."""
        try:
            async with asyncio.timeout_at(self._deadline_s) as timeout:
                self._timeout = timeout
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
        finally:
            self._timeout = None

    async def unless_leaving(self, work: Awaitable[Result]) -> Result | None:
        """What `work` returns or raises; None, and `work` is cancelled, when the slot is asked to leave first."""
        return await unless(self._leaving, work)

    def part(self) -> Slot | None:
        """Be neither a stand-in nor have one from now on; returns the one it had."""
        stand_in, original = self.stand_in, self.stands_in_for
        self.stand_in = self.stands_in_for = None
        if stand_in is not None:
            stand_in.stands_in_for = None
        if original is not None:
            original.stand_in = None
        return stand_in


class Slots:
    """Runs `tend(slot)` for each slot; it returns only once its slot was asked to leave.

    A slot that leaves has `leave_within_s` for it, None: as long as it takes.
    """

    def __init__(self, tend: Callable[[Slot], Awaitable[None]], *, leave_within_s: float | None) -> None:
        self._tend = tend
        self._leave_within_s = leave_within_s
        self._tasks: dict[Slot, asyncio.Task[None]] = {}
        self._failed: asyncio.Future[None] | None = None

    @property
    def size(self) -> int:
        """Slots that stay, stand-ins not counted."""
        return len(self._staying)

    @property
    def num_failing(self) -> int:
        """Of those that stay."""
        return sum(slot.failed_starts >= MAX_FAILED_STARTS for slot in self._staying)

    @property
    def are_running(self) -> bool:
        return self._failed is not None

    @property
    def _staying(self) -> list[Slot]:
        return [slot for slot in self._tasks if not slot.is_leaving and slot.stands_in_for is None]

    def start(self, size: int) -> asyncio.Task[None]:
        """Make the initial slots. The task ends with the first failure of any slot, of these or of later ones,
        and with nothing else: slots that leave do not end it.
        """
        assert not self.are_running
        self._failed = asyncio.get_running_loop().create_future()
        for _ in range(size):
            self._add(is_initial=True)
        return asyncio.create_task(self._until_failed(self._failed))

    def resize(self, size: int) -> None:
        """Add slots until `size` of them stay, or ask to leave: those that fail, those that do not work yet, the newest."""
        assert size >= 0 and self.are_running
        staying = sorted(self._staying, key=lambda slot: (slot.failed_starts, not slot.has_worker))
        for _ in range(size - len(staying)):
            self._add(is_initial=False)
        for slot in staying[size:]:
            stand_in = slot.part()
            slot.leave(self._leave_within_s)
            if stand_in is not None:
                stand_in.leave(self._leave_within_s)

    def replace(self, slot: Slot, within_s: float | None) -> None:
        """Add a slot at once, and ask this one to leave, within `within_s` seconds if that is sooner than usual.

        None is added where it has a stand-in, which takes its place, or is one.
        """
        assert not slot.is_leaving
        is_stand_in = slot.stands_in_for is not None
        if slot.part() is None and not is_stand_in:
            self._add(is_initial=False)
        slot.leave(self._leave_within_s)
        slot.leave(within_s)

    def send_stand_in(self, slot: Slot) -> None:
        """Add a slot that works while this one is silent."""
        assert slot.may_have_stand_in
        slot.stand_in = self._add(is_initial=False)
        slot.stand_in.stands_in_for = slot

    def settle(self, slot: Slot, *, is_lost: bool) -> None:
        """This slot works again, or what it had is lost: of it and its stand-in, if there is one, one stays.

        The stand-in does where it works already, or the other is lost; not one that has failed to start, as it may have for
        lack of what was lost. What becomes of a stand-in itself changes nothing.
        """
        if slot.stands_in_for is not None:
            return
        stand_in = slot.part()
        if stand_in is None:
            return
        if stand_in.is_working or (is_lost and not stand_in.failed_starts):
            slot.leave(self._leave_within_s)
        else:
            stand_in.leave(self._leave_within_s)

    async def stop(self) -> None:
        """Cancel all slots' tasks and wait for them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _add(self, *, is_initial: bool) -> Slot:
        slot = Slot(is_initial=is_initial)
        self._tasks[slot] = asyncio.create_task(self._run(slot))
        return slot

    async def _run(self, slot: Slot) -> None:
        assert self._failed is not None
        try:
            await self._tend(slot)
        except Exception as error:  # noqa: BLE001 - it is raised where the fleet is waited for
            if self._failed.done():
                logger.warning("after another slot has failed: %r", error)
            else:
                self._failed.set_exception(error)
        finally:
            del self._tasks[slot]

    @staticmethod
    async def _until_failed(failed: asyncio.Future[None]) -> None:
        await failed
