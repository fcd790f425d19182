"""Groups that are trained on, from an engine's hands to the learner's batches: received, judged, or given back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.fleet.stored import Assembly, JudgedGroup, StoredGroup, StoredPiece
from cluster.leasing.ledger import Ledger
from cluster.run.batches import Batches
from cluster.run.health import Health
from cluster.run.metrics import Metrics
from cluster.run.progress import Progress
from cluster.run.unjudged import TRIES, Unjudged


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrivals:
    """`indices`: places of the problems by id; `version`: the learner's by now; `verify` queues a group; `top_up` gives
    engines what was given back.
    """

    ledger: Ledger
    batches: Batches
    unjudged: Unjudged
    indices: Mapping[str, int]
    progress: Progress
    metrics: Metrics
    health: Health
    max_staleness: int
    version: Callable[[], int]
    is_ending: Callable[[], bool]
    verify: Callable[[StoredGroup], None]
    top_up: Callable[[], None]
    received: Assembly = field(default_factory=Assembly)

    def receive(self, worker: str, one: StoredPiece) -> None:
        """Samples have come."""
        facts = one.facts
        if not self.ledger.receive(facts.piece, worker, version=facts.oldest_version):
            self.metrics.observe_discarded("late")
        elif self.version() - facts.oldest_version > self.max_staleness:  # it was silent
            self.ledger.give_back(facts.piece)
            self.metrics.observe_discarded("stale")
            self.batches.changed.set()
        else:
            self.progress.sampled(facts)
            self.metrics.observe_samples(facts.num_samples, facts.num_tokens)
            self.received.add(one)
            if self.ledger.is_received(facts.group):
                self.batches.receive(facts.group)
                self.verify(self.received.take(facts.group))

    def accept(self, group: JudgedGroup) -> None:
        """A group is judged."""
        number = group.stored.facts.group
        lease = self.ledger.leased.get(number)
        if lease is None or not self.ledger.commit(number):
            self.metrics.observe_discarded("late")
            return
        seconds = time.monotonic() - lease.since_s
        self.progress.judged(seconds)
        self.metrics.observe_verdicts(group.judgement, seconds)
        self.batches.add(group)
        self.health.note_success()
        self.health.check_statuses(group.judgement.statuses)

    def give_back(self, group: StoredGroup, error: str) -> None:
        """The verifier failed on a group."""
        self.ledger.release([group.facts.group])
        self.batches.forget([group.facts.group])
        self.metrics.observe_discarded("unjudged")
        self.batches.changed.set()
        problem_id = group.facts.problem_id
        self.health.note_unjudged(problem_id, error, is_new=self.unjudged.is_first_failure(problem_id))
        if not self.is_ending() and self.unjudged.failed(problem_id, error, self.version()):
            self.ledger.set_aside.add(self.indices[problem_id])
            self.health.note(f"problem {problem_id} is set aside: the verifier failed on it {TRIES} times")
        self.top_up()

    def release(self, groups: list[StoredGroup]) -> None:
        """They were to be judged, and their samples are lost."""
        numbers = [group.facts.group for group in groups]
        self.ledger.release(numbers)
        self.batches.forget(numbers)
        self.note_gone(groups)

    def note_gone(self, groups: list[StoredGroup]) -> None:
        """Samples are lost of groups that are pending again."""
        self.metrics.observe_discarded("lost", len(groups))
        self.health.note_gone(groups)
        self.batches.changed.set()
        self.top_up()
