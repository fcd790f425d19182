"""The rollout workers of a run: started, leased to, updated, watched, replaced, and asked to leave.

| loop            | waits for                           | unblocked by                         |
|-----------------|-------------------------------------|--------------------------------------|
| `_work` (a slot)| the worker's next finished groups   | its engine; or its heartbeat timeout |
| `top_up`        | nothing: gives the leases admitted  | group collected, batch cut, update   |
| `broadcast`     | every serving worker's confirmation | see `updating.py`                    |
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections.abc import Callable, Sequence

import ray
from ray.exceptions import RayTaskError

from actors.config import RolloutConfig
from actors.environment import engine_environment
from actors.types import Lease
from actors.worker import RolloutWorker
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import WorkerLost, listen, reply
from cluster.fleet.handles import RolloutHandle
from cluster.fleet.slots import Slot
from cluster.fleet.stored import StoredGroup
from cluster.fleet.tending import Fleet
from cluster.fleet.updating import Updates
from cluster.leasing.work import Work

POLL_S = 1.0

logger = logging.getLogger(__name__)


class RolloutFleet(Fleet[RolloutHandle]):
    """Keeps `slots.size` rollout workers alive and busy, `config.workers` to begin with.

    Of `works` the earlier ones go first: an engine is given of a later one what leaves the earlier ones their room.
    `on_groups` receives finished groups of all of them, by reference; `on_news` hears how a worker left that was asked
    to, and of one that does not answer.

    One that has not answered for `config.suspect_after_s` gets no leases, and those that it has may be given to others. It
    goes on if it answers within `config.heartbeat_timeout_s`; else it is lost. Its slot's stand-in, if it has been sent
    one, then has its place.

    A worker that is to leave gets no leases. It goes once the groups that it has are finished, or when
    `config.drain_timeout_s` or its slot's own deadline is over; meanwhile it is updated like the others.
    """

    def __init__(
        self,
        *,
        config: RolloutConfig,
        model: str,
        works: Sequence[Work],
        synchronous: bool,
        update_timeout_s: float,
        on_groups: Callable[[list[StoredGroup]], None],
        on_lost: Callable[[str, WorkerLost], None],
        on_news: Callable[[str], None] = logger.info,
    ) -> None:
        super().__init__(
            "rollout",
            size=config.workers,
            leave_within_s=config.drain_timeout_s,
            on_lost=on_lost,
            on_news=on_news,
        )
        self._config = config
        self._model = model
        self._works = works
        self._synchronous = synchronous
        self._on_groups = on_groups
        self._names = (f"rollout-{number}" for number in itertools.count())
        self._updates = Updates(timeout_s=update_timeout_s, heartbeat_timeout_s=config.heartbeat_timeout_s)

    @property
    def serving(self) -> list[RolloutHandle]:
        return [worker for worker in self.workers.values() if worker.serving]

    def announce(self, published: Published) -> None:
        """The newest weights: a worker serves them before its first lease."""
        self._updates.announce(published)

    def top_up(self, finished: RolloutHandle | None = None) -> None:
        """Give out every lease that is admitted, least loaded worker first, one message a worker.

        Where nothing has changed but that one worker began or `finished` groups, no other can take more than it has:
        finished groups are outstanding still, so whatever could be given was given.
        """
        newest = self._updates.newest_version
        works = [work for work in self._works if newest is not None and work.may_lease(newest)]
        if not works:  # no older version may either
            return
        if self._synchronous and not self._can_begin_step():
            return
        given: dict[str, list[Lease]] = {}
        takers = list(self.workers.values()) if finished is None else [finished]
        for work in works:
            self._give_out(work, takers, given)
        for name, leases in given.items():
            self.workers[name].actor.submit.remote(leases)

    def _give_out(self, work: Work, takers: Sequence[RolloutHandle], given: dict[str, list[Lease]]) -> None:
        """Add to `given` the leases of one kind, by worker."""
        load = [(self._load(worker), worker.name) for worker in takers if worker.takes_leases]
        heapq.heapify(load)
        while load:
            name = load[0][1]
            worker = self.workers[name]
            if not self._would_take_more(worker, work) or not work.may_lease(worker.version):
                heapq.heappop(load)
                continue
            group = work.ledger.lease(name, version=worker.version, now_s=time.monotonic())
            if group is None:
                break
            given.setdefault(name, []).append(work.make_lease(group))
            worker.num_leased += work.num_samples
            heapq.heapreplace(load, (self._load(worker), name))

    @property
    def fill(self) -> float:
        """Sequences that engines decode at a time over what they may, mean over those that serve."""
        fills = [worker.facts.fill for worker in self.serving if worker.facts]
        return sum(fills) / len(fills) if fills else 0.0

    @property
    def capacity(self) -> float:
        """Sequences of the usual length whose KV an engine can hold, mean over those that serve; at most max_num_seqs."""
        held = [worker.facts.capacity for worker in self.serving if worker.facts]
        return sum(held) / len(held) if held else float(self.max_num_seqs)

    @property
    def recomputed(self) -> float:
        """Tokens computed again since updates dropped their KV, over those sampled, by the workers that serve."""
        facts = [worker.facts for worker in self.serving if worker.facts]
        return sum(one.num_reprefilled_tokens for one in facts) / max(1, sum(one.num_tokens for one in facts))

    @property
    def max_num_seqs(self) -> int:
        """Sequences that an engine decodes at a time."""
        return self._config.max_num_seqs

    @property
    def has_room(self) -> bool:
        """Whether workers serve, and each would take more leases of the first work than it has been admitted."""
        serving = self.serving
        return bool(serving) and all(self._would_take_more(worker, self._works[0]) for worker in serving)

    def leases_by_worker(self) -> dict[str, int]:
        """How many groups each worker holds."""
        return {name: self._num_leases_of(worker) for name, worker in self.workers.items()}

    async def broadcast(self, published: Published) -> None:
        """Make every serving worker serve `published`. Raises Halt when one confirms with other weights than that."""
        await self._updates.broadcast(published, self.serving)

    def _load(self, worker: RolloutHandle) -> int:
        """Synchronous leases are all given at once and spread evenly, the same each time: by groups alone."""
        return self._num_leases_of(worker) if self._synchronous else worker.num_unfinished

    def _num_leases_of(self, worker: RolloutHandle) -> int:
        return sum(work.ledger.num_leases_of(worker.name) for work in self._works)

    def _would_take_more(self, worker: RolloutHandle, work: Work) -> bool:
        """As if it had no other work: what comes later in `works` waits in the engine, and takes no place from what
        comes earlier.
        """
        if self._synchronous:
            return True
        num_others = sum(other.num_sequences_of(worker.name) for other in self._works if other is not work)
        return self._config.has_room(
            num_groups=work.ledger.num_leases_of(worker.name),
            num_unfinished=max(0, worker.num_unfinished - num_others),
            capacity=worker.facts.capacity if worker.facts else self._config.max_num_seqs,
        )

    def _create(self, slot: Slot) -> RolloutHandle:
        name = next(self._names)
        actor = RolloutWorker.options(  # type: ignore[attr-defined]
            num_cpus=self._config.num_cpus,
            num_gpus=self._config.num_gpus,
            resources=self._config.resources,
            runtime_env={"env_vars": engine_environment(self._config)},
        ).remote(name, self._model, self._config)
        return RolloutHandle(name=name, actor=actor, slot=slot)

    async def _bring_up(self, worker: RolloutHandle) -> bool:
        """True, once the worker serves the newest weights."""
        await worker.place()
        facts = await worker.make_ready(
            timeout_s=self._config.startup_timeout_s, doing="starting its engine", phase="engine"
        )
        worker.version = facts["version"]
        await self._updates.catch_up(worker, facts["fingerprint"])
        worker.end_phase("weights")
        worker.serving = True
        worker.begin_work()
        return True

    async def _work(self, worker: RolloutHandle) -> None:
        """Until the worker's slot is to leave, and its groups are finished."""
        while not worker.slot.is_leaving or self._num_leases_of(worker):
            self.top_up(None if self._synchronous else worker)
            await self._collect(worker)

    def _leave(self, worker: RolloutHandle) -> None:
        num_unfinished = self._num_leases_of(worker)
        self._remove(worker)
        rest = f"; {num_unfinished} unfinished groups are leased again" if num_unfinished else ""
        self._on_news(f"{worker.name} has left{rest}")

    async def _collect(self, worker: RolloutHandle) -> None:
        about, batch = worker.actor.collect.remote(POLL_S)
        answer = reply(
            about,
            timeout_s=self._config.heartbeat_timeout_s,
            of=worker.name,
            doing="sampling",
        )
        late_s = POLL_S + self._config.suspect_after_s
        try:
            groups, worker.facts = await listen(answer, late_s, lambda: self._suspect(worker, late_s))
        except WorkerLost as error:
            if isinstance(error.__cause__, RayTaskError):
                batch.future()  # the same error, which Ray would print as one that nobody has seen
            raise
        if groups:
            if "first_group" not in worker.startup_s:
                worker.end_phase("first_group")
            self._on_groups(
                [StoredGroup(facts=facts, batch=batch, row=row) for row, facts in enumerate(groups)]
            )
        if worker.silent.is_set():
            await self._trust(worker)
        for work in self._works:
            self._check_pace(worker, work)

    def _check_pace(self, worker: RolloutHandle, work: Work) -> None:
        timeout_s = self._config.group_timeout_s
        for group in work.ledger.leases_of(worker.name):
            since_s = max(work.ledger.leased[group].since_s, work.due_since_s())
            if time.monotonic() - since_s > timeout_s:
                raise WorkerLost(f"{worker.name} has not finished group {group} within {timeout_s:g} s")

    def _suspect(self, worker: RolloutHandle, late_s: float) -> None:
        worker.serving = False
        for work in self._works:
            work.ledger.doubt(worker.name)
        self._on_news(worker.suspect(late_s))
        self.top_up()

    async def _trust(self, worker: RolloutHandle) -> None:
        """It answers again: it goes on, unless its stand-in works already."""
        await self._updates.catch_up(worker)
        worker.serving = True
        self._on_news(worker.trust())
        self.slots.settle(worker.slot, is_lost=False)

    def _can_begin_step(self) -> bool:
        """Whether a synchronous step's leases may be given: those that take them serve the newest weights, and
        none that the run begins with is still to come, unless no node had room for it.
        """
        takers = [worker for worker in self.workers.values() if worker.takes_leases]
        awaited = [
            worker
            for worker in self.workers.values()
            if worker.slot.is_initial and not worker.has_started and not worker.is_late
        ]
        if not takers or awaited:
            return False
        return all(self._updates.are_served_by(worker) for worker in takers)

    def _remove(self, worker: RolloutHandle) -> None:
        worker.serving = worker.slot.is_working = False
        ray.kill(worker.actor)
        del self.workers[worker.name]
        for work in self._works:
            work.ledger.forget(worker.name)

    def _pass_on(self) -> None:
        self.top_up()
