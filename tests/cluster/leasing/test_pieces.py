"""Groups in pieces: every sample is with one holder at a time, and a group goes on when all its samples are there."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from actors.types import Piece
from cluster.leasing.leased_group import CONTROLLER
from cluster.leasing.ledger import Ledger


def make_ledger(num_groups=4, num_samples=8):
    return Ledger(num_problems=4, num_groups=num_groups, seed=0, num_samples=num_samples)


def lease(ledger, worker, most=None, version=0):
    return ledger.lease(worker, version=version, now_s=0.0, most=most)


def test_a_group_goes_on_when_all_its_pieces_are_received():
    ledger = make_ledger()
    assert [lease(ledger, "a", 3), lease(ledger, "b", 2), lease(ledger, "a")] == [
        Piece(0, 0, 3),
        Piece(0, 3, 5),
        Piece(0, 5, 8),
    ]
    assert lease(ledger, "a") == Piece(1, 0, 8)
    assert ledger.receive(Piece(0, 5, 8), "a") and ledger.receive(Piece(0, 0, 3), "a")
    assert not ledger.is_received(0) and not ledger.commit(0)
    assert ledger.receive(Piece(0, 3, 5), "b")
    assert ledger.is_received(0) and ledger.commit(0) and ledger.buffered == {0: 0}


def test_a_piece_counts_once_and_only_from_who_was_leased_it():
    ledger = make_ledger()
    lease(ledger, "a", 3), lease(ledger, "b")
    assert not ledger.receive(Piece(0, 0, 3), "b") and not ledger.receive(Piece(0, 0, 8), "a")
    assert not ledger.receive(Piece(0, 0, 2), "a")
    assert ledger.receive(Piece(0, 0, 3), "a") and not ledger.receive(Piece(0, 0, 3), "a")


def test_a_workers_death_loses_its_pieces_alone_and_they_are_leased_before_any_other_group():
    ledger = make_ledger()
    lease(ledger, "a", 3), lease(ledger, "dead", 3), lease(ledger, "b"), lease(ledger, "dead")
    assert ledger.receive(Piece(0, 0, 3), "a")
    ledger.forget("dead")
    assert ledger.num_outstanding == 1 and ledger.num_rest == 3  # group 1 is wholly pending
    assert ledger.next_piece == (Piece(0, 3, 6), 0)
    assert lease(ledger, "b", 1, version=2) == Piece(0, 3, 4) and lease(ledger, "a") == Piece(0, 4, 6)
    assert not ledger.receive(Piece(0, 3, 6), "dead")
    assert lease(ledger, "a") == Piece(1, 0, 8)
    for piece, worker in ((Piece(0, 3, 4), "b"), (Piece(0, 4, 6), "a"), (Piece(0, 6, 8), "b")):
        assert ledger.receive(piece, worker)
    assert ledger.commit(0) and ledger.buffered == {0: 0}


def test_a_silent_workers_piece_counts_as_long_as_nobody_was_leased_a_sample_of_it():
    ledger = make_ledger()
    lease(ledger, "silent", 4), lease(ledger, "b", 2), lease(ledger, "silent")
    ledger.doubt("silent")
    assert lease(ledger, "b", 1) == Piece(0, 0, 1)
    assert not ledger.receive(Piece(0, 0, 4), "silent")
    assert ledger.receive(Piece(0, 6, 8), "silent") and not ledger.receive(Piece(0, 6, 8), "silent")
    assert lease(ledger, "b") == Piece(0, 1, 4) and ledger.num_rest == 0


def test_a_group_is_as_old_as_its_oldest_piece():
    ledger = make_ledger()
    lease(ledger, "a", 4, version=5), lease(ledger, "b", version=6)
    assert dict(ledger.num_leased_by_version) == {5: 1}
    ledger.give_back(Piece(0, 4, 8))
    lease(ledger, "b", version=3)
    assert dict(ledger.num_leased_by_version) == {3: 1} and ledger.leased[0].version == 3
    assert ledger.receive(Piece(0, 4, 8), "b", version=2)
    assert dict(ledger.num_leased_by_version) == {2: 1}


def test_a_piece_that_is_too_old_when_it_comes_is_pending_again_alone():
    ledger = make_ledger()
    lease(ledger, "a", 4), lease(ledger, "b")
    assert ledger.receive(Piece(0, 0, 4), "a")
    ledger.give_back(Piece(0, 0, 4))
    assert ledger.next_piece == (Piece(0, 0, 4), 0) and ledger.num_leases_of("b") == 1
    ledger.give_back(Piece(0, 4, 8))
    assert ledger.num_outstanding == ledger.num_rest == 0 and ledger.next_piece == (Piece(0, 0, 8), None)


def test_all_pieces_of_a_group_ask_the_same_problem_also_if_it_is_set_aside_between_them():
    ledger = make_ledger()
    asked = ledger.problem_index(0)
    lease(ledger, "a", 3)
    ledger.set_aside.add(asked)
    assert lease(ledger, "b") == Piece(0, 3, 8) and ledger.problem_index(0) == asked
    ledger.release([0])
    assert lease(ledger, "b") == Piece(0, 0, 8) and ledger.problem_index(0) != asked


@pytest.mark.parametrize("comes_first", [True, False])
def test_samples_of_a_problem_that_is_set_aside_are_of_no_use_once_their_group_asks_another(comes_first):
    ledger = make_ledger()
    asked = ledger.problem_index(0)
    lease(ledger, "silent", 4), lease(ledger, "silent")
    ledger.doubt("silent")
    ledger.set_aside.add(asked)
    if comes_first:
        assert ledger.receive(Piece(0, 4, 8), "silent")
        assert lease(ledger, "b") == Piece(0, 0, 4) and ledger.problem_index(0) == asked
    else:
        assert lease(ledger, "b", 4) == Piece(0, 0, 4) and ledger.problem_index(0) != asked
        assert not ledger.receive(Piece(0, 4, 8), "silent")


def test_what_is_not_leased_cannot_be_given_back():
    ledger = make_ledger()
    lease(ledger, "a", 4)
    for piece in (Piece(0, 4, 8), Piece(2, 0, 8)):
        with pytest.raises(KeyError):
            ledger.give_back(piece)


class Run(RuleBasedStateMachine):
    """Pieces leased, received, lost and doubted at any moment, beside a model that keeps one holder per sample.

    A sample is None where it is pending; a group all of whose samples are, is.
    """

    @initialize(num_groups=st.integers(1, 5), num_samples=st.integers(1, 6), data=st.data())
    def start(self, num_groups, num_samples, data):
        self.ledger = make_ledger(num_groups, num_samples)
        self.samples = {group: [None] * num_samples for group in range(num_groups)}
        self.done = {}  # group -> buffered, or trained
        self.leases = {}  # (piece, worker) that may still deliver: held, or doubted
        self.messages = []
        self.num_workers = 3
        self.data = data

    def workers(self):
        return [f"rollout-{number}" for number in range(self.num_workers - 3, self.num_workers)]

    def is_pending(self, group):
        return group not in self.done and not any(self.samples[group])

    def range_of(self, piece):
        return slice(piece.start, piece.stop)

    def give_back(self, piece):
        self.samples[piece.group][self.range_of(piece)] = [None] * piece.num_samples

    @rule()
    def lease(self):
        worker = self.data.draw(st.sampled_from(self.workers()))
        most = self.data.draw(st.one_of(st.none(), st.integers(1, 6)))
        begun = [
            g for g in self.samples if g not in self.done and None in self.samples[g] and any(self.samples[g])
        ]
        pending = [g for g in self.samples if self.is_pending(g)]
        piece = lease(self.ledger, worker, most)
        if not begun and not pending:
            assert piece is None
            return
        group = min(begun or pending)
        start = self.samples[group].index(None)
        stop = start
        while stop < len(self.samples[group]) and self.samples[group][stop] is None and stop - start != most:
            stop += 1
        assert piece == Piece(group, start, stop)
        self.samples[group][start:stop] = [worker] * piece.num_samples
        self.leases = {
            (other, who): kind
            for (other, who), kind in self.leases.items()
            if other.group != group or other.stop <= start or stop <= other.start
        }
        self.leases[piece, worker] = "held"
        self.messages.append((piece, worker))

    @precondition(lambda self: self.messages)
    @rule()
    def samples_arrive(self):
        piece, worker = self.data.draw(st.sampled_from(self.messages))
        expected = self.leases.pop((piece, worker), None) is not None
        assert self.ledger.receive(piece, worker) == expected
        if expected:
            self.samples[piece.group][self.range_of(piece)] = [CONTROLLER] * piece.num_samples

    @rule()
    def verdicts_arrive(self):
        group = self.data.draw(st.sampled_from(sorted(self.samples)))
        expected = group not in self.done and set(self.samples[group]) == {CONTROLLER}
        assert self.ledger.commit(group) == expected
        if expected:
            self.done[group] = "buffered"

    @rule()
    def verifier_gives_up(self):
        received = [
            g for g, holders in self.samples.items() if g not in self.done and set(holders) == {CONTROLLER}
        ]
        if received:
            group = self.data.draw(st.sampled_from(received))
            self.ledger.release([group])
            self.samples[group] = [None] * len(self.samples[group])

    @rule()
    def worker_falls_silent(self):
        worker = self.data.draw(st.sampled_from(self.workers()))
        self.ledger.doubt(worker)
        for (piece, who), kind in self.leases.items():
            if who == worker and kind == "held":
                self.give_back(piece)
                self.leases[piece, who] = "doubted"

    @rule()
    def worker_dies(self):
        worker = self.workers()[0]
        self.num_workers += 1
        self.ledger.forget(worker)
        for (piece, who), kind in list(self.leases.items()):
            if who == worker:
                del self.leases[piece, who]
                if kind == "held":
                    self.give_back(piece)

    @rule()
    def group_is_too_stale_or_trained(self):
        buffered = [group for group, state in self.done.items() if state == "buffered"]
        if not buffered:
            return
        group = self.data.draw(st.sampled_from(buffered))
        if self.data.draw(st.booleans()):
            self.ledger.train([group])
            self.done[group] = "trained"
        else:
            self.ledger.discard(group)
            del self.done[group]
            self.samples[group] = [None] * len(self.samples[group])

    @invariant()
    def every_sample_is_with_the_one_holder_of_the_model(self):
        if not hasattr(self, "samples"):
            return
        open_groups = {g for g in self.samples if g not in self.done and any(self.samples[g])}
        assert set(self.ledger.leased) == open_groups
        num_rest = 0
        for group in open_groups:
            leased = self.ledger.leased[group]
            holders = [None] * len(self.samples[group])
            for record in leased.pieces.values():
                assert holders[self.range_of(record.piece)] == [None] * record.piece.num_samples
                holders[self.range_of(record.piece)] = [record.worker] * record.piece.num_samples
            assert holders == self.samples[group]
            rest = [sample for start, stop in leased.rest for sample in range(start, stop)]
            assert rest == [sample for sample, holder in enumerate(holders) if holder is None]
            num_rest += len(rest)
        assert self.ledger.num_rest == num_rest
        held = Counter(who for (_, who), kind in self.leases.items() if kind == "held")
        for worker in self.workers():
            assert self.ledger.num_leases_of(worker) == held[worker]
        assert self.ledger.num_leased_by_version.total() == len(open_groups)
        assert self.ledger.num_outstanding == len(open_groups) + sum(
            state == "buffered" for state in self.done.values()
        )


def test_whatever_happens_every_sample_has_one_holder_and_no_group_goes_on_without_one_of_them():
    run_state_machine_as_test(
        Run,
        settings=settings(
            max_examples=80, stateful_step_count=50, deadline=None, derandomize=True, database=None
        ),
    )
