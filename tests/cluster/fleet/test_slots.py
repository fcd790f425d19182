"""Slots come and go while they run; none is cut off that was asked to leave in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from cluster.fleet.slots import Slot, Slots
from tests.shared.loops import in_a_loop, settle


class Workplace:
    """Tends slots as a fleet does: each works until it is to leave, then takes `to_leave_s` to tidy up."""

    def __init__(self, *, to_leave_s: float = 0.0, leave_within_s: float | None = None) -> None:
        self.to_leave_s = to_leave_s
        self.working: list[int] = []
        self.left: list[int] = []
        self.cut_off: list[int] = []
        self.slots_by_number: dict[int, Slot] = {}
        self.slots = Slots(self._tend, leave_within_s=leave_within_s)

    async def _tend(self, slot: Slot) -> None:
        number = len(self.slots_by_number)
        self.slots_by_number[number] = slot
        self.working.append(number)
        ended = self.cut_off
        try:
            async with slot.until_deadline():
                await slot.unless_leaving(asyncio.sleep(3600))
                await asyncio.sleep(self.to_leave_s)
                ended = self.left
            ended.append(number)
        finally:
            self.working.remove(number)


def test_slots_are_added_and_the_newest_leave_first() -> None:
    async def scenario() -> None:
        place = Workplace()
        running = place.slots.start(2)
        await settle()
        assert place.working == [0, 1]
        place.slots.resize(4)
        await settle()
        assert place.working == [0, 1, 2, 3] and place.slots.size == 4
        place.slots.resize(1)
        assert place.slots.size == 1  # they count no more, though they are still there
        await settle()
        assert place.working == [0] and sorted(place.left) == [1, 2, 3] and place.cut_off == []
        assert not running.done()
        await place.slots.stop()
        assert place.working == [] and sorted(place.left) == [1, 2, 3]
        running.cancel()

    in_a_loop(scenario)


def test_of_several_slots_those_that_do_not_work_yet_leave_first() -> None:
    async def scenario() -> None:
        place = Workplace()
        place.slots.start(4)
        await settle()
        for number in (1, 2):
            place.slots_by_number[number].is_working = True
        for size, left in ((3, [3]), (2, [3, 0]), (1, [3, 0, 2])):
            place.slots.resize(size)
            await settle()
            assert place.left == left
        await place.slots.stop()

    in_a_loop(scenario)


def test_only_the_first_slots_are_initial() -> None:
    async def scenario() -> None:
        place = Workplace()
        place.slots.start(1)
        await settle()
        place.slots.resize(2)
        await settle()
        assert [slot.is_initial for slot in place.slots_by_number.values()] == [True, False]
        await place.slots.stop()

    in_a_loop(scenario)


def test_a_slot_that_leaves_is_not_taken_back() -> None:
    async def scenario() -> None:
        place = Workplace(to_leave_s=0.2)
        place.slots.start(2)
        await settle()
        place.slots.resize(1)
        await settle()
        place.slots.resize(2)
        await settle()
        assert place.working == [0, 1, 2] and place.slots.size == 2
        while 1 in place.working:
            await asyncio.sleep(0.01)
        assert place.working == [0, 2] and place.left == [1]
        await place.slots.stop()

    in_a_loop(scenario)


def test_a_slot_has_its_time_to_leave_and_no_more() -> None:
    async def scenario() -> None:
        place = Workplace(to_leave_s=30.0, leave_within_s=0.2)
        place.slots.start(2)
        await settle()
        place.slots.resize(1)
        started_s = time.monotonic()
        while not place.cut_off:
            await asyncio.sleep(0.01)
        assert 0.15 < time.monotonic() - started_s < 15.0
        assert place.cut_off == [1] and place.working == [0]
        await place.slots.stop()

    in_a_loop(scenario)


def test_a_replaced_slot_leaves_by_the_earlier_deadline_and_another_starts_at_once() -> None:
    async def scenario() -> None:
        place = Workplace(to_leave_s=30.0, leave_within_s=20.0)
        place.slots.start(2)
        await settle()
        started_s = time.monotonic()
        place.slots.replace(place.slots_by_number[0], 0.2)
        await settle()
        assert place.working == [0, 1, 2] and place.slots.size == 2
        while not place.cut_off:
            await asyncio.sleep(0.01)
        assert time.monotonic() - started_s < 15.0 and place.working == [1, 2]
        await place.slots.stop()

    in_a_loop(scenario)


def test_a_deadline_that_is_moved_up_holds_for_a_slot_that_leaves_already() -> None:
    async def scenario() -> None:
        place = Workplace(to_leave_s=30.0)
        place.slots.start(1)
        await settle()
        place.slots.resize(0)
        await settle()
        place.slots_by_number[0].leave(0.1)
        place.slots_by_number[0].leave(3600.0)
        while not place.cut_off:
            await asyncio.sleep(0.01)
        assert place.cut_off == [0]

    in_a_loop(scenario)


def test_a_slot_whose_deadline_is_over_may_be_told_again_while_it_tidies_up() -> None:
    """As a node that drains is looked at every second."""

    async def scenario() -> None:
        slot = Slot(is_initial=True)

        async def tend() -> None:
            async with slot.until_deadline():
                await asyncio.sleep(3600)

        task = asyncio.create_task(tend())
        await settle()
        slot.leave(0.0)
        await asyncio.sleep(0)
        assert not task.done()  # its deadline is over, and it has not had its turn since
        slot.leave(0.0)
        await task

    in_a_loop(scenario)


def test_the_first_failure_of_any_slot_is_raised_also_of_one_added_later() -> None:
    async def scenario() -> None:
        made: list[Slot] = []

        async def tend(slot: Slot) -> None:
            made.append(slot)
            if len(made) == 3:
                raise RuntimeError("the third")
            await slot.unless_leaving(asyncio.sleep(3600))

        slots = Slots(tend, leave_within_s=None)
        running = slots.start(2)
        await settle()
        assert not running.done()
        slots.resize(3)
        with pytest.raises(RuntimeError, match="the third"):
            await running
        assert slots.size == 2
        await slots.stop()

    in_a_loop(scenario)


def test_work_that_is_done_when_the_slot_is_to_leave_is_not_lost() -> None:
    """As a group that a verifier has just taken from the queue."""

    async def scenario() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        taken: list[int | None] = []

        async def tend(slot: Slot) -> None:
            while (item := await slot.unless_leaving(queue.get())) is not None:
                taken.append(item)

        slots = Slots(tend, leave_within_s=None)
        slots.start(1)
        await settle()
        queue.put_nowait(1)
        slots.resize(0)
        await settle()
        assert taken == [1] and queue.empty()
        await slots.stop()

    in_a_loop(scenario)


def test_a_slot_leaves_though_there_is_always_more_to_do() -> None:
    """As a verifier before which groups queue up."""

    async def scenario() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        taken: list[int] = []

        async def tend(slot: Slot) -> None:
            while (item := await slot.unless_leaving(queue.get())) is not None:
                taken.append(item)
                await asyncio.sleep(0.01)

        for item in range(100):
            queue.put_nowait(item)
        slots = Slots(tend, leave_within_s=None)
        slots.start(1)
        await settle()
        slots.resize(0)
        await asyncio.sleep(0.1)
        assert taken == [0] and queue.qsize() == 99
        await slots.stop()

    in_a_loop(scenario)


def test_what_a_slot_does_raises_through_unless_leaving() -> None:
    async def scenario() -> None:
        slot = Slot(is_initial=True)

        async def fails() -> None:
            raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            await slot.unless_leaving(fails())

    in_a_loop(scenario)


def test_a_timeout_of_the_work_itself_is_not_taken_for_the_deadline() -> None:
    async def scenario() -> None:
        slot = Slot(is_initial=True)
        slot.leave(within_s=3600)
        with pytest.raises(TimeoutError, match="its own"):
            async with slot.until_deadline():
                raise TimeoutError("its own")

    in_a_loop(scenario)


# --- stand-ins


def with_a_stand_in(size: int, scenario: Callable[[Workplace, Slot, Slot], Awaitable[None]]) -> None:
    """`scenario(place, silent, stand_in)` in a place of so many slots, of which the last is silent."""

    async def run() -> None:
        place = Workplace()
        place.slots.start(size)
        await settle()
        silent = place.slots_by_number[size - 1]
        place.slots.send_stand_in(silent)
        await settle()
        await scenario(place, silent, place.slots_by_number[size])
        await place.slots.stop()

    in_a_loop(run)


def test_of_a_slot_that_is_lost_and_its_stand_in_the_stand_in_stays() -> None:
    async def scenario(place: Workplace, silent: Slot, stand_in: Slot) -> None:
        # A stand-in counts no more than whom it stands for.
        assert place.working == [0, 1, 2] and place.slots.size == 2
        place.slots.settle(silent, is_lost=True)
        await settle()
        assert place.working == [0, 2] and place.slots.size == 2

    with_a_stand_in(2, scenario)


@pytest.mark.parametrize(("stand_in_works", "stays"), [(False, 1), (True, 2)])
def test_of_a_slot_that_works_again_and_its_stand_in_whoever_works_longer_stays(
    stand_in_works, stays
) -> None:
    async def scenario(place: Workplace, silent: Slot, stand_in: Slot) -> None:
        stand_in.is_working = stand_in_works
        silent.is_working = True
        place.slots.settle(silent, is_lost=False)
        await settle()
        assert place.working == [0, stays] and place.slots.size == 2
        place.slots.settle(place.slots_by_number[stays], is_lost=True)  # it is an ordinary slot now
        await settle()
        assert place.working == [0, stays]

    with_a_stand_in(2, scenario)


@pytest.mark.parametrize(("leaves_first", "stays"), [("the silent one", 1), ("its stand-in", 0)])
def test_one_slot_remains_when_nodes_drain_that_have_a_silent_one_or_its_stand_in(
    leaves_first, stays
) -> None:
    async def scenario(place: Workplace, silent: Slot, stand_in: Slot) -> None:
        place.slots.replace(silent if leaves_first == "the silent one" else stand_in, 1.0)
        await settle()
        assert place.slots.size == 1
        assert place.working == [stays]

    with_a_stand_in(1, scenario)


def test_with_a_silent_slot_its_stand_in_leaves() -> None:
    async def scenario(place: Workplace, silent: Slot, stand_in: Slot) -> None:
        place.slots_by_number[0].is_working = True
        place.slots.resize(1)
        await settle()
        assert place.working == [0] and place.slots.size == 1
        place.slots.resize(2)
        await settle()
        assert place.working == [0, 3]

    with_a_stand_in(2, scenario)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_stand_in_stays_one_whatever_becomes_of_its_worker(is_lost) -> None:
    async def scenario(place: Workplace, silent: Slot, stand_in: Slot) -> None:
        place.slots.settle(stand_in, is_lost=is_lost)
        await settle()
        assert place.working == [0, 1] and place.slots.size == 1
        assert not silent.may_have_stand_in and not stand_in.may_have_stand_in
        place.slots.settle(silent, is_lost=True)
        await settle()
        assert place.working == [1] and place.slots.size == 1

    with_a_stand_in(1, scenario)


def test_of_two_silent_slots_the_one_whose_stand_in_works_stays() -> None:
    async def scenario(place: Workplace, silent: Slot, stand_in: Slot) -> None:
        stand_in.is_working = True
        place.slots.resize(1)
        await settle()
        assert place.working == [1, 2] and place.slots.size == 1

    with_a_stand_in(2, scenario)


def test_a_stand_in_that_has_failed_to_start_does_not_take_the_place_of_a_slot_that_is_lost() -> None:
    """It may have failed for lack of what the lost one held, such as a GPU's memory."""

    async def scenario(place: Workplace, silent: Slot, stand_in: Slot) -> None:
        stand_in.failed_starts = 1
        place.slots.settle(silent, is_lost=True)
        await settle()
        assert place.working == [0] and place.slots.size == 1

    with_a_stand_in(1, scenario)
