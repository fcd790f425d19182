"""Ctrl-C and SIGTERM as an orderly end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):
    """The user asked to stop; the message says how to go on."""


@contextmanager
def interrupts(at_once: str = "ended at once; the newest checkpoint is kept") -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM: the first asks for an orderly stop, the second raises Interrupted(at_once)."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise Interrupted(at_once)

    with _handling(handle):
        yield received


@contextmanager
def ending_at_once(message: str) -> Iterator[None]:
    """The first SIGINT or SIGTERM raises Interrupted(message): for work that leaves nothing to keep."""

    def handle(number: int, frame: Any) -> None:
        raise Interrupted(message)

    with _handling(handle):
        yield


@contextmanager
def _handling(handle: Callable[[int, Any], None]) -> Iterator[None]:
    def handle_first(number: int, frame: Any) -> None:
        signal.alarm(0)  # Ray's C++ side, if it hears SIGTERM before us, has the process aborted 3 s later
        handle(number, frame)

    before = {number: signal.signal(number, handle_first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
