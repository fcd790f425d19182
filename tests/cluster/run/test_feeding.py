"""The learner is brought its batch part by part, and what is lost on the way there is sampled again. The learner is none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from actors.types import Piece
from cluster.config.schema import TrainConfig
from cluster.fleet.stored import JudgedGroup, SamplesLost
from cluster.leasing.ledger import Ledger
from cluster.run.batches import Batches
from cluster.run.feeding import Feeder
from cluster.run.metrics import Metrics
from cluster.run.progress import Progress
from tests.shared.stored_groups import Nowhere, referred
from tests.shared.tiny_model import make_group


class Learner:
    """Fetches what is not `lost`, begins with what it has fetched; `later` happens while it waits."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.fetched: list[int] = []
        self.begun: list[int] = []
        self.later: list[Any] = []

    async def fetch(self, groups: Sequence[JudgedGroup]) -> None:
        for group in groups:
            for object_id in self.lost:
                if group.stored.is_in(object_id):
                    raise SamplesLost(object_id)
        self.fetched = [group.stored.facts.group for group in groups]

    async def begin_step(self, numbers: Sequence[int], *, num_groups: int) -> None:
        assert num_groups == 8 and list(numbers) == self.fetched
        self.begun += numbers

    async def wait(self, event: asyncio.Event) -> None:
        self.later.pop(0)()


class Run:
    """8 groups a step in parts of two; groups are leased, sampled and judged by command."""

    def __init__(self) -> None:
        config = TrainConfig(groups_per_step=8, max_staleness=1)
        self.ledger = Ledger(num_problems=100, num_groups=100, seed=0)
        self.batches = Batches(config, self.ledger)
        self.learner, self.metrics = Learner(), Metrics()
        self.gone: list[int] = []
        self.feeder = Feeder(
            self.batches,
            self.learner,  # type: ignore[arg-type]
            Progress(steps=1),
            self.metrics,
            top_up=self.lease,
            on_gone=lambda groups: self.gone.extend(group.facts.group for group in groups),
        )
        self.lease(8)

    def lease(self, count: int = 100) -> None:
        for _ in range(min(count, 16 - self.ledger.num_outstanding)):
            self.ledger.lease("rollout-0", version=0, now_s=0.0)

    def judge(self, *numbers: int, where: str = "there") -> None:
        for number in numbers:
            assert self.ledger.receive(Piece(number, 0, 1), "rollout-0")
            self.batches.receive(number)
            assert self.ledger.commit(number)
            self.batches.add(referred(make_group(number), Nowhere(where)))

    def next_batch(self) -> list[int] | None:
        return asyncio.run(self.feeder.next_batch(0, is_over=lambda: False))


@pytest.fixture
def run() -> Run:
    return Run()


def test_a_batch_is_all_with_the_learner_before_it_is_trained(run: Run) -> None:
    run.judge(0, 1, 2)
    run.learner.later = [lambda: run.judge(3), lambda: run.judge(4, 5, 6, 7)]
    assert run.next_batch() == list(range(8))
    assert run.learner.begun == [0, 1, 2, 3] and run.learner.fetched == [4, 5, 6, 7]
    assert [*run.ledger.begun] == [0, 1, 2, 3]


def test_a_part_that_is_lost_on_its_way_is_not_begun_and_its_groups_are_pending_again(run: Run) -> None:
    run.judge(0, 2, where="gone")
    run.judge(1)
    run.learner.lost = {"gone"}

    def sampled_again() -> None:
        assert run.gone == [0, 2] and run.ledger.counts["pending"] == 94
        assert run.learner.begun == [] and not run.ledger.begun
        run.lease(2)
        run.judge(0, 2, 3, 4, 5, 6, 7)

    run.learner.later = [sampled_again]
    assert run.next_batch() == list(range(8))
    assert sorted([*run.learner.begun, *run.learner.fetched]) == list(range(8))


def test_what_is_lost_of_a_whole_batch_is_replaced_and_what_is_begun_stays_begun(run: Run) -> None:
    run.judge(0, 1, where="gone")

    def rest() -> None:
        run.learner.lost = {"gone", "gone too"}  # the learner has 0 and 1
        run.judge(2, 3, where="gone too")
        run.judge(4, 5, 6, 7)

    def sampled_again() -> None:
        assert run.gone == [2, 3] and run.learner.begun[:2] == [0, 1]
        run.lease(2)
        run.judge(2, 3)

    run.learner.later = [rest, sampled_again]
    assert run.next_batch() == list(range(8))
    begun = run.learner.begun
    assert sorted([*begun, *run.learner.fetched]) == list(range(8)) and [*run.ledger.begun] == begun


def test_a_run_that_is_to_stop_trains_no_further_batch(run: Run) -> None:
    run.judge(*range(8))
    assert asyncio.run(run.feeder.next_batch(0, is_over=lambda: True)) is None
    assert run.learner.fetched == []
