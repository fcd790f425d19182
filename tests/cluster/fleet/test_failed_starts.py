"""A worker that cannot start: tried again, ever more seldom, and the end of a run only where none starts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.config import RolloutConfig
from cluster.fleet.calls import Halt, WorkerLost
from cluster.fleet.handles import PLACEMENT_NOTICE_S, WorkerHandle, judge_failed_start
from cluster.fleet.rollouts import RolloutFleet, RolloutHandle
from cluster.fleet.slots import MAX_FAILED_STARTS, Slot
from tests.shared.loops import settle


class Fleet(RolloutFleet):
    """A real fleet whose workers are no processes: those of the slots in `broken` never start, others at once."""

    def __init__(self, size: int) -> None:
        self.lost: list[str] = []
        super().__init__(
            config=RolloutConfig(workers=size),
            model="",
            works=[],
            synchronous=False,
            update_timeout_s=1.0,
            on_pieces=lambda worker, pieces: None,
            on_lost=lambda role, error: self.lost.append(str(error)),
        )
        self.broken: set[Slot] = set()
        self.tried: list[Slot] = []
        self._announced = asyncio.Event()

    def announce(self, published: Any) -> None:
        self._announced.set()

    def break_slots(self, *numbers: int) -> None:
        slots = list(self.slots._tasks)
        self.broken = {slots[number] for number in numbers}

    def _create(self, slot: Slot) -> RolloutHandle:
        self.tried.append(slot)
        return RolloutHandle(name=next(self._names), actor=None, slot=slot)

    async def _bring_up(self, worker: RolloutHandle) -> bool:
        await asyncio.sleep(0)
        if worker.slot in self.broken:
            raise WorkerLost(f"{worker.name} failed while starting its engine: no such GPU")
        await self._announced.wait()  # as real ones do, of which none serves before the learner is up
        worker.serving = True
        worker.begin_work()
        return True

    async def _collect(self, worker: RolloutHandle) -> None:
        await asyncio.sleep(3600)

    def _remove(self, worker: RolloutHandle) -> None:
        worker.serving = False
        del self.workers[worker.name]


def test_one_broken_place_of_eight_ends_no_run_that_still_waits_for_its_learner() -> None:
    async def scenario() -> None:
        fleet = Fleet(8)
        running = fleet.start()
        fleet.break_slots(3)
        await settle(turns=200)
        assert not running.done() and len(fleet.workers) == 7
        [broken] = fleet.broken
        assert fleet.tried.count(broken) == MAX_FAILED_STARTS  # the next one is some seconds away
        assert fleet.slots.num_failing == 1
        assert fleet.lost[-1].endswith(
            "no such GPU; 3 starts of it in a row have failed: the next one in 10 s"
        )
        fleet.slots.resize(7)  # which takes that one first, out of its pause
        await settle(turns=200)
        assert fleet.slots.num_failing == 0 and len(fleet.workers) == 7
        await fleet.slots.stop()
        running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_run_of_which_no_worker_starts_ends_with_what_the_last_one_said() -> None:
    async def scenario() -> None:
        fleet = Fleet(3)
        running = fleet.start()
        fleet.break_slots(0, 1, 2)
        with pytest.raises(
            Halt, match=r"^no rollout worker starts: rollout-\d failed .*no such GPU; 3 starts"
        ):
            await running
        await fleet.slots.stop()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def handle(*, failed_starts: int = 0, age_s: float = 0.0, is_leaving: bool = False) -> WorkerHandle:
    slot = Slot(is_initial=True)
    slot.failed_starts = failed_starts
    if is_leaving:
        slot.leave(None)
    worker = WorkerHandle(name="verifier-1", actor=None, slot=slot)
    worker.made_s -= age_s
    return worker


@pytest.mark.parametrize(
    "hopeless",
    [
        {"failed_starts": MAX_FAILED_STARTS},
        {"age_s": PLACEMENT_NOTICE_S + 1},  # waits for resources
        {"is_leaving": True},
    ],
)
def test_who_fails_or_waits_for_resources_or_leaves_is_no_hope_for_the_run(hopeless) -> None:
    async def scenario() -> None:
        worker, other = handle(failed_starts=MAX_FAILED_STARTS - 1), handle(**hopeless)
        with pytest.raises(Halt, match="^no verifier worker starts: "):
            judge_failed_start(worker, WorkerLost("verifier-1 failed"), [other])
        worker = handle(failed_starts=MAX_FAILED_STARTS - 1)
        assert judge_failed_start(worker, WorkerLost("verifier-1 failed"), [other, handle()]) == 10.0

    asyncio.run(scenario())


def test_the_first_failed_starts_are_followed_by_another_at_once() -> None:
    worker, error = handle(), WorkerLost("verifier-1 failed")
    assert [judge_failed_start(worker, error, []) for _ in range(MAX_FAILED_STARTS - 1)] == [0.0, 0.0]
    assert error.is_failed_start and str(error) == "verifier-1 failed"
