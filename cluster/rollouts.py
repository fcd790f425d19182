"""The rollout workers of a run: started, leased to, updated, watched, replaced.

| loop            | waits for                           | unblocked by                         |
|-----------------|-------------------------------------|--------------------------------------|
| `_tend` (a slot)| the worker's next finished groups   | its engine; or its heartbeat timeout |
| `top_up`        | nothing: gives the leases admitted  | group collected, batch cut, update   |
| `broadcast`     | every serving worker's confirmation | the engines, between two steps       |
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors.config import RolloutConfig
from actors.engine import engine_environment
from actors.manifest import WeightManifest
from actors.types import Lease, SampleGroup, samples_from_batch
from actors.worker import RolloutFacts, RolloutWorker
from cluster.calls import Halt, WorkerLost, reply
from cluster.ledger import Ledger

POLL_S = 1.0
MAX_FAILED_STARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One version of the policy's weights, as references into the object store."""

    version: int
    fingerprint: int | None
    """None: the weights are those on disk, and no learner is there to compare with."""
    manifest: WeightManifest
    buckets: Sequence[ray.ObjectRef]


@dataclass(slots=True, kw_only=True, eq=False)
class RolloutHandle:
    """One living rollout worker as the controller knows it."""

    name: str
    actor: Any
    pid: int = 0
    version: int = -1
    serving: bool = False
    has_served: bool = False
    facts: RolloutFacts | None = None
    lost: WorkerLost | None = None
    """Why it is being given up, when that was found elsewhere than in its own loop."""


class RolloutFleet:
    """Keeps `config.workers` rollout workers alive and busy.

    `may_lease(version)` is the controller's admission rule; `on_groups` receives finished groups;
    `make_lease(group)` says what a group asks.
    """

    def __init__(
        self,
        *,
        config: RolloutConfig,
        model: str,
        ledger: Ledger,
        synchronous: bool,
        groups_per_step: int,
        update_timeout_s: float,
        may_lease: Callable[[int], bool],
        make_lease: Callable[[int], Lease],
        on_groups: Callable[[list[SampleGroup]], None],
        on_lost: Callable[[str, WorkerLost], None],
    ) -> None:
        self._config = config
        self._model = model
        self._ledger = ledger
        self._synchronous = synchronous
        self._update_timeout_s = update_timeout_s
        self._may_lease = may_lease
        self._make_lease = make_lease
        self._on_groups = on_groups
        self._on_lost = on_lost
        self._groups_in_flight = (
            -(-groups_per_step // config.workers) if synchronous else config.groups_in_flight
        )
        self._names = (f"rollout-{number}" for number in itertools.count())
        self._slots: list[asyncio.Task[None]] = []
        self._published: Published | None = None
        self._announced = asyncio.Event()
        self._starting_first_time = config.workers
        self.workers: dict[str, RolloutHandle] = {}
        self.num_restarts = 0

    @property
    def serving(self) -> list[RolloutHandle]:
        return [worker for worker in self.workers.values() if worker.serving]

    def start(self) -> list[asyncio.Task[None]]:
        """Start all workers; they get leases once `announce` has told what they must serve."""
        self._slots = [asyncio.create_task(self._tend()) for _ in range(self._config.workers)]
        return self._slots

    def announce(self, published: Published) -> None:
        """The newest weights: a worker serves them before its first lease."""
        self._published = published
        self._announced.set()

    def top_up(self) -> None:
        """Give out every lease that is admitted, least loaded worker first, one message a worker."""
        if self._synchronous and (self._starting_first_time or not self._all_serve_newest()):
            return
        given: dict[str, list[Lease]] = {}
        load = {worker.name: len(self._ledger.leases_of(worker.name)) for worker in self.serving}
        while load:
            name = min(load, key=lambda name: (load[name], name))
            worker = self.workers[name]
            if load[name] >= self._groups_in_flight or not self._may_lease(worker.version):
                del load[name]
                continue
            group = self._ledger.lease(name, version=worker.version, now_s=time.monotonic())
            if group is None:
                break
            given.setdefault(name, []).append(self._make_lease(group))
            load[name] += 1
        for name, leases in given.items():
            self.workers[name].actor.submit.remote(leases)

    def leases_by_worker(self) -> dict[str, int]:
        """How many groups each worker holds."""
        return {name: len(self._ledger.leases_of(name)) for name in self.workers}

    async def broadcast(self, published: Published) -> None:
        """Make every serving worker serve `published`.

        A worker that does not confirm is lost, not waited for. Raises Halt when an engine confirms
        with other weights than the learner sent.
        """
        self.announce(published)
        await asyncio.gather(*(self._update_or_lose(worker, published) for worker in self.serving))

    async def stop(self) -> None:
        """End all workers."""
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        for worker in list(self.workers.values()):
            self._remove(worker)

    async def _tend(self) -> None:
        """One slot: a worker, and the next one when it is lost."""
        first_time = True
        failed_starts = 0
        while True:
            name = next(self._names)
            worker = RolloutHandle(name=name, actor=self._create(name))
            self.workers[name] = worker
            try:
                await self._bring_up(worker)
                if first_time:
                    self._starting_first_time -= 1
                    first_time = False
                while True:
                    self.top_up()
                    await self._collect(worker)
            except WorkerLost as error:
                self._remove(worker)
                self.num_restarts += 1
                failed_starts = 0 if worker.has_served else failed_starts + 1
                self._on_lost("rollout", worker.lost or error)
                if failed_starts >= MAX_FAILED_STARTS:
                    raise Halt(
                        f"a rollout worker failed to start {failed_starts} times; the last: {error}"
                    ) from error
                if first_time:
                    self._starting_first_time -= 1
                    first_time = False
                self.top_up()

    def _create(self, name: str) -> Any:
        return RolloutWorker.options(  # type: ignore[attr-defined]
            num_cpus=self._config.num_cpus,
            num_gpus=self._config.num_gpus,
            resources=self._config.resources,
            runtime_env={"env_vars": engine_environment(self._config)},
        ).remote(name, self._model, self._config)

    async def _bring_up(self, worker: RolloutHandle) -> None:
        facts = await reply(
            worker.actor.ready.remote(),
            timeout_s=self._config.startup_timeout_s,
            of=worker.name,
            doing="starting its engine",
        )
        worker.pid, worker.version = facts["pid"], facts["version"]
        await self._announced.wait()
        assert self._published is not None
        if worker.version == self._published.version:
            self._check_fingerprint(worker, facts["fingerprint"], self._published)
        while worker.version != self._published.version:
            await self._update(worker, self._published)
        worker.serving = worker.has_served = True

    async def _collect(self, worker: RolloutHandle) -> None:
        batch, worker.facts = await reply(
            worker.actor.collect.remote(POLL_S),
            timeout_s=self._config.heartbeat_timeout_s,
            of=worker.name,
            doing="sampling",
        )
        if batch.num_rows:
            self._on_groups(samples_from_batch(batch))
        for group in self._ledger.leases_of(worker.name):
            if time.monotonic() - self._ledger.leased[group].since_s > self._config.group_timeout_s:
                raise WorkerLost(
                    f"{worker.name} has not finished group {group} within {self._config.group_timeout_s:g} s"
                )

    async def _update(self, worker: RolloutHandle, published: Published) -> None:
        confirmation = await reply(
            worker.actor.update_weights.remote(published.version, published.manifest, *published.buckets),
            timeout_s=self._update_timeout_s,
            of=worker.name,
            doing=f"loading weights of version {published.version}",
        )
        self._check_fingerprint(worker, confirmation["fingerprint"], published)
        worker.version = confirmation["version"]

    async def _update_or_lose(self, worker: RolloutHandle, published: Published) -> None:
        try:
            await self._update(worker, published)
        except WorkerLost as error:
            worker.serving, worker.lost = False, error
            ray.kill(worker.actor)

    def _check_fingerprint(self, worker: RolloutHandle, fingerprint: int, published: Published) -> None:
        if published.fingerprint is not None and fingerprint != published.fingerprint:
            raise Halt(
                f"{worker.name} serves other weights than the learner's version {published.version} "
                f"(fingerprint {fingerprint:#x}, learner {published.fingerprint:#x}): its engine did not load "
                "all of them; check that rollout.dtype and the model architecture are supported by vLLM"
            )

    def _all_serve_newest(self) -> bool:
        assert self._published is not None
        return bool(self.serving) and all(
            worker.version == self._published.version for worker in self.serving
        )

    def _remove(self, worker: RolloutHandle) -> None:
        worker.serving = False
        ray.kill(worker.actor)
        del self.workers[worker.name]
        self._ledger.release(self._ledger.leases_of(worker.name))
