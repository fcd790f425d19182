"""The verifier workers of a run: each takes the next groups that wait for a verdict.

| loop             | waits for                      | unblocked by                          |
|------------------|--------------------------------|---------------------------------------|
| `_work` (a slot) | groups to judge                | a rollout worker; or it is to leave   |
|                  | verdicts                       | its verifier or the heartbeat timeout |
|                  |                                | of a stopped one                      |
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import ray

from actors.arrow_forms import Place
from actors.types import Demonstration, Judgement
from cluster.fleet.calls import WorkerLost, listen, lost_argument, reply_while_alive
from cluster.fleet.handles import WorkerHandle
from cluster.fleet.slots import Slot
from cluster.fleet.stored import JudgedGroup, StoredGroup, distinct_batches
from cluster.fleet.tending import Fleet
from verifiers.config import VerifierConfig
from verifiers.models.judge_config import GPUS_VARIABLE
from verifiers.types import Problem, Verdict
from verifiers.worker import Candidates, VerifierWorker

STARTUP_MARGIN_S = 30.0
"""For the worker around the verifier's process."""
GROUPS_PER_CALL = 8

logger = logging.getLogger(__name__)


@dataclass(slots=True, order=True)
class Case:
    """A group to judge; two workers may have it, where one fell silent: the first verdict counts."""

    place: tuple[bool, int]
    """In the queue, also when it is given to another worker."""
    group: StoredGroup = field(compare=False)
    problem: Problem = field(compare=False)
    demonstration: Sequence[int] | None = field(compare=False)
    """Token ids of what is judged with the group."""
    is_over: bool = field(default=False, compare=False)
    """It is judged, or its samples are lost."""


@dataclass(slots=True, kw_only=True, eq=False)
class VerifierHandle(WorkerHandle):
    """One living verifier worker."""

    num_child_restarts: int = 0
    cases: list[Case] = field(default_factory=list)
    """Those of its call that nobody else was given."""
    judging_since_s: float | None = None

    @property
    def takes_groups(self) -> bool:
        return self.has_started and not self.slot.is_leaving and not self.silent.is_set()


class VerifierFleet(Fleet[VerifierHandle]):
    """Keeps `slots.size` verifier workers alive, `config.workers` to begin with, and gives them groups.

    `on_judged` receives a judged group, `on_unjudged` a group of which some candidate has no
    verdict because the verifier itself failed, with the verifier's message, `on_gone` those that were to be judged and
    whose samples a lost node has taken along. `demonstrations` are the
    token ids of those problems' demonstrations that are to be judged with every group. `on_news` hears
    how a worker left that was asked to, which finishes its call first, if its slot's deadline allows; and of one that does
    not answer.

    The groups of one that has not answered for `config.suspect_after_s` are given to others too, where there are some.
    """

    def __init__(
        self,
        *,
        config: VerifierConfig,
        problems: Mapping[str, Problem],
        on_judged: Callable[[JudgedGroup], None],
        on_unjudged: Callable[[StoredGroup, str], None],
        on_gone: Callable[[list[StoredGroup]], None],
        on_lost: Callable[[str, WorkerLost], None],
        on_news: Callable[[str], None] = logger.info,
        demonstrations: Mapping[str, Sequence[int]] = MappingProxyType({}),
    ) -> None:
        super().__init__(
            "verifier", size=config.workers, leave_within_s=None, on_lost=on_lost, on_news=on_news
        )
        self._config = config
        self._problems = problems
        self._demonstrations = demonstrations
        self._on_judged = on_judged
        self._on_unjudged = on_unjudged
        self._on_gone = on_gone
        self._queue: asyncio.PriorityQueue[Case] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._names = (f"verifier-{number}" for number in itertools.count())
        self.num_child_restarts = 0
        """Verifier processes replaced within their workers: what they died of may show in no verdict."""
        self._judged_s = 0.0

    @property
    def working(self) -> list[VerifierHandle]:
        return [
            worker for worker in self.workers.values() if worker.has_started and not worker.silent.is_set()
        ]

    @property
    def queue_depth(self) -> int:
        return self._queue.qsize()

    @property
    def busy_s(self) -> float:
        """Seconds that workers have spent on calls, of all of them together, calls under way included."""
        now_s = time.monotonic()
        under_way = [worker.judging_since_s for worker in self.workers.values()]
        return self._judged_s + sum(now_s - since_s for since_s in under_way if since_s is not None)

    def put(self, group: StoredGroup, held_out: Problem | None = None) -> None:
        """Queue a group for judgement; one that asks a `held_out` problem, which is none of `problems`, after all others."""
        problem_id = group.facts.problem_id
        self._queue.put_nowait(
            Case(
                place=(held_out is not None, next(self._numbers)),
                group=group,
                problem=held_out or self._problems[problem_id],
                demonstration=None if held_out else self._demonstrations.get(problem_id),
            )
        )

    async def _work(self, worker: VerifierHandle) -> None:
        """Until the worker's slot is to leave, and its call is over."""
        while await worker.slot.unless_leaving(self._take_cases(worker)):
            await self._judge(worker)

    async def _take_cases(self, worker: VerifierHandle) -> bool:
        """True, once it has some: at once its own, for its deadline may come before its next step."""
        while not worker.cases:
            worker.cases = _unjudged([await self._queue.get()])
        while len(worker.cases) < GROUPS_PER_CALL and not self._queue.empty():
            worker.cases += _unjudged([self._queue.get_nowait()])
        return True

    async def _bring_up(self, worker: VerifierHandle) -> bool:
        """True, once the worker can judge."""
        await worker.place()
        timeout_s = self._config.startup_timeout_s + STARTUP_MARGIN_S
        await worker.make_ready(timeout_s=timeout_s, doing="starting", phase="verifiers")
        worker.begin_work()
        self._relieve_silent()
        return True

    def _create(self, slot: Slot) -> VerifierHandle:
        num_gpus = self._config.num_gpus
        # Ray no longer hides GPUs from actors that asked for none.
        own = {GPUS_VARIABLE: f"{num_gpus:g}"} if num_gpus else {"CUDA_VISIBLE_DEVICES": ""}
        actor = VerifierWorker.options(  # type: ignore[attr-defined]
            num_cpus=self._config.num_cpus,
            num_gpus=num_gpus,
            resources=self._config.resources,
            max_concurrency=2,
            runtime_env={"env_vars": own},
        ).remote(self._config)
        return VerifierHandle(name=next(self._names), actor=actor, slot=slot)

    def _leave(self, worker: VerifierHandle) -> None:
        self._remove(worker)
        self._on_news(f"{worker.name} has left")

    def _remove(self, worker: VerifierHandle) -> None:
        worker.slot.is_working = False
        self._hand_over(worker)
        ray.kill(worker.actor)
        del self.workers[worker.name]

    def _pass_on(self) -> None:
        """Nothing: who waits for groups finds in the queue what was handed over."""

    def _hand_over(self, worker: VerifierHandle) -> None:
        for case in worker.cases:
            self._queue.put_nowait(case)
        worker.cases = []

    def _suspect(self, worker: VerifierHandle) -> None:
        self._on_news(worker.suspect(self._config.suspect_after_s))
        if any(other.takes_groups for other in self.workers.values()):
            self._relieve_silent()

    def _relieve_silent(self) -> None:
        for worker in self.workers.values():
            if worker.silent.is_set():
                self._hand_over(worker)

    async def _judge(self, worker: VerifierHandle) -> None:
        cases = worker.cases
        batches, places = distinct_batches([case.group for case in cases])
        items = [_candidates_of(case, where) for case, where in zip(cases, places, strict=True)]
        worker.judging_since_s = time.monotonic()
        try:
            judged = await reply_while_alive(
                worker.actor.judge.remote(items, *batches),
                ping=lambda: self._ping(worker),
                of=worker.name,
                doing="judging",
            )
        except WorkerLost as error:
            gone = [case for case in cases if case.group.is_in(lost_argument(error))]
            if not gone:
                raise
            self._give_up(gone)
            worker.cases = _unjudged(worker.cases)
            return
        finally:
            self._judged_s += time.monotonic() - worker.judging_since_s
            worker.judging_since_s = None
        worker.cases = []
        self.num_child_restarts += judged["num_restarts"] - worker.num_child_restarts
        worker.num_child_restarts = judged["num_restarts"]
        for case in _unjudged(cases):
            case.is_over = True
            number = case.group.facts.group
            verdicts = judged["verdicts"][number]
            if any(verdict.status == "crashed" for verdict in verdicts):
                self._on_unjudged(case.group, judged["errors"].get(number, "no message"))
            else:
                judgement = in_columns(verdicts, case.demonstration)
                self._on_judged(JudgedGroup(stored=case.group, judgement=judgement))

    def _give_up(self, gone: Sequence[Case]) -> None:
        """Cases whose samples are lost; another worker may have read them before."""
        missing = _unjudged(gone)
        for case in missing:
            case.is_over = True
        if missing:
            self._on_gone([case.group for case in missing])

    async def _ping(self, worker: VerifierHandle) -> None:
        """Returns when it has answered; if late, it goes on, unless its stand-in works already. Raises WorkerLost."""
        answer = worker.ping(timeout_s=self._config.heartbeat_timeout_s, doing="judging")
        await listen(answer, self._config.suspect_after_s, lambda: self._suspect(worker))
        if worker.silent.is_set():
            self._on_news(worker.trust())
            self.slots.settle(worker.slot, is_lost=False)
            self._relieve_silent()


def _candidates_of(case: Case, places: tuple[Place, ...]) -> Candidates:
    """The group's samples, and after them the demonstration where there is one to be judged."""
    is_imitated = case.demonstration is not None
    assert case.problem.demonstration is not None or not is_imitated
    return Candidates(
        group=case.group.facts.group,
        problem=case.problem,
        places=places,
        demonstration=case.problem.demonstration if is_imitated else None,
    )


def _unjudged(cases: Sequence[Case]) -> list[Case]:
    return [case for case in cases if not case.is_over]


def in_columns(verdicts: Sequence[Verdict], demonstration: Sequence[int] | None = None) -> Judgement:
    """A group's verdicts: one per sample and in its order, then the demonstration's if its token ids are given."""
    judged = None
    if demonstration is not None:
        *verdicts, verdict = verdicts
        judged = Demonstration(token_ids=np.array(demonstration, np.int32), score=verdict.score)
    return Judgement(
        scores=np.array([verdict.score for verdict in verdicts], np.float64),
        rewards=np.array([verdict.reward for verdict in verdicts], np.float64),
        statuses=tuple(verdict.status for verdict in verdicts),
        answers=tuple(verdict.answer for verdict in verdicts),
        latencies_s=np.array([verdict.latency_s for verdict in verdicts], np.float32),
        demonstration=judged,
    )
