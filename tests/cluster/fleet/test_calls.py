"""Who is taken for silent, and who is not."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from cluster.fleet.calls import STANDSTILL_S, listen


def heard(answer_after_s: float, *, stand_still_s: float = 0.0, after_s: float = 0.5) -> list[str]:
    """What happened, in order, when another thread answers so late and the loop stands still at first."""
    events: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        timer = threading.Timer(
            answer_after_s, lambda: loop.call_soon_threadsafe(answer.set_result, "answer")
        )
        timer.start()
        listening = asyncio.create_task(listen(answer, after_s, lambda: events.append("silent")))
        await asyncio.sleep(0)
        time.sleep(stand_still_s)  # noqa: ASYNC251 - the whole process is to stand still
        events.append(await listening)

    asyncio.run(run())
    return events


def test_who_answers_in_time_is_not_silent() -> None:
    assert heard(0.1) == ["answer"]


def test_who_answers_late_is_silent_once_and_heard_all_the_same() -> None:
    assert heard(1.3) == ["silent", "answer"]


def test_nobody_is_silent_because_the_one_who_listens_stood_still() -> None:
    assert heard(0.3, stand_still_s=0.5 + 2 * STANDSTILL_S) == ["answer"]


def test_who_does_not_answer_after_a_standstill_either_is_silent() -> None:
    assert heard(2.0, stand_still_s=0.5 + 2 * STANDSTILL_S) == ["silent", "answer"]


def test_what_the_answer_raises_is_raised_and_the_alarm_is_off() -> None:
    async def run() -> None:
        async def fails() -> None:
            raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            await listen(fails(), 0.05, lambda: pytest.fail("rang"))
        await asyncio.sleep(0.1)

    asyncio.run(run())
