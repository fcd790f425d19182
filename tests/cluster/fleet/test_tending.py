"""What becomes of a slot whose worker is lost, and in which order; the workers are no actors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from cluster.fleet.calls import WorkerLost
from cluster.fleet.handles import WorkerHandle
from cluster.fleet.slots import Slot
from cluster.fleet.tending import Fleet
from tests.shared.loops import in_a_loop, settle


class Workshop(Fleet[WorkerHandle]):
    """Its workers work until they are told how they end."""

    def __init__(self, *, starts: bool = True, leaves_in_order: bool = True) -> None:
        self.log: list[Any] = []
        super().__init__(
            "rollout",
            size=1,
            leave_within_s=None,
            on_lost=lambda role, error: self.log.append(("lost", role, error)),
            on_news=lambda text: self.log.append(("news", text)),
        )
        self._starts = starts
        self._leaves_in_order = leaves_in_order
        self.end: asyncio.Event = asyncio.Event()
        self.slots_seen: list[Slot] = []

    def _create(self, slot: Slot) -> WorkerHandle:
        self.slots_seen.append(slot)
        self.log.append(("create", slot.is_initial))
        return WorkerHandle(name=f"rollout-{len(self.slots_seen) - 1}", actor=None, slot=slot)

    async def _bring_up(self, worker: WorkerHandle) -> bool:
        await asyncio.sleep(0)
        if not self._starts:
            raise WorkerLost(f"{worker.name} does not start")
        worker.begin_work()
        return True

    async def _work(self, worker: WorkerHandle) -> None:
        await worker.slot.unless_leaving(self.end.wait())
        if self.end.is_set() or not self._leaves_in_order:
            self.end.clear()
            raise WorkerLost(f"{worker.name} was lost")

    def _leave(self, worker: WorkerHandle) -> None:
        self._remove(worker)
        self.log.append(("left", worker.name))

    def _remove(self, worker: WorkerHandle) -> None:
        self.log.append(("remove", worker.name))
        del self.workers[worker.name]

    def _pass_on(self) -> None:
        self.log.append("pass on")


def run(scenario: Callable[[Workshop], Awaitable[None]], **settings: Any) -> Workshop:
    workshops = []

    async def in_a_workshop() -> None:
        workshop = Workshop(**settings)
        workshops.append(workshop)
        workshop.start()
        await settle()
        await scenario(workshop)
        await workshop.stop()

    in_a_loop(in_a_workshop)
    return workshops[0]


def test_a_lost_worker_is_removed_told_of_and_followed_by_another_at_once() -> None:
    made_s: list[float] = []

    async def lose(workshop: Workshop) -> None:
        made_s.extend(worker.made_s for worker in workshop.workers.values())
        workshop.end.set()
        await settle()
        assert list(workshop.workers) == ["rollout-1"] and workshop.num_restarts == 1

    workshop = run(lose)
    (_, role, error) = workshop.log[2]
    assert (role, str(error), error.made_s) == ("rollout", "rollout-0 was lost", made_s[0])
    assert not error.is_failed_start
    del workshop.log[2]
    # Only the first worker of a slot is one of those that the run begins with.
    assert workshop.log[:4] == [("create", True), ("remove", "rollout-0"), "pass on", ("create", False)]


def test_why_a_worker_was_given_up_elsewhere_is_what_is_told() -> None:
    async def lose(workshop: Workshop) -> None:
        [worker] = workshop.workers.values()
        worker.lost = WorkerLost("rollout-0 did not confirm version 3")
        workshop.end.set()
        await settle()

    assert [str(entry[2]) for entry in run(lose).log if entry[0] == "lost"] == [
        "rollout-0 did not confirm version 3"
    ]


def test_a_worker_that_never_started_is_counted_as_such() -> None:
    async def look(workshop: Workshop) -> None:
        await settle()

    lost = [entry[2] for entry in run(look, starts=False).log if entry[0] == "lost"]
    assert lost and all(error.is_failed_start for error in lost)


def test_a_worker_that_is_lost_when_it_was_to_leave_is_news_and_no_loss() -> None:
    async def leave(workshop: Workshop) -> None:
        [slot] = workshop.slots_seen
        slot.leave(None)
        await settle()
        assert not workshop.workers and workshop.num_restarts == 0

    assert run(leave, leaves_in_order=False).log == [
        ("create", True),
        ("remove", "rollout-0"),
        ("news", "rollout-0 was lost, when it was to leave"),
        "pass on",
    ]


def test_a_worker_that_is_asked_to_leave_is_removed_in_order_and_not_followed() -> None:
    async def leave(workshop: Workshop) -> None:
        [slot] = workshop.slots_seen
        slot.leave(None)
        await settle()
        assert not workshop.workers

    assert run(leave).log == [("create", True), ("remove", "rollout-0"), ("left", "rollout-0"), "pass on"]
