"""How many workers the run has: by command, by the policy, by what its nodes do.

| loop     | waits for | does once a second                                                              |
|----------|-----------|---------------------------------------------------------------------------------|
| `run`    | the clock | moves workers off nodes that drain, sends stand-ins for silent ones, says who waits for resources, asks the policy |
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ray.exceptions import RayError

from cluster.config.schema import RunConfig
from cluster.fleet.handles import WorkerHandle
from cluster.fleet.nodes import bundle, describe, draining_nodes, has_room, request_nodes
from cluster.fleet.rollouts import RolloutFleet
from cluster.fleet.scaling import Counters, Decision, Role, ScalingPolicy, window
from cluster.fleet.verifying import VerifierFleet

LOOK_S = 1.0
NUM_DECISIONS_SHOWN = 5
MOST_WORKERS = 1000
"""More than that is a slip of the hand: each is an actor that the controller follows."""
LAST_REQUEST_TIMEOUT_S = 10.0
"""How long the end of a run waits for Ray's head."""
ROLES: tuple[Role, ...] = ("rollout", "verifier")

logger = logging.getLogger(__name__)


class Elastic:
    """Sets the sizes of both fleets.

    `waited_s` tells how long the learner has waited for batches so far.
    """

    def __init__(
        self,
        config: RunConfig,
        rollouts: RolloutFleet,
        verifying: VerifierFleet,
        *,
        waited_s: Callable[[], float],
        note: Callable[[str], None],
        on_decision: Callable[[Decision], None],
    ) -> None:
        self._config = config
        self._rollouts = rollouts
        self._verifying = verifying
        self._slots = {"rollout": rollouts.slots, "verifier": verifying.slots}
        self._waited_s = waited_s
        self._note = note
        self._on_decision = on_decision
        self._policy = ScalingPolicy(config.scaling) if config.scaling else None
        self._queued_group_s = 0.0
        self._looked: Counters | None = None
        self._bundles = {
            "rollout": bundle(config.rollout),
            "verifier": bundle(config.verifier),
            "learner": bundle(config.learner),
        }
        self._requested: dict[Role, int] = {}
        self._told: set[str] = set()
        self._head_is_away = False
        self.targets: dict[Role, int] = {
            "rollout": config.rollout.workers,
            "verifier": config.verifier.workers,
        }
        self.decisions: list[Decision] = []

    def facts(self) -> dict[str, Any]:
        """Targets, the newest decisions as text, and what is waited for."""
        return {
            "targets": dict(self.targets),
            "decisions": [str(decision) for decision in self.decisions[-NUM_DECISIONS_SHOWN:]],
            "waiting_for": self._waiting_for(),
        }

    @property
    def num_silent(self) -> dict[Role, int]:
        """Workers that do not answer, by role."""
        silent = Counter(role for role, worker in self._workers() if worker.silent.is_set())
        return {role: silent[role] for role in ROLES}

    def scale(self, asked: dict[Role, int | None]) -> dict[str, int]:
        """Set the numbers of workers that are not None; returns all. Raises ValueError, one line."""
        if not self._rollouts.slots.are_running:
            raise ValueError("the run has not begun yet: ask again in a moment")
        wanted = {role: size for role, size in asked.items() if size is not None}
        if not wanted:
            raise ValueError("scale names no number of workers: give rollout, verifier, or both")
        for role, size in wanted.items():
            self._check_size(role, size)
        for role, size in wanted.items():
            if size != self.targets[role]:
                before = self.targets[role]
                self._decide(
                    Decision(
                        role=role, before=before, after=size, reason="manual", text="asked for by command"
                    )
                )
        if self._policy:
            self._policy.rest(time.monotonic())
        self._looked = None
        return {role: self.targets[role] for role in ROLES}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self._mind_nodes()
                waiting = self._waiting_for()
                for text in waiting:
                    if text not in self._told:
                        self._note(f"waiting for resources: {text}")
                self._told = set(waiting)
                self._queued_group_s += self._verifying.queue_depth * LOOK_S
                self._look()
                await asyncio.sleep(LOOK_S)
        finally:
            await self._ask_for_no_nodes()

    def _check_size(self, role: Role, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{role} = {size!r} is no number of workers: give a whole number from 1 on")
        if size > MOST_WORKERS:
            raise ValueError(
                f"{role} = {size} is more than the {MOST_WORKERS:,} workers that one controller leads"
            )
        if self._config.scaling:
            low, high = self._config.scaling.bounds(role)
            if not low <= size <= high:
                raise ValueError(
                    f"{role} = {size} is outside of scaling.min_{role} = {low} to scaling.max_{role} = {high}: "
                    "choose one within"
                )

    def _look(self) -> None:
        """Let the policy see what happened since it last looked, once that is long enough ago."""
        if self._policy is None:
            return
        now = self._count()
        if not now.waited_s:  # the learner has not asked for a batch yet
            return
        if self._looked is None:
            self._looked = now
        if now.at_s - self._looked.at_s < self._policy.every_s:
            return
        seen = window(self._looked, now, targets=self.targets, starting=self._starting())
        self._looked = now
        decision = self._policy.look(seen, now_s=now.at_s)
        if decision:
            self._decide(decision)

    def _count(self) -> Counters:
        return Counters(
            at_s=time.monotonic(),
            waited_s=self._waited_s(),
            queued_group_s=self._queued_group_s,
            judging_s=self._verifying.busy_s,
            engines={
                worker.name: (worker.facts.busy_s + worker.facts.updating_s, worker.facts.idle_s)
                for worker in self._rollouts.serving
                if worker.facts
            },
        )

    def _starting(self) -> dict[Role, int]:
        num_working = {
            "rollout": sum(worker.takes_leases for worker in self._rollouts.workers.values()),
            "verifier": sum(worker.takes_groups for worker in self._verifying.workers.values()),
        }
        # Not those that have failed too often: who waits for them waits for ever.
        num_failing = {role: slots.num_failing for role, slots in self._slots.items()}
        return {role: max(0, self.targets[role] - num_working[role] - num_failing[role]) for role in ROLES}

    def _decide(self, decision: Decision) -> None:
        logger.info("%s", decision)
        self.targets[decision.role] = decision.after
        self._slots[decision.role].resize(decision.after)
        self.decisions.append(decision)
        self._on_decision(decision)

    async def _mind_nodes(self) -> None:
        """What needs Ray's head.

        One that is away for a while does not end the run: it is asked again.
        """
        try:
            await self._request_nodes()
            draining = await asyncio.to_thread(draining_nodes)
            self._leave_nodes(draining)
            if self._config.train.stand_ins:
                await self._send_stand_in(draining)
        except RayError as error:
            if not self._head_is_away:
                self._note(f"Ray's head does not answer, so nobody looks after nodes: {type(error).__name__}")
            self._head_is_away = True
        else:
            self._head_is_away = False

    async def _ask_for_no_nodes(self) -> None:
        try:
            async with asyncio.timeout(LAST_REQUEST_TIMEOUT_S):
                await asyncio.to_thread(request_nodes, [])
        except (RayError, TimeoutError) as error:
            self._note(
                f"Ray's head did not hear that the run needs no nodes any more ({type(error).__name__}): an autoscaler "
                "keeps them until another run has asked"
            )

    async def _request_nodes(self) -> None:
        targets = dict(self.targets)
        if self._requested != targets:
            workers = [self._bundles[role] for role in ROLES for _ in range(targets[role])]
            ranks = [self._bundles["learner"]] * self._config.learner.ranks
            await asyncio.to_thread(request_nodes, [*workers, *ranks])
            self._requested = targets

    def _leave_nodes(self, draining: Mapping[str, float | None]) -> None:
        for role, worker in self._workers():
            if worker.node_id not in draining:
                continue
            left_s = draining[worker.node_id]
            if worker.slot.is_leaving:
                worker.slot.leave(left_s)
                continue
            when = "" if left_s is None else f" within {left_s:.0f} s"
            self._note(f"node {worker.node_id[:8]} is to go: {worker.name} leaves it{when}")
            self._slots[role].replace(worker.slot, left_s)

    async def _send_stand_in(self, draining: Collection[str]) -> None:
        """For the first silent worker that has none, where a node has room for it now.

        One each time: the next time Ray knows what is left.
        """
        for role in ROLES:
            if not self._without_stand_in(role):
                continue
            if not await asyncio.to_thread(has_room, self._bundles[role], without=draining):
                continue
            for worker in self._without_stand_in(role)[:1]:  # it may have answered meanwhile
                self._note(f"another {role} worker starts, while {worker.name} does not answer")
                self._slots[role].send_stand_in(worker.slot)
                return

    def _without_stand_in(self, role: Role) -> list[WorkerHandle]:
        """Silent workers that may be given one."""
        return [
            worker
            for its_role, worker in self._workers()
            if its_role == role and worker.silent.is_set() and worker.slot.may_have_stand_in
        ]

    def _waiting_for(self) -> list[str]:
        waiting = Counter(role for role, worker in self._workers() if worker.waits_for_resources)
        return [
            f"{count} {role} worker{'s' if count > 1 else ''} ({describe(self._bundles[role])})"
            for role, count in waiting.items()
        ]

    def _workers(self) -> list[tuple[Role, WorkerHandle]]:
        return [
            *(("rollout", worker) for worker in self._rollouts.workers.values()),
            *(("verifier", worker) for worker in self._verifying.workers.values()),
        ]
