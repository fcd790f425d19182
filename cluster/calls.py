"""Every wait for an actor is bounded, and every way an actor can fail is one exception."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError


class WorkerLost(Exception):
    """An actor died, hung or failed; whatever it held must be given to another."""


class Halt(Exception):
    """The run must stop; the message says why and what to do."""


async def reply(ref: ObjectRef, *, timeout_s: float, of: str, doing: str) -> Any:
    """The value of `ref`, waiting at most `timeout_s`.

    Raises WorkerLost, naming the worker and what it was doing, when the actor is dead, does not
    answer in time, or raised.
    """
    try:
        # Not asyncio.wait_for: before Python 3.12 it swallows a cancellation that meets a result.
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(ref.future())
    except TimeoutError:
        raise WorkerLost(f"{of} did not answer within {timeout_s:g} s while {doing}") from None
    except RayTaskError as error:
        raise WorkerLost(f"{of} failed while {doing}: {error.cause!r}") from error
    except RayError as error:
        raise WorkerLost(f"{of} was lost while {doing}: {type(error).__name__}") from error


async def reply_while_alive(
    ref: ObjectRef, *, ping: Any, ping_every_s: float, heartbeat_timeout_s: float, of: str, doing: str
) -> Any:
    """The value of `ref`, however long it takes, as long as the actor answers `ping` in time.

    For work whose honest duration is unknown: a busy actor answers from its second thread, a
    stopped one does not. Raises WorkerLost like `reply`.
    """
    answer = asyncio.wrap_future(ref.future())
    while True:
        done, _ = await asyncio.wait([answer], timeout=ping_every_s)
        if done:
            break
        await reply(ping.remote(), timeout_s=heartbeat_timeout_s, of=of, doing=doing)
    try:
        return answer.result()
    except RayTaskError as error:
        raise WorkerLost(f"{of} failed while {doing}: {error.cause!r}") from error
    except RayError as error:
        raise WorkerLost(f"{of} was lost while {doing}: {type(error).__name__}") from error
