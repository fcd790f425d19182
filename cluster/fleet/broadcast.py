"""A version of the policy's weights, and the order in which nodes pull it.

Ray brings an object to a node once, however many of its workers ask, but knows no order: nodes that ask at the same
time all pull from the node that made it. Pulled in turns, each copy that is complete serves the next node, so that n nodes
have it after about log2(n) transfers instead of n.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import ray

from actors.weights.manifest import WeightManifest

TURN_S = 5.0
"""A node that needs longer, because its worker hangs or its network is slow, lets the next one begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One version of the policy's weights, as references into the object store."""

    version: int
    fingerprint: int | None
    """None: the weights are those on disk, and no learner is there to compare with."""
    manifest: WeightManifest
    buckets: Sequence[ray.ObjectRef]
    node_id: str = ""
    """Of the learner, whose object store has the buckets."""


class Turns:
    """Who may pull: as many at a time as there are complete copies that serve nobody, one to begin with."""

    def __init__(self, turn_s: float = TURN_S) -> None:
        self._turn_s = turn_s
        self._idle_copies = asyncio.Semaphore(1)

    async def pull(self, pull: Callable[[], Awaitable[None]]) -> None:
        """Run `pull` when a copy is idle; what it has brought serves others. Raises what `pull` raises.

        Returns at the end of the turn where it takes longer; what it brings later serves others all the same.
        """
        async with self._idle_copies:
            pulling = asyncio.ensure_future(pull())
            pulling.add_done_callback(self._serve)
            try:
                await asyncio.wait([pulling], timeout=self._turn_s)
            except asyncio.CancelledError:
                pulling.cancel()
                raise
        if pulling.done():
            pulling.result()

    def _serve(self, pulled: asyncio.Future[None]) -> None:
        if not pulled.cancelled() and pulled.exception() is None:
            self._idle_copies.release()
