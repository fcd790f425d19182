"""What sampling and judging again share: progress on the screen, parts written as they come, an orderly stop."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from cluster.console import View, duration
from cluster.eval_store import Cell, EvalStore
from cluster.interrupts import Interrupted

STAGE = "evaluation"
FLUSH_EVERY_S = 2.0


class Progress:
    """One bar over all cells, with rate and time left."""

    def __init__(self, view: View, num_problems: int, samples_per_problem: int) -> None:
        self._view = view
        self._num_problems = num_problems
        self._samples_per_problem = samples_per_problem
        self._num_done = 0
        self._first_s = 0.0

    def note(self, cell: Cell) -> None:
        """One more problem of `cell` is done."""
        now = time.monotonic()
        self._first_s = self._first_s or now
        self._num_done += 1
        text = f"{self._num_done:,}/{self._num_problems:,} problems   {cell.label}"
        elapsed_s = now - self._first_s
        if elapsed_s > 0:
            rate = (self._num_done - 1) / elapsed_s
            left_s = (self._num_problems - self._num_done) / rate
            text += f"   {rate * self._samples_per_problem:,.0f} sequences/s   {duration(left_s)} left"
        self._view.update(STAGE, self._num_done / self._num_problems, text)


def run_keeping_samples(store: EvalStore, work: Awaitable[None]) -> None:
    """Run `work` in an event loop; what it puts into the store is on disk every few seconds and at the end.

    SIGTERM ends it as Ctrl-C does.
    """

    async def flush_regularly() -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            store.flush()

    async def run() -> None:
        this = asyncio.current_task()
        assert this is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
        working, flushing = asyncio.ensure_future(work), asyncio.create_task(flush_regularly())
        try:
            done, _ = await asyncio.wait([working, flushing], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (working, flushing):
                task.cancel()
            await asyncio.gather(working, flushing, return_exceptions=True)
            store.flush()

    asyncio.run(run())


@contextmanager
def telling_how_to_go_on(command: str) -> Iterator[None]:
    """Ctrl-C becomes Interrupted, with the command that goes on from what is on disk."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Interrupted(f"stopped, what was sampled is kept; go on with: {command}") from None
