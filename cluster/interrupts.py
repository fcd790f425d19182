"""Ctrl-C and SIGTERM as an orderly end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
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

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
