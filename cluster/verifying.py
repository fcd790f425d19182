"""The verifier workers of a run: each takes the next groups that wait for a verdict.

| loop             | waits for                      | unblocked by                          |
|------------------|--------------------------------|---------------------------------------|
| `_tend` (a slot) | groups to judge, then verdicts | a rollout worker; its verifier or the |
|                  |                                | heartbeat timeout of a stopped one    |
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import ray

from actors.types import Demonstration, SampleGroup, ScoredGroup
from cluster.calls import WorkerLost, reply, reply_while_alive
from verifiers.config import VerifierConfig
from verifiers.types import Problem, Verdict
from verifiers.worker import VerifierWorker

STARTUP_MARGIN_S = 30.0
"""For the worker around the verifier's process."""
PING_EVERY_S = 5.0
GROUPS_PER_CALL = 8


@dataclass(slots=True, kw_only=True, eq=False)
class VerifierHandle:
    """One living verifier worker as the controller knows it."""

    name: str
    actor: Any
    pid: int = 0
    num_child_restarts: int = 0


class VerifierFleet:
    """Keeps `config.workers` verifier workers alive and gives them groups.

    `on_scored` receives a judged group, `on_unjudged` a group of which some candidate has no
    verdict because the verifier itself failed, with the verifier's message. `demonstrations` are the
    token ids of those problems' demonstrations that are to be judged with every group.
    """

    def __init__(
        self,
        *,
        config: VerifierConfig,
        problems: Mapping[str, Problem],
        on_scored: Callable[[ScoredGroup], None],
        on_unjudged: Callable[[SampleGroup, str], None],
        on_lost: Callable[[str, WorkerLost], None],
        demonstrations: Mapping[str, Sequence[int]] = MappingProxyType({}),
    ) -> None:
        self._config = config
        self._problems = problems
        self._demonstrations = demonstrations
        self._on_scored = on_scored
        self._on_unjudged = on_unjudged
        self._on_lost = on_lost
        self._queue: asyncio.Queue[SampleGroup] = asyncio.Queue()
        self._names = (f"verifier-{number}" for number in itertools.count())
        self._slots: list[asyncio.Task[None]] = []
        self.workers: dict[str, VerifierHandle] = {}
        self.num_restarts = 0
        self.num_child_restarts = 0
        """Verifier processes replaced within their workers: what they died of may show in no verdict."""

    @property
    def queue_depth(self) -> int:
        return self._queue.qsize()

    def start(self) -> list[asyncio.Task[None]]:
        self._slots = [asyncio.create_task(self._tend()) for _ in range(self._config.workers)]
        return self._slots

    def put(self, group: SampleGroup) -> None:
        """Queue a group for judgement."""
        self._queue.put_nowait(group)

    async def stop(self) -> None:
        """End all workers."""
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        for worker in self.workers.values():
            ray.kill(worker.actor)
        self.workers.clear()

    async def _tend(self) -> None:
        """One slot: a worker, and the next one when it is lost; its groups go back to the queue."""
        while True:
            name = next(self._names)
            worker = VerifierHandle(name=name, actor=self._create())
            self.workers[name] = worker
            groups: list[SampleGroup] = []
            try:
                facts = await reply(
                    worker.actor.ready.remote(),
                    timeout_s=self._config.startup_timeout_s + STARTUP_MARGIN_S,
                    of=name,
                    doing="starting",
                )
                worker.pid = facts["pid"]
                while True:
                    groups = [await self._queue.get()]
                    while len(groups) < GROUPS_PER_CALL and not self._queue.empty():
                        groups.append(self._queue.get_nowait())
                    await self._judge(worker, groups)
                    groups = []
            except WorkerLost as error:
                for group in groups:
                    self._queue.put_nowait(group)
                ray.kill(worker.actor)
                del self.workers[name]
                self.num_restarts += 1
                self._on_lost("verifier", error)

    def _create(self) -> Any:
        # Ray no longer hides GPUs from actors that asked for none.
        hidden = {} if self._config.num_gpus else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
        return VerifierWorker.options(  # type: ignore[attr-defined]
            num_cpus=self._config.num_cpus,
            num_gpus=self._config.num_gpus,
            resources=self._config.resources,
            max_concurrency=2,
            runtime_env=hidden,
        ).remote(self._config)

    async def _judge(self, worker: VerifierHandle, groups: list[SampleGroup]) -> None:
        items = [
            (group.group, self._problems[group.problem_id], self._candidates_of(group)) for group in groups
        ]
        judged = await reply_while_alive(
            worker.actor.judge.remote(items),
            ping=worker.actor.ready,
            ping_every_s=PING_EVERY_S,
            heartbeat_timeout_s=self._config.heartbeat_timeout_s,
            of=worker.name,
            doing="judging",
        )
        self.num_child_restarts += judged["num_restarts"] - worker.num_child_restarts
        worker.num_child_restarts = judged["num_restarts"]
        for group in groups:
            verdicts = judged["verdicts"][group.group]
            if any(verdict.status == "crashed" for verdict in verdicts):
                self._on_unjudged(group, judged["errors"].get(group.group, "no message"))
            else:
                self._on_scored(score(group, verdicts, self._demonstrations.get(group.problem_id)))

    def _candidates_of(self, group: SampleGroup) -> list[str]:
        """The group's samples, and after them the demonstration where there is one to be judged."""
        if group.problem_id not in self._demonstrations:
            return list(group.texts)
        demonstration = self._problems[group.problem_id].demonstration
        assert demonstration is not None
        return [*group.texts, demonstration]


def score(
    group: SampleGroup, verdicts: Sequence[Verdict], demonstration: Sequence[int] | None = None
) -> ScoredGroup:
    """Put verdicts beside their group: one per sample and in its order, then the demonstration's if its
    token ids are given.
    """
    judged = None
    if demonstration is not None:
        *verdicts, verdict = verdicts
        judged = Demonstration(token_ids=np.array(demonstration, np.int32), score=verdict.score)
    return ScoredGroup(
        samples=group,
        scores=np.array([verdict.score for verdict in verdicts], np.float64),
        rewards=np.array([verdict.reward for verdict in verdicts], np.float64),
        statuses=tuple(verdict.status for verdict in verdicts),
        answers=tuple(verdict.answer for verdict in verdicts),
        latencies_s=np.array([verdict.latency_s for verdict in verdicts], np.float32),
        demonstration=judged,
    )
