"""Every wait for an actor that runs is bounded, and every way an actor can fail is one exception."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

DEATH_NOTICE_S = 2.0
"""An actor's connections break with it; that it died is known a little later."""
PING_TIMEOUT_S = 5.0
PING_EVERY_S = 1.0
STANDSTILL_S = 0.2
"""An event loop that runs an alarm so late stood still before."""
Result = TypeVar("Result")


class WorkerLost(Exception):
    """An actor died, hung or failed; whatever it held must be given to another."""

    made_s: float = float("inf")
    """When it was made, by the monotonic clock, where that is known."""
    is_failed_start: bool = False
    """It has never worked: whose it was to be waits, or ends the run where no other works."""


class Halt(RuntimeError):
    """The run must stop; the message says why and what to do."""


def is_accident(error: WorkerLost, *, num_ranks: int) -> bool:
    """Whether a learner was lost, rather than raised what it would raise again: a loss that is not a number, a
    setting, a file it cannot write, a pass that does not fit its GPU.
    """
    cause = error.__cause__
    if isinstance(cause, RayTaskError):
        if is_out_of_memory(error):
            return False
        if type(cause.cause).__name__ == "AcceleratorError":  # torch's, of a GPU that has failed
            return True
        # torch says of a broken connection to another rank no more than RuntimeError.
        accidents = (RayError, RuntimeError) if num_ranks > 1 else RayError
        return isinstance(cause.cause, accidents)
    return not (isinstance(cause, RayActorError) and cause.actor_init_failed)


def is_out_of_memory(error: WorkerLost) -> bool:
    """Whether a GPU had not enough for what was asked of it. By torch's name: torch is not imported here."""
    cause = error.__cause__
    return isinstance(cause, RayTaskError) and type(cause.cause).__name__ == "OutOfMemoryError"


def lost_argument(error: WorkerLost) -> str | None:
    """The object of which a call was given a reference and that is gone, with its node: the call was not begun, and its
    worker is as it was. None: something else happened.
    """
    raised = error.__cause__
    if isinstance(raised, RayTaskError) and isinstance(raised.cause, ObjectLostError):
        return raised.cause.object_ref_hex
    return None


async def reply(ref: ObjectRef, *, timeout_s: float | None, of: str, doing: str) -> Any:
    """The value of `ref`, waiting at most `timeout_s`; None only for an actor that Ray has not placed yet.

    Raises WorkerLost, naming the worker and what it was doing, when the actor is dead, does not
    answer in time, or raised.
    """
    try:
        # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that meets a result.
        async with asyncio.timeout(timeout_s):
            with _failures_named(of, doing):
                return await asyncio.wrap_future(ref.future())
    except TimeoutError:
        raise WorkerLost(f"{of} did not answer within {timeout_s:g} s while {doing}") from None


async def reply_while_alive(
    ref: ObjectRef,
    *,
    ping: Callable[[], Awaitable[Any]],
    of: str,
    doing: str,
    timeout_s: float | None = None,
) -> Any:
    """The value of `ref`, waiting at most `timeout_s`, None: however long, as long as `ping` returns.

    For work whose honest duration is unknown: a busy actor answers from its second thread, a
    stopped one does not. Raises WorkerLost like `reply`, and what `ping` raises.
    """
    answer = asyncio.wrap_future(ref.future())
    try:
        async with asyncio.timeout(timeout_s):
            while not (await asyncio.wait([answer], timeout=PING_EVERY_S))[0]:
                await ping()
            with _failures_named(of, doing):
                return answer.result()
    except TimeoutError:
        raise WorkerLost(f"{of} did not answer within {timeout_s:g} s while {doing}") from None
    finally:
        answer.cancel()


async def listen(answer: Awaitable[Result], after_s: float, on_silent: Callable[[], None]) -> Result:
    """What `answer` gives; `on_silent`, which must not raise, is called once where that takes longer than `after_s`.

    Time in which this process itself stood still does not count: it could not have heard anything.
    """
    loop = asyncio.get_running_loop()
    alarm: asyncio.TimerHandle

    def set_alarm() -> None:
        nonlocal alarm
        alarm = loop.call_later(after_s, ring, loop.time() + after_s)

    def ring(due_s: float) -> None:
        if loop.time() - due_s > STANDSTILL_S:
            set_alarm()
        else:
            on_silent()

    set_alarm()
    try:
        return await answer
    finally:
        alarm.cancel()


async def replies_of_gang(
    refs: Sequence[ObjectRef],
    *,
    ping: Callable[[int], ObjectRef],
    timeout_s: float,
    of: Sequence[str],
    doing: str,
) -> list[Any]:
    """The values of actors that wait for each other, one `ref` of each, all within `timeout_s`.

    Raises WorkerLost like `reply`, by the one that the others wait for: one that died, for the others may
    fail because of that before it is known; else the first that failed; else, where they are only late, the
    first that does not answer `ping(number)`.
    """
    waiting = [
        asyncio.create_task(reply(ref, timeout_s=timeout_s, of=name, doing=doing))
        for ref, name in zip(refs, of, strict=True)
    ]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        early = _failures(waiting)
        if not early:
            return [task.result() for task in waiting]
        await asyncio.wait(waiting, timeout=DEATH_NOTICE_S)
        failures = _failures(waiting)
        for failure in failures.values():
            if isinstance(failure.__cause__, RayActorError):
                raise failure
        for failure in early.values():
            if failure.__cause__ is not None:
                raise failure
        for number, failure in failures.items():
            try:
                await reply(ping(number), timeout_s=PING_TIMEOUT_S, of=of[number], doing=doing)
            except WorkerLost:
                raise failure from None
        raise next(iter(failures.values()))
    finally:
        for task in waiting:
            task.cancel()


def _failures(tasks: Sequence[asyncio.Task[Any]]) -> dict[int, BaseException]:
    """Of the tasks that have ended, by number."""
    ended = {number: task.exception() for number, task in enumerate(tasks) if task.done()}
    return {number: failure for number, failure in ended.items() if failure is not None}


@contextmanager
def _failures_named(of: str, doing: str) -> Iterator[None]:
    """Ray's errors as WorkerLost, in one line that says what happened to whom."""
    try:
        yield
    except RayTaskError as error:
        raise WorkerLost(f"{of} failed while {doing}: {error.cause!r}") from error
    except RayActorError as error:
        if error.actor_init_failed:  # the cause is at hand only as the end of a printed traceback
            cause = cause_of_failed_start(error)
            raise WorkerLost(f"{of} failed while {doing}: {cause}") from error
        raise WorkerLost(f"{of} was lost while {doing}: {type(error).__name__}") from error
    except RayError as error:
        raise WorkerLost(f"{of} was lost while {doing}: {type(error).__name__}") from error


def cause_of_failed_start(error: RayActorError) -> str:
    """The line of a constructor's printed traceback that names the exception, with what follows it."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    for position in range(len(lines) - 1, -1, -1):
        if re.match(r"[\w.]*(Error|Exception|Halt)\b.*", lines[position]):
            return " ".join(lines[position : position + 3])
    return lines[-1]
