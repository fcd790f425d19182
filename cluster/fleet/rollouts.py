"""The rollout workers of a run: started, leased to, updated, watched, replaced, and asked to leave.

| loop            | waits for                           | unblocked by                         |
|-----------------|-------------------------------------|--------------------------------------|
| `_work` (a slot)| the worker's next finished pieces   | its engine; or its heartbeat timeout |
| `top_up`        | nothing: gives the leases admitted  | group collected, batch cut, update   |
| `broadcast`     | every serving worker's confirmation | see `updating.py`                    |
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
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
from cluster.fleet.stored import StoredPiece
from cluster.fleet.tending import Fleet
from cluster.fleet.updating import Updates
from cluster.leasing.sharing import even_shares, piece_size, smallest_piece
from cluster.leasing.work import Work

POLL_S = 1.0

logger = logging.getLogger(__name__)


class RolloutFleet(Fleet[RolloutHandle]):
    """Keeps `slots.size` rollout workers alive and busy, `config.workers` to begin with.

    Of `works` the earlier ones go first: an engine is given of a later one what leaves the earlier ones their room.
    `on_pieces` receives finished pieces of groups of all of them, by reference, and the name of the worker that had the
    leases; `on_news` hears how a worker left that was asked to, and of one that does not answer.

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
        on_pieces: Callable[[str, list[StoredPiece]], None],
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
        self._on_pieces = on_pieces
        self._names = (f"rollout-{number}" for number in itertools.count())
        self._updates = Updates(timeout_s=update_timeout_s, heartbeat_timeout_s=config.heartbeat_timeout_s)

    @property
    def serving(self) -> list[RolloutHandle]:
        return [worker for worker in self.workers.values() if worker.serving]

    def announce(self, published: Published) -> None:
        """The newest weights: a worker serves them before its first lease."""
        self._updates.announce(published)

    def top_up(self, finished: RolloutHandle | None = None) -> None:
        """Give out every lease that is admitted, shared out evenly, one message a worker.

        Where nothing has changed but that one worker began or `finished` pieces, no other can take more than it has:
        finished groups are outstanding still, so whatever could be given was given.
        """
        newest = self._updates.newest_version
        if newest is None:
            return
        # Under an older version there is no more.
        totals = [work.num_to_lease(newest) for work in self._works]
        if not any(totals) or (self._synchronous and not self._can_begin_step()):
            return
        candidates = self.workers.values() if finished is None else [finished]
        takers = [worker for worker in candidates if worker.takes_leases]
        given: dict[str, list[Lease]] = {}
        for work, total in zip(self._works, totals, strict=True):
            if total:
                self._share_out(work, total, takers, given)
        for name, leases in given.items():
            self.workers[name].actor.submit.remote(leases)

    def _share_out(
        self, work: Work, total: int, takers: Sequence[RolloutHandle], given: dict[str, list[Lease]]
    ) -> None:
        """Lease `total` samples of one kind, or what there is room for; the leases are added to `given`, by worker."""
        ledger = work.ledger
        loads, rooms = [self._load(one) for one in takers], [self._room(one, work) for one in takers]
        left = [(-share, place) for place, share in enumerate(even_shares(loads, rooms, total))]
        heapq.heapify(left)
        carried = 0
        """Of the share of a worker that takes no more: another takes it."""
        while left and (found := ledger.next_piece) is not None:
            negative, place = left[0]
            worker, share = takers[place], carried - negative
            piece, begun_under = found
            is_fresh = begun_under is not None and begun_under <= worker.version
            num_samples = 0
            if is_fresh or work.num_admitted(worker.version):
                within = int(min(share, self._room(worker, work)))
                num_samples = piece_size(piece.num_samples, within, self._smallest_piece(worker, work))
            if num_samples == 0:
                carried = share
                heapq.heappop(left)
                continue
            carried = 0
            heapq.heapreplace(left, (num_samples - share, place))
            now_s = time.monotonic()
            leased = ledger.lease(worker.name, version=worker.version, now_s=now_s, most=num_samples)
            assert leased is not None
            given.setdefault(worker.name, []).append(work.make_lease(leased))
            worker.num_leased += num_samples

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
        return bool(serving) and all(self._room(worker, self._works[0]) > 0 for worker in serving)

    def leases_by_worker(self) -> dict[str, int]:
        """How many groups, or pieces of them, each worker holds."""
        return {name: self._num_leases_of(worker) for name, worker in self.workers.items()}

    async def broadcast(self, published: Published) -> None:
        """Make every serving worker serve `published`. Raises Halt when one confirms with other weights than that."""
        await self._updates.broadcast(published, self.serving)

    def _load(self, worker: RolloutHandle) -> int:
        """Synchronous leases are all given at once and spread evenly, the same each time: by leases alone."""
        if self._synchronous:
            return sum(work.num_sequences_of(worker.name) for work in self._works)
        return worker.num_unfinished

    def _num_leases_of(self, worker: RolloutHandle) -> int:
        return sum(work.ledger.num_leases_of(worker.name) for work in self._works)

    def _room(self, worker: RolloutHandle, work: Work) -> float:
        """Sequences of one kind that may be leased to it now; those of a synchronous step are all leased at once.

        As if it had no other work: what comes later in `works` waits in the engine, and takes no place from what comes
        earlier.
        """
        if self._synchronous:
            return math.inf
        num_others = sum(other.num_sequences_of(worker.name) for other in self._works if other is not work)
        return self._config.room(
            num_samples=work.ledger.num_samples,
            num_leases=work.ledger.num_leases_of(worker.name),
            num_unfinished=max(0, worker.num_unfinished - num_others),
            capacity=self._capacity_of(worker),
            smallest=self._smallest_piece(worker, work),
        )

    def _smallest_piece(self, worker: RolloutHandle, work: Work) -> int:
        """Samples of a group that it is leased at least."""
        num_samples = work.ledger.num_samples
        if not self._config.divide_groups or len(self.workers) == 1:
            return num_samples
        return 1 if self._synchronous else smallest_piece(num_samples, self._capacity_of(worker))

    def _capacity_of(self, worker: RolloutHandle) -> float:
        most = self._config.max_num_seqs
        return min(worker.facts.capacity, most) if worker.facts else most

    def _create(self, slot: Slot) -> RolloutHandle:
        name = next(self._names)
        actor = RolloutWorker.options(  # type: ignore[attr-defined]
            num_cpus=self._config.num_cpus,
            num_gpus=self._config.gpus_of_worker,
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
            finished, worker.facts = await listen(answer, late_s, lambda: self._suspect(worker, late_s))
        except WorkerLost as error:
            if isinstance(error.__cause__, RayTaskError):
                batch.future()  # the same error, which Ray would print as one that nobody has seen
            raise
        if finished:
            if "first_group" not in worker.startup_s:
                worker.end_phase("first_group")
            pieces = [StoredPiece(facts=facts, batch=batch, row=row) for row, facts in enumerate(finished)]
            self._on_pieces(worker.name, pieces)
        if worker.silent.is_set():
            await self._trust(worker)
        for work in self._works:
            self._check_pace(worker, work)

    def _check_pace(self, worker: RolloutHandle, work: Work) -> None:
        timeout_s = self._config.group_timeout_s
        for lease in work.ledger.leases_of(worker.name):
            if time.monotonic() - max(lease.since_s, work.due_since_s()) > timeout_s:
                raise WorkerLost(
                    f"{worker.name} has not finished group {lease.piece.group} within {timeout_s:g} s"
                )

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
