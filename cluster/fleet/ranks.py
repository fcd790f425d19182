"""The processes that train one model, one or a gang of them: how they are placed, started, called and ended."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util import get_placement_group, placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.fleet.calls import Halt, WorkerLost, is_out_of_memory, lost_argument, replies_of_gang, reply
from cluster.fleet.nodes import bundle, describe
from learner.config import LearnerConfig

GANG_NAME = "learner"
"""Of the room reserved for a gang; a run has a namespace of its own."""


class Ranks:
    """Actors of one class, a rank each. Every method raises WorkerLost when one of them dies, hangs or fails.

    The other ranks of a gang would wait for that one in vain, so all are ended.
    """

    def __init__(self, worker: Any, learner: LearnerConfig, *, step_timeout_s: float) -> None:
        """`worker`: the actors' class, a shell of `learner.worker`."""
        self._worker = worker
        self._learner = learner
        self._step_timeout_s = step_timeout_s
        self._startup_timeout_s = learner.startup_timeout_s
        self._names = [f"learner rank {rank}" for rank in range(learner.ranks)]
        if learner.ranks == 1:
            self._names = ["learner"]
        self._placement: PlacementGroup | None = None
        self.actors: list[Any] = []

    async def start(self, *arguments: Any, **settings: Any) -> list[Any]:
        """Start all with the same arguments, and `rank`; what each tells of itself once it is up.

        Raises Halt where the cluster has no room for a gang.
        """
        if len(self._names) > 1:
            self._placement = await self._reserve()
        self.actors = [
            self._options(rank).remote(*arguments, rank=rank, **settings) for rank in range(len(self._names))
        ]
        if len(self._names) > 1:
            # No rank waits inside a collective for one whose process is still starting.
            await self.starting([actor.ping.remote() for actor in self.actors])
            # The bounds of the calls below are to end first: they know who is waited for.
            timeout_s = self._startup_timeout_s + self._step_timeout_s
            opening = self.actors[0].open_store.remote(timeout_s)
            store = await reply(
                opening, timeout_s=self._startup_timeout_s, of=self._names[0], doing="starting"
            )
            await self.starting([actor.join.remote(*store, timeout_s) for actor in self.actors])
        return await self.starting([actor.ready.remote() for actor in self.actors])

    async def check_sees(self, directory: Path) -> None:
        """Raises Halt where a rank, which is to write there, does not find what this process writes into the directory."""
        words = secrets.token_hex(8)
        probe = directory.absolute() / f".probe-{words}"
        probe.write_text(words)
        try:
            asking = [actor.sees.remote(str(probe), words) for actor in self.actors]
            nodes = await self.starting(asking, f"looking for {directory}")
        finally:
            probe.unlink(missing_ok=True)
        for name, node in zip(self._names, nodes, strict=True):
            if node is not None:
                raise Halt(
                    f"{name}, on the node {node}, does not see the directory {directory.absolute()} of this machine, where it is "
                    "to write: give it a path on a file system that both have"
                )

    async def starting(self, refs: Sequence[Any], doing: str = "starting") -> list[Any]:
        """The answers to calls of the start, one of each rank, or of the first ones."""
        return await self._replies(refs, self._startup_timeout_s, doing)

    async def working(self, refs: Sequence[Any], doing: str) -> list[Any]:
        """The answers to calls of a step, one of each rank, or of the first ones."""
        return await self._replies(refs, self._step_timeout_s, doing)

    def stop(self) -> None:
        """End all."""
        for actor in self.actors:
            ray.kill(actor)
        if self._placement is not None:
            remove_placement_group(self._placement)

    async def _replies(self, refs: Sequence[Any], timeout_s: float, doing: str) -> list[Any]:
        try:
            return await self._answers(refs, timeout_s, doing)
        except WorkerLost as error:
            if not is_out_of_memory(error):
                raise
            advice = "lower learner.micro_batch_tokens, or set learner.recompute = 'always' or [learner.lora]"
            raise WorkerLost(f"{error}: {advice}") from error.__cause__

    async def _answers(self, refs: Sequence[Any], timeout_s: float, doing: str) -> list[Any]:
        if len(refs) == 1:
            return [await reply(refs[0], timeout_s=timeout_s, of=self._names[0], doing=doing)]
        try:
            return await replies_of_gang(
                refs,
                ping=lambda rank: self.actors[rank].ping.remote(),
                timeout_s=timeout_s,
                of=self._names,
                doing=doing,
            )
        except WorkerLost as error:
            if lost_argument(error) is None:
                self.stop()
            raise

    async def _reserve(self) -> PlacementGroup | None:
        """Room for all ranks at once, on as few nodes as have it: none of them can begin without the others."""
        learner = self._learner
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

    def _options(self, rank: int) -> Any:
        learner = self._learner
        placed: dict[str, Any] = {}
        if len(self._names) > 1:
            placed["max_concurrency"] = 2  # a rank answers a ping while it computes
        if self._placement is not None:
            placed["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                placement_group=self._placement, placement_group_bundle_index=rank
            )
        return self._worker.options(
            num_cpus=learner.num_cpus,
            num_gpus=learner.num_gpus,
            resources=learner.resources,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(max(1, int(learner.num_cpus)))}},
            **placed,
        )


def _give_up_earlier_room() -> None:
    """What a controller of this run reserved and did not live to give back: Ray keeps it until the job ends."""
    with suppress(ValueError):  # there is none
        remove_placement_group(get_placement_group(GANG_NAME))
