"""Which groups the learner begins with, and in which parts the rest comes."""

from __future__ import annotations

import pytest

from actors.types import Piece
from cluster.config.schema import TrainConfig
from cluster.leasing.ledger import Ledger
from cluster.run.batches import Batches
from tests.shared.stored_groups import Nowhere, referred
from tests.shared.tiny_model import make_group


class Run:
    """A ledger of one worker that leased `leased` groups under version 0, and the groups judged so far."""

    def __init__(self, *, leased: int = 8, **train: int) -> None:
        config = TrainConfig(groups_per_step=train.pop("groups_per_step", 8), **train)
        self.ledger = Ledger(num_problems=100, num_groups=100, seed=0)
        self.batches = Batches(config, self.ledger)
        for _ in range(leased):
            self.ledger.lease("rollout-0", version=0, now_s=0.0)

    def judged(self, *numbers: int, where: str = "") -> None:
        for number in numbers:
            assert self.ledger.receive(Piece(number, 0, 1), "rollout-0")
            self.batches.receive(number)
            assert self.ledger.commit(number)
            self.batches.add(referred(make_group(number), Nowhere(where)))

    def part(self) -> list[int] | None:
        part = self.batches.next_part(0)
        if part is not None:
            self.batches.begin(part)
        return part

    def rest(self) -> list[list[int]]:
        batch = self.batches.cut(0)
        assert batch is not None
        return self.batches.rest(batch)


def test_the_learner_begins_with_a_part_of_the_batch_as_soon_as_it_is_there():
    run = Run(max_staleness=1)
    run.judged(5)
    assert run.part() is None
    run.judged(2, 7)
    assert run.part() == [2, 5]
    assert run.part() is None
    run.judged(0, 1, 3, 4)
    assert run.batches.cut(0) is None
    assert [run.part(), run.part()] == [[0, 1], [3, 4]]
    run.judged(6)
    assert run.batches.cut(0) == list(range(8))
    assert run.rest() == [[6, 7]]


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3, 4, 5, 6, 7], [7, 3, 1, 0, 6, 2, 4, 5], [0, 2, 4, 6, 1, 3, 5, 7]]
)
def test_synchronous_parts_are_the_same_whenever_the_groups_came(order):
    run = Run(max_staleness=0)
    parts = []
    for number in order:
        run.judged(number)
        while run.batches.cut(0) is None and (part := run.part()):
            parts.append(part)
    assert [*parts, *run.rest()] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_synchronous_part_waits_for_a_group_that_was_lost_and_is_to_be_sampled_again():
    run = Run(max_staleness=0)
    run.judged(1, 2, 3, 4)
    run.ledger.release([0])
    assert run.part() is None
    run.ledger.lease("rollout-1", version=0, now_s=1.0)
    assert run.part() is None
    assert run.ledger.receive(Piece(0, 0, 1), "rollout-1")
    run.batches.receive(0)
    run.ledger.commit(0)
    run.batches.add(referred(make_group(0), Nowhere("")))
    assert [run.part(), run.part()] == [[0, 1], [2, 3]]


def test_a_batch_in_one_part_is_begun_when_it_is_complete():
    run = Run(max_staleness=1, parts_per_step=1)
    run.judged(*range(7))
    assert run.part() is None
    run.judged(7)
    assert run.rest() == [list(range(8))]


def test_a_trained_batch_is_forgotten_and_the_next_one_begins_without_it():
    run = Run(leased=16, max_staleness=1)
    run.judged(*range(8))
    run.part()
    batch = run.batches.cut(0)
    groups = run.batches.groups(batch)
    assert [group.stored.facts.group for group in groups] == batch == list(range(8))
    assert run.batches.judging_s(batch) >= 0
    run.ledger.train(batch)
    run.batches.forget(batch)
    run.judged(9, 8)
    assert run.batches.next_part(1) == [8, 9]
    assert run.ledger.num_outstanding == 8


def test_a_part_that_could_not_be_fetched_is_not_begun():
    run = Run(max_staleness=1)
    run.judged(2, 5)
    assert run.batches.next_part(0) == run.batches.next_part(0) == [2, 5]
    assert run.ledger.counts["buffered"] == 2 and not run.ledger.begun


def test_groups_whose_samples_are_lost_are_pending_again_unless_the_learner_has_passed_over_them():
    run = Run(max_staleness=1)
    run.judged(0, 1, 2, where="lost")
    run.judged(3, where="there")
    assert run.part() == [0, 1]
    lost = run.batches.discard_lost("lost")
    assert [group.stored.facts.group for group in lost] == [2]
    assert run.batches.discard_lost("lost") == []
    assert [*run.ledger.begun] == [0, 1] and [*run.ledger.buffered] == [3]
    assert run.ledger.lease("rollout-1", version=0, now_s=0.0) == Piece(2, 0, 1)
    assert not run.ledger.receive(Piece(2, 0, 1), "rollout-0")
    assert run.ledger.receive(Piece(2, 0, 1), "rollout-1")
    run.batches.receive(2)
    assert run.ledger.commit(2)
    run.batches.add(referred(make_group(2), Nowhere("there")))
    run.judged(4, 5, 6, 7, where="there")
    assert run.batches.cut(0) == list(range(8)) and run.rest() == [[2, 3, 4, 5, 6, 7]]
    assert len(run.batches.groups(list(range(8)))) == 8
