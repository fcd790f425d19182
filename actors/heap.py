"""Python's garbage collector while a process starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def made_to_stay() -> Iterator[None]:
    """A block of imports, and of what is made once: no garbage is collected meanwhile, nor looked for among it later.

    Importing vLLM makes a million objects; the collector walks those that are there again and again, a quarter of the
    time until an engine serves.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
