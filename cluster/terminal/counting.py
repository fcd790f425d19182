"""A count on standard error, for work that may be long: redrawn on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

SILENT_S = 2.0
"""Shorter work says nothing where lines stay."""
LINE_EVERY_S = 10.0


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number done, from any thread."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(f"{what} 0/{total:,}") as status:
            yield lambda num: status.update(f"{what} {num:,}/{total:,}")
        return
    next_s = time.monotonic() + SILENT_S

    def tell(num: int) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + LINE_EVERY_S
            console.print(f"bonfire: {what}: {num:,}/{total:,}", soft_wrap=True, markup=False)

    yield tell
