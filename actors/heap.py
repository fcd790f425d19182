"""The memory of a process: Python's garbage collector while it starts, and large blocks of the C library."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

LARGE_BLOCK_BYTES = 2**23
"""Smaller ones cost more time to map anew than they leave unused."""
_M_MMAP_THRESHOLD = -3
"""Its number in glibc's malloc.h."""


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


def return_large_blocks() -> None:
    """Have freed blocks of LARGE_BLOCK_BYTES and more go back to the system, for the rest of this process.

    glibc raises its limit to 32 MiB by itself, below which blocks lie in its heap. Activations of 10 to 30 MiB that
    are made and freed in turn leave that heap full of holes: a pass over 8,192 positions with recomputation held
    2.6 times what was alive at once. Does nothing where the C library is not glibc.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
