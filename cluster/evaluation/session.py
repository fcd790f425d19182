"""What sampling and judging again share: progress on the screen, parts written as they come, an orderly stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.terminal.console import View, duration
from cluster.terminal.interrupts import Interrupted, interrupts

STAGE = "evaluation"
FLUSH_EVERY_S = 2.0
FLUSH_SHARE = 0.05
"""Of the time, at most: some stores are written whole each time."""
LOOK_EVERY_S = 0.2


class Progress:
    """One bar over all groups of a stage, a group the samples of a problem in one cell, with rate and time left."""

    def __init__(self, view: View, stage: str, num_groups: int, samples_per_group: int) -> None:
        self._view = view
        self._stage = stage
        self._num_groups = num_groups
        self._samples_per_group = samples_per_group
        self._num_done = 0
        self._num_tokens = 0
        """Since the first group was done."""
        self._first_s = 0.0

    def note(self, label: str, num_tokens: int = 0) -> None:
        """One more group is done, for which so many tokens were sampled."""
        now = time.monotonic()
        self._num_tokens += num_tokens if self._first_s else 0
        self._first_s = self._first_s or now
        self._num_done += 1
        text = f"{self._num_done:,}/{self._num_groups:,} groups   {label}"
        elapsed_s = now - self._first_s
        if elapsed_s > 0:
            rate = (self._num_done - 1) / elapsed_s
            left_s = (self._num_groups - self._num_done) / rate
            text += f"   {rate * self._samples_per_group:,.0f} sequences/s"
            text += f"   {self._num_tokens / elapsed_s:,.0f} tokens/s" if self._num_tokens else ""
            text += f"   {duration(left_s)} left"
        self._view.update(self._stage, self._num_done / self._num_groups, text)


def run_keeping_samples(
    flush: Callable[[], None], work: Coroutine[Any, Any, None], stop_if_asked: Callable[[], None]
) -> None:
    """Run `work` in an event loop; `flush`, every few seconds and at the end, writes what it has put into its store.

    `stop_if_asked` is called several times a second; what it raises ends the work.
    """

    async def run() -> None:
        working = asyncio.create_task(work)
        flush_at_s = time.monotonic() + FLUSH_EVERY_S
        try:
            while not working.done():
                stop_if_asked()
                await asyncio.wait([working], timeout=LOOK_EVERY_S)
                if (begun_s := time.monotonic()) > flush_at_s:
                    flush()
                    took_s = time.monotonic() - begun_s
                    flush_at_s = time.monotonic() + max(FLUSH_EVERY_S, took_s / FLUSH_SHARE)
            working.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            flush()

    asyncio.run(run())


@contextmanager
def telling_how_to_go_on(command: str) -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM become Interrupted, with the command that goes on from what is on disk.

    Raised by the function that it yields, which is to be called between steps, and at the end. A signal
    that raised by itself would be lost in callbacks from C, of which the start of Ray is full.
    """
    with interrupts("ended at once; what was sampled is kept") as received:

        def stop_if_asked() -> None:
            if received:
                raise Interrupted(f"stopped, what was sampled is kept; go on with: {command}")

        yield stop_if_asked
        stop_if_asked()
