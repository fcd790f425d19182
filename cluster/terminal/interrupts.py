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
def while_ray_starts(received: list[int]) -> Iterator[None]:
    """Ray puts a handler of SIGTERM in the place of ours on its way, which ends the process: `received` gets that too."""
    try:
        yield
    except SystemExit:
        received.append(signal.SIGTERM)


@contextmanager
def ending_at_once(message: str) -> Iterator[None]:
    """The first SIGINT or SIGTERM raises Interrupted(message): for work that leaves nothing to keep."""

    def handle(number: int, frame: Any) -> None:
        raise Interrupted(message)

    with _handling(handle):
        yield


@contextmanager
def _handling(handle: Callable[[int, Any], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
