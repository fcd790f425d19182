"""Python's garbage collector while a process starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """A block in which much is made that stays, and no garbage is collected.

    Importing vLLM makes a million objects; the collector walks those that are there again and again, a quarter of the
    time until an engine serves.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def made_to_stay() -> Iterator[None]:
    """The same for imports alone: no garbage is ever looked for again among what is there at its end."""
    with no_collection():
        yield
    gc.freeze()
