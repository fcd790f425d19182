"""Evaluations of the policy while it is trained, on the run's own engines and verifiers, one at a time.

| call       | waits for                              | unblocked by                                              |
|------------|----------------------------------------|-----------------------------------------------------------|
| `run`      | the last verdict of an evaluation      | engines and verifiers, which their fleets watch; a problem |
|            |                                        | that the verifier fails on again and again is left out    |
| `finish`   | the evaluation under way, the last one | `run`; or the run is to stop                              |

Engines sample held-out groups after all that is trained on, verifiers judge them after it. An evaluation goes first, and
training waits for it, where it must be of one version only: the one before the first step, and those of a synchronous
run; and where it has had its time: when the next one is due.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from actors.types import GroupFacts, Judgement, Lease, Piece
from cluster.config.schema import RunConfig
from cluster.estimates.standing import Standing
from cluster.fleet.stored import Assembly, JudgedGroup, StoredGroup, StoredPiece
from cluster.leasing import priority
from cluster.leasing.ledger import Ledger
from cluster.leasing.work import Work
from cluster.run.asked import Asked
from cluster.run.health import Health
from cluster.run.metrics import Metrics
from cluster.run.unjudged import TRIES
from cluster.run_directory.held_out import HeldOutRecord
from cluster.run_directory.record import RunRecord
from verifiers.types import Problem

if TYPE_CHECKING:  # it imports torch, which a run without evaluations has no need of
    from cluster.estimates.held_out import Values

FIRST_GROUP = 1 << 40
"""Numbers of held-out groups begin here, beyond all that a run trains on."""
SALT = "held out"
"""Prompts that are trained on must not find what these left in the prefix cache: it would change the last bits."""


def is_held_out(group: StoredPiece | StoredGroup) -> bool:
    return group.facts.group >= FIRST_GROUP


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """One under way; groups are numbered as in the ledger."""

    version: int
    """The policy's when it began."""
    places: dict[int, int]
    """Which of the asked problems each group asks."""
    begun_s: float = math.inf
    """When its first group was leased, by the monotonic clock."""
    judged: dict[int, tuple[GroupFacts, Judgement]] = field(default_factory=dict)
    """Without a reference to the samples: nothing else is asked of them."""
    left_out: set[int] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        return len(self.judged) + len(self.left_out) == len(self.places)


class HeldOut:
    """`work` is what engines are given of it. `verify` queues a group that asks a problem; `on_change` is called when
    training may go on, or the run is to end.
    """

    def __init__(
        self,
        config: RunConfig,
        asked: Asked,
        record: RunRecord,
        metrics: Metrics,
        health: Health,
        *,
        version: int,
        trained_to: Callable[[], int],
        is_stopping: Callable[[], bool],
        verify: Callable[[StoredGroup, Problem], None],
        on_change: Callable[[], None],
    ) -> None:
        """The run goes on from `version`; `trained_to`: the learner's version by now."""
        self._config = config
        self._asked = asked
        self._record = record
        self._metrics = metrics
        self._health = health
        self._trained_to = trained_to
        self._is_stopping = is_stopping
        self._verify = verify
        self._on_change = on_change
        evaluation = config.evaluation
        self._every = evaluation.every if evaluation and asked.problems else 0
        self._seed = evaluation.seed if evaluation else 0
        self._keep_best = config.train.keep_best
        self._ledger = Ledger(
            num_problems=max(1, len(asked.problems)),
            num_groups=0,
            seed=0,
            num_samples=evaluation.during_samples if evaluation else 1,
        )
        self._received = Assembly()
        self._current: Evaluation | None = None
        self._first_since_s = math.inf
        """When the one under way began to go first."""
        self._came_s = -math.inf
        """When the newest of its groups came."""
        self._unjudgeable: set[int] = set()
        self._failures: Counter[int] = Counter()
        self._changed = asyncio.Event()
        self._written = HeldOutRecord(record.run_dir, step=version)
        self._base = self._judgements_of_base()
        self._base_values: Values | None = None
        self._standing = Standing()
        record.link_best(None)  # what it led to may have been rewound
        for row in self._written.rows:
            self._rank(row)
            metrics.observe_held_out(row)
        self._settle_best()
        last = max((row["step"] for row in self._written.rows), default=-1)
        self._is_due = bool(self._every) and last < version - version % max(1, self._every)
        """One is due that has not begun, since another was under way or the run was interrupted."""
        self.work = Work(
            ledger=self._ledger,
            num_admitted=self._num_admitted,
            make_lease=self._make_lease,
            due_since_s=self._due_since_s,
        )

    @property
    def goes_first(self) -> bool:
        """Whether nothing that is trained on may be leased before the evaluation under way is over."""
        return self._first_since_s < math.inf

    @property
    def verdict(self) -> str | None:
        """Why the run is to end, where `train.stop_when_worse_for` says so."""
        limit, standing = self._config.train.stop_when_worse_for, self._standing
        if limit is None or standing.num_since < limit:
            return None
        return (
            f"held-out {self._keep_best} has not improved for {standing.num_since} evaluations, the best is of step "
            f"{standing.step}"
        )

    @property
    def _places_left(self) -> list[int]:
        """Of the problems that the verifier can judge, as far as is known."""
        return [place for place in range(len(self._asked.problems)) if place not in self._unjudgeable]

    def is_due_at(self, version: int) -> bool:
        """Whether an evaluation is to begin with the version, as soon as no other is under way."""
        if not self._every or not self._places_left:
            return False
        return self._is_due or version % self._every == 0 or version == self._config.train.steps

    def begin_if_due(self, version: int) -> None:
        """The learner is at `version`, before its next step."""
        if not self.is_due_at(version):
            return
        if self._current is not None:
            self._is_due = True
            self._go_first()
            return
        self._is_due = False
        active = self._places_left
        first = self._ledger.num_groups
        self._ledger.num_groups += len(active)
        self._current = Evaluation(version=version, places=dict(enumerate(active, first)))
        if self._keep_best:
            self._record.kept_steps.add(version)
        if version == 0 or self._config.train.max_staleness == 0:
            self._go_first()

    async def finish(self, version: int) -> None:
        """Return when no evaluation is under way or due any more; the last version of the run is `version`."""
        while (self._current or self._is_due) and not self._is_stopping() and not self.verdict:
            if self._current is None:
                self.begin_if_due(version)
            self._go_first()
            self._on_change()
            self._changed.clear()
            await self._changed.wait()

    def wake(self) -> None:
        """The run is to stop: no one waits for an evaluation any more."""
        self._changed.set()

    async def run(self) -> None:
        """Reckon and write each evaluation that is over."""
        if self._every:
            await asyncio.to_thread(_reckoning)  # while engines start
        while True:
            self._changed.clear()
            if self._current is not None and self._current.is_over:
                await self._end(self._current)
            else:
                await self._changed.wait()

    def receive(self, worker: str, one: StoredPiece) -> None:
        """Samples have come."""
        piece = one.facts.piece._replace(group=one.facts.group - FIRST_GROUP)
        if not self._ledger.receive(piece, worker):
            self._metrics.observe_discarded("late")
            return
        self._came_s = time.monotonic()
        self._metrics.observe_held_out_samples(one.facts.num_samples, one.facts.num_tokens)
        self._received.add(one)
        if self._ledger.is_received(piece.group):
            assert self._current is not None
            problem = self._asked.problems[self._current.places[piece.group]]
            self._verify(self._received.take(one.facts.group), problem)

    def accept(self, group: JudgedGroup) -> None:
        """A group is judged."""
        number = group.stored.facts.group - FIRST_GROUP
        if not self._ledger.commit(number):
            self._metrics.observe_discarded("late")
            return
        assert self._current is not None
        self._current.judged[number] = group.stored.facts, group.judgement
        self._health.note_success()
        self._changed.set()

    def give_back(self, group: StoredGroup, error: str) -> None:
        """The verifier failed on a group: sampled again, or its problem is left out from now on."""
        assert self._current is not None
        number = group.facts.group - FIRST_GROUP
        place = self._current.places[number]
        self._metrics.observe_discarded("unjudged")
        self._health.note_unjudged(group.facts.problem_id, error, is_new=not self._failures[place])
        self._failures[place] += 1
        if self._failures[place] < TRIES:
            self._ledger.release([number])
            self._on_change()
            return
        self._ledger.commit(number)
        self._unjudgeable.add(place)
        self._current.left_out.add(number)
        self._health.note(
            f"held-out problem {group.facts.problem_id} is left out: the verifier failed on it {TRIES} times"
        )
        if not self._places_left:
            self._is_due = False
            self._health.note(
                "no held-out problem is left that the verifier can judge: no further evaluation begins"
            )
        self._changed.set()

    def release(self, groups: list[StoredGroup]) -> None:
        """Samples are lost with the node that had them: sampled again."""
        self._ledger.release([group.facts.group - FIRST_GROUP for group in groups])
        self._metrics.observe_discarded("lost", len(groups))
        self._health.note_gone(groups)
        self._on_change()

    def facts(self) -> dict[str, Any] | None:
        """What the console and `bonfire status` show; None without evaluations."""
        if not self._every:
            return None
        current, best = self._current, self._standing
        return {
            "num": len(self._written.rows),
            "newest": self._written.rows[-1] if self._written.rows else None,
            "shown": self._config.during_shown,
            "under_way": None
            if current is None
            else {
                "step": current.version,
                "num_done": len(current.judged) + len(current.left_out),
                "num_problems": len(current.places),
                "goes_first": self.goes_first,
            },
            "best": None
            if best.step is None
            else {"step": best.step, "by": self._keep_best, "value": best.value},
        }

    def _judgements_of_base(self) -> dict[int, Judgement]:
        """By index, of the problems that are still what they were when the run began."""
        ids = dict(zip(self._asked.indices, (problem.id for problem in self._asked.problems), strict=True))
        known = self._written.judgements(0)
        return {index: judgement for index, (name, judgement) in known.items() if ids.get(index) == name}

    def _due_since_s(self) -> float:
        """All groups may be leased at once, and the last of them wait for all others."""
        return max(self._first_since_s, self._came_s)

    def _go_first(self) -> None:
        self._first_since_s = min(self._first_since_s, time.monotonic())

    def _num_admitted(self, version: int) -> int:
        if self._current is None or version < self._current.version or self._is_stopping():
            return 0
        return len(self._current.places)

    def _make_lease(self, piece: Piece) -> Lease:
        assert self._current is not None and self._config.evaluation is not None
        self._current.begun_s = min(self._current.begun_s, time.monotonic())
        place = self._current.places[piece.group]
        return Lease(
            piece=piece._replace(group=FIRST_GROUP + piece.group),
            problem_id=self._asked.problems[place].id,
            prompt_token_ids=self._asked.prompts[place],
            seed=self._config.evaluation.seed_of(self._asked.indices[place]),
            priority=priority.of_evaluation(piece.group),
            cache_salt=SALT,
        )

    async def _end(self, evaluation: Evaluation) -> None:
        by_index = {
            self._asked.indices[evaluation.places[number]]: evaluation.judged[number]
            for number in sorted(evaluation.judged)
        }
        judgements = {index: judgement for index, (_, judgement) in by_index.items()}
        if evaluation.version == 0:
            self._base, self._base_values = judgements, None
        row = {
            **_about(evaluation),
            "ended_step": self._trained_to(),
            **(await asyncio.to_thread(self._reckon, judgements)),
        }
        self._written.add(row, {index: (facts.problem_id, one) for index, (facts, one) in by_index.items()})
        self._metrics.observe_held_out(row)
        self._rank(row)
        self._settle_best()
        self._ledger.train(evaluation.places)
        self._current, self._first_since_s = None, math.inf
        self._changed.set()
        self._on_change()

    def _reckon(self, judgements: dict[int, Judgement]) -> dict[str, Any]:
        if not judgements:
            return {"estimates": {}, "differences": {}}
        reckoning, ks = _reckoning(), self._config.during_ks
        values = reckoning.values_of(judgements, ks)
        if self._base_values is None and self._base:
            self._base_values = values if judgements is self._base else reckoning.values_of(self._base, ks)
        found = {"estimates": reckoning.estimates_of(values, seed=self._seed), "differences": {}}
        if self._base_values not in (None, values):
            found["differences"] = reckoning.differences_of(values, self._base_values, seed=self._seed)
        return {
            what: {name: asdict(estimate) for name, estimate in by_name.items()}
            for what, by_name in found.items()
        }

    def _rank(self, row: dict[str, Any]) -> None:
        """The version that the run began with has no checkpoint: it is none of those that may be the best."""
        if self._keep_best and row["step"] > 0:
            estimate = row["estimates"].get(self._keep_best)
            self._standing.add(row["step"], estimate and estimate["mean"])

    def _settle_best(self) -> None:
        """Keep the best one's checkpoint, and of the others what is new."""
        best = self._standing.step
        self._record.kept_steps = set() if best is None else {best}
        if best is not None:
            self._record.link_best(best)
            self._metrics.set_best(best)


def _reckoning() -> Any:
    """Imported late, as above."""
    from cluster.estimates import held_out

    return held_out


def _about(evaluation: Evaluation) -> dict[str, Any]:
    """What a line says of an evaluation, but for its estimates."""
    facts = [facts for facts, _ in evaluation.judged.values()]
    return {
        "step": evaluation.version,
        "oldest_version": min((one.oldest_version for one in facts), default=evaluation.version),
        "newest_version": max((one.newest_version for one in facts), default=evaluation.version),
        "time": time.time(),
        "seconds": time.monotonic() - evaluation.begun_s,
        "num_problems": len(facts),
        "num_left_out": len(evaluation.left_out),
        "num_samples": sum(one.num_samples for one in facts),
        "num_tokens": sum(one.num_tokens for one in facts),
    }
