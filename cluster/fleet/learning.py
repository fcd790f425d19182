"""The learner as the controller sees it: one actor, or a gang of them, with bounded calls.

Weights are references to what rank 0 returned, groups are references to what rollout workers returned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors.arrow_forms import judgements_to_batch
from cluster.config.schema import RunConfig
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import PING_EVERY_S, WorkerLost, lost_argument
from cluster.fleet.ranks import Ranks
from cluster.fleet.stored import JudgedGroup, SamplesLost, distinct_batches
from learner.types import StepResult
from learner.worker import LearnerFacts, LearnerWorker


class LearnerHandle:
    """The learner's processes. Every method raises WorkerLost when one of them dies, hangs or fails."""

    def __init__(self, config: RunConfig, base_scores: Path | None = None) -> None:
        """`base_scores`: the file of them that every rank reads when it starts, for an objective that asks for it."""
        self._config = config
        self._base_scores = None if base_scores is None else str(base_scores)
        self._step_timeout_s = config.train.step_timeout_s
        self._ranks = Ranks(LearnerWorker, config.learner, step_timeout_s=self._step_timeout_s)
        self.ranks: list[LearnerFacts] = []
        """What each rank told of itself when it was up."""
        self._next_ping_s = 0.0
        self.is_passing = False
        """It computes gradients."""

    async def start(self, checkpoint: Path | None, run_dir: Path) -> Published:
        """The weights to begin with, once the learner is up: those of the model, or of a checkpoint.

        Raises Halt where the cluster has no room for a gang, or a rank is on a machine that has no `run_dir`.
        """
        config = self._config
        self.ranks = await self._ranks.start(
            config.model,
            config.learner,
            config.objective,
            config.rollout.temperature,
            config.train.seed,
            engines_keep_kv=config.rollout.kv_after_update == "keep",
            base_scores=self._base_scores,
        )
        await self._ranks.check_sees(run_dir)
        if checkpoint:
            loading = [actor.load.remote(str(checkpoint)) for actor in self._actors]
            await self._ranks.starting(loading, f"loading {checkpoint}")
        about, *buckets = self._actors[0].publish.options(num_returns=self._num_returns).remote()
        [weights] = await self._ranks.starting([about], "publishing")
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
                await self._ranks.working(pings, "waiting for a batch")
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
            await self._ranks.working(fetching, "fetching groups")
        except WorkerLost as error:
            object_id = lost_argument(error)
            if object_id not in {batch.hex() for batch in batches}:
                raise
            raise SamplesLost(object_id) from error

    async def begin_step(self, numbers: Sequence[int], *, num_groups: int) -> None:
        """Pass over fetched groups, some of the `num_groups` of the next step, by their numbers."""
        passing = [actor.begin_step.remote(numbers, num_groups) for actor in self._actors]
        self.is_passing = True
        await self._ranks.working(passing, "beginning a step")
        self.is_passing = False

    async def train_step(self, numbers: Sequence[int]) -> tuple[StepResult, Published]:
        """One optimizer step, of these fetched groups and those it was begun with, and the version it made."""
        first, *others = self._actors
        result, *buckets = first.train_step.options(num_returns=self._num_returns).remote(numbers)
        results = [result, *(actor.train_step.remote(numbers) for actor in others)]
        self.is_passing = True
        step: StepResult = (await self._ranks.working(results, "training a step"))[0]
        self.is_passing = False
        return step, self._published(step.version, step.fingerprint, buckets)

    async def write_trajectories(self, path: Path) -> None:
        """Have rank 0 write the groups of the newest step, once."""
        writing = self._actors[0].write_trajectories.remote(str(path))
        await self._ranks.working([writing], "writing trajectories")

    async def save(self, directory: Path) -> None:
        """Write model, optimizer and random state into a directory."""
        saving = [actor.save.remote(str(directory)) for actor in self._actors]
        await self._ranks.working(saving, "writing a checkpoint")

    def stop(self) -> None:
        """End all ranks."""
        self._ranks.stop()

    @property
    def _actors(self) -> list[Any]:
        return self._ranks.actors

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
