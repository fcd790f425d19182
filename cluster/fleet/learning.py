"""The learner as the controller sees it: one actor, or a gang of them, with bounded calls.

Weights are references to what rank 0 returned, groups are references to what rollout workers returned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util import get_placement_group, placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.arrow_forms import judgements_to_batch
from cluster.config.schema import RunConfig
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import PING_EVERY_S, Halt, WorkerLost, lost_argument, replies_of_gang, reply
from cluster.fleet.nodes import bundle, describe
from cluster.fleet.stored import JudgedGroup, SamplesLost, distinct_batches
from learner.types import StepResult
from learner.worker import LearnerFacts, LearnerWorker

GANG_NAME = "learner"
"""Of the room reserved for a gang; a run has a namespace of its own."""


class LearnerHandle:
    """The learner's processes. Every method raises WorkerLost when one of them dies, hangs or fails.

    The other ranks of a gang would wait for that one in vain, so all are ended.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._step_timeout_s = config.train.step_timeout_s
        self._startup_timeout_s = config.learner.startup_timeout_s
        self._names = [f"learner rank {rank}" for rank in range(config.learner.ranks)]
        if config.learner.ranks == 1:
            self._names = ["learner"]
        self._placement: PlacementGroup | None = None
        self._actors: list[Any] = []
        self.ranks: list[LearnerFacts] = []
        """What each rank told of itself when it was up."""
        self._next_ping_s = 0.0
        self.is_passing = False
        """It computes gradients."""

    async def start(self, checkpoint: Path | None) -> Published:
        """The weights to begin with, once the learner is up: those of the model, or of a checkpoint.

        Raises Halt where the cluster has no room for a gang.
        """
        if len(self._names) > 1:
            self._placement = await self._reserve()
        self._actors = [self._actor(rank) for rank in range(len(self._names))]
        if len(self._names) > 1:
            # No rank waits inside a collective for one whose process is still starting.
            await self._replies(
                [actor.ping.remote() for actor in self._actors], self._startup_timeout_s, "starting"
            )
            # The bounds of the calls below are to end first: they know who is waited for.
            timeout_s = self._startup_timeout_s + self._step_timeout_s
            opening = self._actors[0].open_store.remote(timeout_s)
            store = await reply(
                opening, timeout_s=self._startup_timeout_s, of=self._names[0], doing="starting"
            )
            joining = [actor.join.remote(*store, timeout_s) for actor in self._actors]
            await self._replies(joining, self._startup_timeout_s, "starting")
        ready = [actor.ready.remote() for actor in self._actors]
        self.ranks = await self._replies(ready, self._startup_timeout_s, "starting")
        if checkpoint:
            loading = [actor.load.remote(str(checkpoint)) for actor in self._actors]
            await self._replies(loading, self._startup_timeout_s, f"loading {checkpoint}")
        about, *buckets = self._actors[0].publish.options(num_returns=self._num_returns).remote()
        weights = await reply(about, timeout_s=self._startup_timeout_s, of=self._names[0], doing="publishing")
        return self._published(weights["version"], weights["fingerprint"], buckets)

    @property
    def note(self) -> str | None:
        """What a user should know of how the model is trained, in one line."""
        if self.ranks[0].packing != "rows":
            return None
        return (
            f"layers of model = {self._config.model!r} carry a state from one position to the next: every sequence "
            "has a row of its own, and the prompt of a group is computed for each of its samples"
        )

    async def wait(self, event: asyncio.Event) -> None:
        """Until the event is set, as long as all ranks answer meanwhile, asked every second, however often it is set."""
        waiting = asyncio.ensure_future(event.wait())
        try:
            while not (await asyncio.wait([waiting], timeout=self._next_ping_s - time.monotonic()))[0]:
                pings = [actor.ping.remote() for actor in self._actors]
                await self._replies(pings, self._step_timeout_s, "waiting for a batch")
                self._next_ping_s = time.monotonic() + PING_EVERY_S
        finally:
            waiting.cancel()

    async def fetch(self, groups: Sequence[JudgedGroup]) -> None:
        """Bring groups to every rank, for the passes that follow; those fetched before and not passed over are dropped.

        No rank begins a pass before all have what it is over: else some would wait in it for one that does not come.
        Raises SamplesLost where a batch of samples is gone; then nothing has been passed over, and another choice of
        groups may be fetched.
        """
        batches, places = distinct_batches([group.stored for group in groups])
        numbers = [group.stored.facts.group for group in groups]
        judgements = ray.put(judgements_to_batch([group.judgement for group in groups], numbers, places))
        fetching = [actor.fetch.remote(judgements, *batches) for actor in self._actors]
        try:
            await self._replies(fetching, self._step_timeout_s, "fetching groups")
        except WorkerLost as error:
            object_id = lost_argument(error)
            if object_id not in {batch.hex() for batch in batches}:
                raise
            raise SamplesLost(object_id) from error

    async def begin_step(self, numbers: Sequence[int], *, num_groups: int) -> None:
        """Pass over fetched groups, some of the `num_groups` of the next step, by their numbers."""
        passing = [actor.begin_step.remote(numbers, num_groups) for actor in self._actors]
        self.is_passing = True
        await self._replies(passing, self._step_timeout_s, "beginning a step")
        self.is_passing = False

    async def train_step(self, numbers: Sequence[int]) -> tuple[StepResult, Published]:
        """One optimizer step, of these fetched groups and those it was begun with, and the version it made."""
        first, *others = self._actors
        result, *buckets = first.train_step.options(num_returns=self._num_returns).remote(numbers)
        results = [result, *(actor.train_step.remote(numbers) for actor in others)]
        self.is_passing = True
        step: StepResult = (await self._replies(results, self._step_timeout_s, "training a step"))[0]
        self.is_passing = False
        return step, self._published(step.version, step.fingerprint, buckets)

    async def write_trajectories(self, path: Path) -> None:
        """Have rank 0 write the groups of the newest step, once."""
        writing = self._actors[0].write_trajectories.remote(str(path))
        await self._replies([writing], self._step_timeout_s, "writing trajectories")

    async def save(self, directory: Path) -> None:
        """Write model, optimizer and random state into a directory."""
        saving = [actor.save.remote(str(directory)) for actor in self._actors]
        await self._replies(saving, self._step_timeout_s, "writing a checkpoint")

    def stop(self) -> None:
        """End all ranks."""
        for actor in self._actors:
            ray.kill(actor)
        if self._placement is not None:
            remove_placement_group(self._placement)

    async def _reserve(self) -> PlacementGroup | None:
        """Room for all ranks at once, on as few nodes as have it: none of them can begin without the others."""
        learner = self._config.learner
        needed = bundle(learner)
        if not needed:
            return None
        await asyncio.to_thread(_give_up_earlier_room)
        placement = placement_group([needed] * learner.ranks, strategy="PACK", name=GANG_NAME)
        if not await asyncio.to_thread(placement.wait, self._startup_timeout_s):
            remove_placement_group(placement)
            raise Halt(
                f"the cluster has no room for learner.ranks = {learner.ranks} of {describe(needed)} each within "
                f"{self._startup_timeout_s:g} s: add nodes, raise learner.startup_timeout_s, or lower learner.ranks, "
                "rollout.workers or verifier.workers"
            )
        return placement

    def _actor(self, rank: int) -> Any:
        config = self._config
        placed: dict[str, Any] = {}
        if len(self._names) > 1:
            placed["max_concurrency"] = 2  # a rank answers a ping while it computes
        if self._placement is not None:
            placed["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                placement_group=self._placement, placement_group_bundle_index=rank
            )
        return LearnerWorker.options(  # type: ignore[attr-defined]
            num_cpus=config.learner.num_cpus,
            num_gpus=config.learner.num_gpus,
            resources=config.learner.resources,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(max(1, int(config.learner.num_cpus)))}},
            **placed,
        ).remote(
            config.model,
            config.learner,
            config.objective,
            config.rollout.temperature,
            config.train.seed,
            rank=rank,
            engines_keep_kv=config.rollout.kv_after_update == "keep",
        )

    @property
    def _num_returns(self) -> int:
        return 1 + len(self.ranks[0].manifest.bucket_sizes)

    def _published(self, version: int, fingerprint: int, buckets: list[Any]) -> Published:
        first = self.ranks[0]
        return Published(
            version=version,
            fingerprint=fingerprint,
            manifest=first.manifest,
            buckets=buckets,
            node_id=first.node_id,
        )

    async def _replies(self, refs: Sequence[Any], timeout_s: float, doing: str) -> list[Any]:
        """One answer of each rank."""
        if len(refs) == 1:
            return [await reply(refs[0], timeout_s=timeout_s, of=self._names[0], doing=doing)]
        try:
            return await replies_of_gang(
                refs,
                ping=lambda rank: self._actors[rank].ping.remote(),
                timeout_s=timeout_s,
                of=self._names,
                doing=doing,
            )
        except WorkerLost as error:
            if lost_argument(error) is None:
                self.stop()
            raise


def _give_up_earlier_room() -> None:
    """What a controller of this run reserved and did not live to give back: Ray keeps it until the job ends."""
    with suppress(ValueError):  # there is none
        remove_placement_group(get_placement_group(GANG_NAME))
