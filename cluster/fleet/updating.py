"""Bringing the newest weights to the engines.

| call        | waits for                                | unblocked by                                      |
|-------------|------------------------------------------|---------------------------------------------------|
| `broadcast` | every serving worker's confirmation      | the engines, between two steps; or their silence  |
| `catch_up`  | weights to be announced, then one worker | the learner; its engine, or its heartbeat timeout |
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import ray

from cluster.fleet.broadcast import Published, Turns
from cluster.fleet.calls import Halt, WorkerLost, reply, reply_while_alive
from cluster.fleet.handles import RolloutHandle
from cluster.fleet.slots import unless


class Updates:
    """Knows the newest weights, and makes workers serve them, each within `timeout_s`."""

    def __init__(self, *, timeout_s: float, heartbeat_timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._published: Published | None = None
        self._announced = asyncio.Event()

    def announce(self, published: Published) -> None:
        """The newest weights: a worker serves them before its first lease."""
        self._published = published
        self._announced.set()

    @property
    def newest_version(self) -> int | None:
        """None before any weights are announced."""
        return None if self._published is None else self._published.version

    def are_served_by(self, worker: RolloutHandle) -> bool:
        """Whether it serves the newest weights."""
        return self._published is not None and worker.version == self._published.version

    async def broadcast(self, published: Published, workers: Sequence[RolloutHandle]) -> None:
        """Make the workers serve `published`, which each node pulls once, in its turn.

        A worker that does not confirm is lost, and one that falls silent is not waited for. Raises Halt when an engine
        confirms with other weights than the learner sent.
        """
        self.announce(published)
        by_node: dict[str, list[RolloutHandle]] = {}
        for worker in workers:
            by_node.setdefault(worker.node_id, []).append(worker)
        turns = Turns()
        await asyncio.gather(
            *(self._update_node(node_id, those, published, turns) for node_id, those in by_node.items())
        )

    async def catch_up(self, worker: RolloutHandle, fingerprint: int | None = None) -> None:
        """Make one worker serve the newest weights, whatever becomes the newest meanwhile.

        `fingerprint`: of the weights that it has, for where they turn out to be the newest. Raises WorkerLost, and Halt
        like `broadcast`.
        """
        await self._announced.wait()
        assert self._published is not None
        if fingerprint is not None and self.are_served_by(worker):
            _check_fingerprint(worker, fingerprint, self._published)
        while not self.are_served_by(worker):
            await self._update(worker, self._published)

    async def _update_node(
        self, node_id: str, workers: Sequence[RolloutHandle], published: Published, turns: Turns
    ) -> None:
        if node_id != published.node_id:
            for worker in workers:
                if worker.serving and await self._pull_in_turn(worker, published, turns):
                    break
        serving = [worker for worker in workers if worker.serving]
        await asyncio.gather(*(self._update_or_lose(worker, published) for worker in serving))

    async def _pull_in_turn(self, worker: RolloutHandle, published: Published, turns: Turns) -> bool:
        """Whether the worker brings the weights to its node; False where it is lost or silent."""
        try:
            await turns.pull(partial(self._pull, worker, published))
        except _SilentError:
            return False
        except WorkerLost as error:
            _lose(worker, error)
            return False
        return True

    async def _pull(self, worker: RolloutHandle, published: Published) -> None:
        pulling = reply(
            worker.actor.pull.remote(*published.buckets),
            timeout_s=self._timeout_s,
            of=worker.name,
            doing=f"pulling weights of version {published.version}",
        )
        await unless(worker.silent, pulling)
        if worker.silent.is_set():
            raise _SilentError

    async def _update_or_lose(self, worker: RolloutHandle, published: Published) -> None:
        try:
            await unless(worker.silent, self._update(worker, published))
        except WorkerLost as error:
            _lose(worker, error)

    async def _update(self, worker: RolloutHandle, published: Published) -> None:
        doing = f"loading weights of version {published.version}"
        confirmation = await reply_while_alive(
            worker.actor.update_weights.remote(published.version, published.manifest, *published.buckets),
            ping=partial(worker.ping, timeout_s=self._heartbeat_timeout_s, doing=doing),
            timeout_s=self._timeout_s,
            of=worker.name,
            doing=doing,
        )
        _check_fingerprint(worker, confirmation["fingerprint"], published)
        worker.version = confirmation["version"]


class _SilentError(Exception):
    """A pull that is not waited for."""


def _lose(worker: RolloutHandle, error: WorkerLost) -> None:
    worker.serving, worker.lost = False, error
    ray.kill(worker.actor)


def _check_fingerprint(worker: RolloutHandle, fingerprint: int, published: Published) -> None:
    if published.fingerprint is not None and fingerprint != published.fingerprint:
        raise Halt(
            f"{worker.name} serves other weights than the learner's version {published.version} "
            f"(fingerprint {fingerprint:#x}, learner {published.fingerprint:#x}): its engine did not load "
            "all of them; check that rollout.dtype and the model architecture are supported by vLLM"
        )
