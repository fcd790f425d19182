"""Every group is trained exactly once, whatever dies, comes twice, comes late or is resumed."""

from __future__ import annotations

import json
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


def make_ledger(num_groups=6, num_problems=4, seed=0):
    return Ledger(num_problems=num_problems, num_groups=num_groups, seed=seed)


def lease(ledger, worker="rollout-0", version=0, now_s=0.0):
    """The number of an undivided group."""
    piece = ledger.lease(worker, version=version, now_s=now_s)
    return None if piece is None else piece.group


def receive(ledger, group, worker, **told):
    return ledger.receive(Piece(group, 0, 1), worker, **told)


def held(ledger, worker):
    return [record.piece.group for record in ledger.leases_of(worker)]


def holders(ledger):
    """Who has each leased group."""
    return {group: leased.pieces[0].worker for group, leased in ledger.leased.items()}


def buffer(ledger, worker="rollout-0", version=0):
    group = lease(ledger, worker, version)
    assert receive(ledger, group, worker) and ledger.commit(group)
    return group


def restart(ledger, **changes):
    return Ledger.from_json(json.loads(json.dumps(ledger.to_json())), **changes)


def state(ledger, group):
    if group in ledger.leased:
        return "leased"
    if group in ledger.buffered:
        return "buffered"
    if group in ledger.begun:
        return "begun"
    record = ledger.to_json()
    is_trained = group < record["trained_below"] or group in record["trained_above"]
    return "trained" if is_trained else "pending"


def states(ledger):
    return [state(ledger, group) for group in range(ledger.num_groups)]


# Transitions


def test_a_group_goes_from_pending_to_leased_to_buffered_to_trained():
    ledger = make_ledger(num_groups=2)
    assert states(ledger) == ["pending", "pending"]
    assert lease(ledger, "rollout-3", version=7, now_s=12.5) == 0
    assert states(ledger) == ["leased", "pending"]
    record = ledger.leased[0].pieces[0]
    assert (record.worker, record.version, record.since_s) == ("rollout-3", 7, 12.5)
    assert receive(ledger, 0, "rollout-3")
    assert states(ledger) == ["leased", "pending"] and holders(ledger)[0] == CONTROLLER
    assert ledger.commit(0)
    assert states(ledger) == ["buffered", "pending"] and ledger.buffered == {0: 7}
    assert ledger.num_trained == 0 and ledger.num_outstanding == 1
    ledger.train([0])
    assert states(ledger) == ["trained", "pending"]
    assert ledger.num_trained == 1 and ledger.num_outstanding == 0


def test_the_first_problems_are_those_that_the_first_groups_ask_and_all_of_them_within_an_epoch():
    ledger = Ledger(num_problems=5, num_groups=12, seed=3)
    assert ledger.first_problems(3) == [ledger.problem_index(group) for group in range(3)]
    assert sorted(ledger.first_problems(5)) == sorted(ledger.first_problems(12)) == list(range(5))


def test_a_released_group_is_leased_again_before_any_later_one():
    ledger = make_ledger()
    assert [lease(ledger, worker) for worker in ("a", "b", "a", "b")] == [0, 1, 2, 3]
    ledger.release(held(ledger, "a"))
    assert states(ledger) == ["pending", "leased", "pending", "leased", "pending", "pending"]
    assert [lease(ledger, "c", version=1) for _ in range(3)] == [0, 2, 4]
    assert ledger.leased[2].version == 1


def test_a_discarded_group_is_pending_again_and_keeps_no_version():
    ledger = make_ledger()
    group = buffer(ledger, version=3)
    ledger.discard(group)
    assert state(ledger, group) == "pending" and ledger.buffered == {}
    assert lease(ledger, "b", version=5) == group and ledger.leased[group].version == 5


def test_when_nothing_is_pending_no_lease_is_given():
    ledger = make_ledger(num_groups=2)
    assert [lease(ledger), lease(ledger), lease(ledger)] == [0, 1, None]
    assert "pending" not in states(ledger)
    ledger.release([1])
    assert states(ledger) == ["leased", "pending"] and lease(ledger) == 1


def test_a_workers_leases_are_those_it_holds_and_not_those_the_controller_received():
    ledger = make_ledger()
    for worker in ("a", "b", "a", "a"):
        lease(ledger, worker)
    receive(ledger, 2, "a")
    assert held(ledger, "a") == [0, 3]
    assert held(ledger, "b") == [1]
    assert held(ledger, CONTROLLER) == [2]
    assert held(ledger, "nobody") == []


def test_only_the_holder_of_the_lease_delivers_and_only_once():
    ledger = make_ledger()
    group = lease(ledger, "a")
    assert not receive(ledger, group, "b")
    assert receive(ledger, group, "a")
    assert not receive(ledger, group, "a")
    assert not receive(ledger, 5, "a")  # never leased


def test_a_late_result_of_a_worker_given_up_for_dead_changes_nothing():
    ledger = make_ledger()
    group = lease(ledger, "dead")
    ledger.release([group])
    assert not receive(ledger, group, "dead")
    assert lease(ledger, "b") == group
    assert not receive(ledger, group, "dead")
    assert receive(ledger, group, "b") and ledger.commit(group)
    assert not receive(ledger, group, "b") and not ledger.commit(group)
    ledger.train([group])
    assert not receive(ledger, group, "b") and not ledger.commit(group)
    assert state(ledger, group) == "trained" and ledger.num_trained == 1


def test_a_silent_workers_groups_are_leased_to_others_first_and_its_own_samples_count_until_then():
    ledger = make_ledger()
    assert [lease(ledger, worker) for worker in ("silent", "b", "silent")] == [0, 1, 2]
    ledger.doubt("silent")
    assert states(ledger)[:3] == ["pending", "leased", "pending"] and ledger.num_outstanding == 1
    assert held(ledger, "silent") == []
    assert lease(ledger, "b", version=4) == 0
    assert not receive(ledger, 0, "silent")
    assert not receive(ledger, 2, "b")
    assert receive(ledger, 2, "silent") and not receive(ledger, 2, "silent")
    assert lease(ledger, "b") == 3
    assert ledger.commit(2) and ledger.buffered == {2: 0}
    assert receive(ledger, 0, "b") and ledger.commit(0) and ledger.buffered[0] == 4


def test_nothing_counts_any_more_of_a_worker_that_was_silent_and_is_gone():
    ledger = make_ledger()
    lease(ledger, "silent")
    ledger.doubt("silent")
    ledger.forget("silent")
    assert not receive(ledger, 0, "silent") and state(ledger, 0) == "pending"
    assert [lease(ledger, "b"), lease(ledger, "b")] == [0, 1]


def test_samples_of_an_earlier_lease_are_as_old_as_their_oldest_token():
    ledger = make_ledger()
    lease(ledger, "a", version=2)
    ledger.doubt("a")
    assert (
        lease(ledger, "a", version=5) == 0
    )  # it answers again, and has been sampling the group all the time
    assert receive(ledger, 0, "a", version=2) and ledger.commit(0)
    assert ledger.buffered == {0: 2}
    lease(ledger, "a", version=5)
    assert receive(ledger, 1, "a", version=6) and ledger.commit(1)
    assert ledger.buffered[1] == 5  # the order of leases is that of batches


def test_verdicts_count_only_for_a_received_group():
    ledger = make_ledger()
    assert not ledger.commit(0)
    group = lease(ledger)
    assert not ledger.commit(group)
    receive(ledger, group, "rollout-0")
    ledger.release([group])  # the verifier gave up on it
    assert not ledger.commit(group)
    assert state(ledger, group) == "pending"


def test_a_transition_from_the_wrong_state_is_an_error():
    ledger = make_ledger()
    buffered, leased = buffer(ledger), lease(ledger)
    for group in (leased, 4):
        with pytest.raises(KeyError):
            ledger.train([group])
        with pytest.raises(KeyError):
            ledger.discard(group)
    for group in (buffered, 4):
        with pytest.raises(KeyError):
            ledger.release([group])
    ledger.train([buffered])
    with pytest.raises(KeyError):
        ledger.train([buffered])


# Order


@pytest.mark.parametrize("num_problems", [1, 7, 40])
def test_every_epoch_asks_every_problem_once(num_problems):
    ledger = make_ledger(num_groups=3 * num_problems, num_problems=num_problems)
    for epoch in range(3):
        groups = range(epoch * num_problems, (epoch + 1) * num_problems)
        assert sorted(ledger.problem_index(group) for group in groups) == list(range(num_problems))


def test_the_order_follows_from_the_seed_alone_and_differs_between_epochs():
    def order(seed, groups=range(80)):
        ledger = make_ledger(num_groups=80, num_problems=40, seed=seed)
        return {group: ledger.problem_index(group) for group in groups}

    assert order(5) == order(5, groups=reversed(range(80)))
    assert order(5) != order(6)
    assert [order(5)[group] for group in range(40)] != [order(5)[group] for group in range(40, 80)]


# Checkpoints


def test_a_restart_keeps_what_is_trained_and_gives_the_holes_out_first():
    ledger = make_ledger(num_groups=8)
    for _ in range(6):
        buffer(ledger)
    ledger.train([0, 2, 5])
    ledger.discard(3)
    record = ledger.to_json()
    assert record == {
        "num_problems": 4,
        "num_groups": 8,
        "seed": 0,
        "trained_below": 1,
        "trained_above": [2, 5],
        "set_aside": [],
        "substitutes": [],
    }
    again = restart(ledger)
    assert states(again) == [
        "trained", "pending", "trained", "pending", "pending", "trained", "pending", "pending"
    ]  # fmt: skip
    assert again.num_trained == 3 and again.num_outstanding == 0
    assert again.to_json() == record
    assert [lease(again) for _ in range(6)] == [1, 3, 4, 6, 7, None]
    assert [again.problem_index(g) for g in range(8)] == [ledger.problem_index(g) for g in range(8)]


def test_an_untouched_and_a_finished_ledger_restart_as_they_are():
    assert states(restart(make_ledger())) == ["pending"] * 6
    ledger = make_ledger()
    ledger.train([buffer(ledger) for _ in range(6)])
    assert states(restart(ledger)) == ["trained"] * 6 and lease(restart(ledger)) is None


def test_a_run_can_be_prolonged_and_shortened_down_to_what_is_trained():
    ledger = make_ledger(num_groups=8)
    for _ in range(5):
        buffer(ledger)
    ledger.train([0, 1, 4])
    assert [lease(restart(ledger, num_groups=10)) for _ in range(1)] == [2]
    longer = restart(ledger, num_groups=10)
    assert [lease(longer) for _ in range(8)] == [2, 3, 5, 6, 7, 8, 9, None]
    shorter = restart(ledger, num_groups=5)
    assert [lease(shorter) for _ in range(3)] == [2, 3, None]


@pytest.mark.parametrize(("trained", "num_groups"), [([0, 1, 4], 4), ([0, 1, 2], 2)])
def test_shortening_below_what_is_trained_is_refused_in_one_line(trained, num_groups):
    ledger = make_ledger(num_groups=8)
    for _ in range(5):
        buffer(ledger)
    ledger.train(trained)
    with pytest.raises(ValueError) as error:
        restart(ledger, num_groups=num_groups)
    assert str(error.value) == (
        f"the checkpoint has trained group {trained[-1]}, the run now ends at group {num_groups - 1}: "
        "raise train.steps"
    )


# Everything at once


class Run(RuleBasedStateMachine):
    """A run in which anything may happen at any moment, beside a model that keeps one word per group."""

    @initialize(num_groups=st.integers(1, 12), num_problems=st.integers(1, 5), data=st.data())
    def start(self, num_groups, num_problems, data):
        self.ledger = make_ledger(num_groups, num_problems)
        self.model = dict.fromkeys(range(num_groups), "pending")
        self.holder = {}  # leased group -> worker
        self.doubted = {}  # pending group -> silent worker
        self.trained = []  # in the order of training, forgotten by a restart from an older checkpoint
        self.messages = []  # (group, worker): samples that may still arrive, any number of times
        self.checkpoint = (self.ledger.to_json(), 0)
        self.num_workers = 3
        self.data = data

    def workers(self):
        return [f"rollout-{number}" for number in range(self.num_workers - 3, self.num_workers)]

    @rule()
    def lease(self):
        worker = self.data.draw(st.sampled_from(self.workers()))
        group = lease(self.ledger, worker)
        pending = [group for group, state in self.model.items() if state == "pending"]
        assert group == (min(pending) if pending else None)
        if group is not None:
            self.model[group], self.holder[group] = "leased", worker
            self.doubted.pop(group, None)
            self.messages.append((group, worker))

    @precondition(lambda self: self.messages)
    @rule()
    def samples_arrive(self):
        group, worker = self.data.draw(st.sampled_from(self.messages))
        holder = self.holder.get(group) if self.model[group] == "leased" else self.doubted.get(group)
        expected = holder == worker
        assert receive(self.ledger, group, worker) == expected
        if expected:
            self.doubted.pop(group, None)
            self.model[group], self.holder[group] = "leased", CONTROLLER

    @precondition(lambda self: self.messages)
    @rule()
    def verdicts_arrive(self):
        group, _ = self.data.draw(st.sampled_from(self.messages))
        expected = self.model[group] == "leased" and self.holder[group] == CONTROLLER
        assert self.ledger.commit(group) == expected
        if expected:
            self.model[group] = "buffered"

    @rule()
    def verifier_gives_up(self):
        received = [
            g for g, state in self.model.items() if state == "leased" and self.holder[g] == CONTROLLER
        ]
        if received:
            group = self.data.draw(st.sampled_from(received))
            self.ledger.release([group])
            self.model[group] = "pending"

    @rule()
    def worker_falls_silent(self):
        worker = self.data.draw(st.sampled_from(self.workers()))
        self.ledger.doubt(worker)
        for group, state in self.model.items():
            if state == "leased" and self.holder[group] == worker:
                self.model[group], self.doubted[group] = "pending", worker

    @rule()
    def worker_dies(self):
        worker = self.workers()[0]
        self.num_workers += 1  # its successor has another name; its samples may still be under way
        self.ledger.forget(worker)
        self.doubted = {group: holder for group, holder in self.doubted.items() if holder != worker}
        for group, state in self.model.items():
            if state == "leased" and self.holder[group] == worker:
                self.model[group] = "pending"

    @rule()
    def group_is_too_stale(self):
        buffered = [group for group, state in self.model.items() if state == "buffered"]
        if buffered:
            group = self.data.draw(st.sampled_from(buffered))
            self.ledger.discard(group)
            self.model[group] = "pending"

    @rule()
    def learner_begins(self):
        buffered = [group for group, state in self.model.items() if state == "buffered"]
        if buffered:
            part = self.data.draw(st.lists(st.sampled_from(buffered), unique=True, min_size=1))
            self.ledger.begin(part)
            self.model.update(dict.fromkeys(part, "begun"))

    @rule()
    def step(self):
        begun = [group for group, state in self.model.items() if state == "begun"]
        buffered = [group for group, state in self.model.items() if state == "buffered"]
        if begun or buffered:
            rest = self.data.draw(st.lists(st.sampled_from(buffered), unique=True)) if buffered else []
            batch = [*begun, *rest]
            self.ledger.train(batch)
            self.trained += batch
            self.model.update(dict.fromkeys(batch, "trained"))

    @rule()
    def write_checkpoint(self):
        self.checkpoint = (json.loads(json.dumps(self.ledger.to_json())), len(self.trained))

    @rule()
    def crash_and_resume(self):
        record, num_trained = self.checkpoint
        self.ledger = Ledger.from_json(record)
        self.trained = self.trained[:num_trained]  # as the run's record is rewound
        self.model = {g: "trained" if g in self.trained else "pending" for g in self.model}
        self.holder, self.doubted, self.messages = {}, {}, []  # the old processes are gone

    @invariant()
    def every_group_is_in_the_one_state_of_the_model(self):
        if not hasattr(self, "model"):
            return
        assert dict(enumerate(states(self.ledger))) == self.model
        counted = ["buffered" if state == "begun" else state for state in self.model.values()]
        assert +Counter(self.ledger.counts) == Counter(counted)
        places = [*self.ledger.leased, *self.ledger.buffered, *self.ledger.begun, *self.trained]
        assert max(Counter(places).values(), default=1) == 1
        assert self.ledger.num_trained == len(self.trained)
        by_version = Counter(record.version for record in self.ledger.leased.values())
        assert self.ledger.num_leased_by_version == by_version
        assert self.ledger.num_buffered_by_version == Counter(self.ledger.buffered.values())
        for holder in {*holders(self.ledger).values(), "nobody"}:
            groups = {group for group, one in holders(self.ledger).items() if one == holder}
            assert set(held(self.ledger, holder)) == groups
            assert self.ledger.num_leases_of(holder) == len(groups)
        outstanding = Counter(self.model.values())
        assert self.ledger.num_outstanding == sum(
            outstanding[state] for state in ("leased", "buffered", "begun")
        )

    def teardown(self):
        """From wherever the run is, an undisturbed rest trains every group exactly once."""
        if not hasattr(self, "model"):
            return
        self.crash_and_resume()
        while (group := lease(self.ledger, "rollout-x")) is not None:
            assert receive(self.ledger, group, "rollout-x") and self.ledger.commit(group)
            self.ledger.train([group])
            self.trained.append(group)
        assert sorted(self.trained) == list(range(self.ledger.num_groups))
        assert self.ledger.num_trained == self.ledger.num_groups


def test_whatever_happens_every_group_is_trained_exactly_once_and_is_in_one_state():
    run_state_machine_as_test(
        Run,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, derandomize=True, database=None
        ),
    )


# Problems set aside


def test_a_problem_set_aside_is_asked_by_no_group_leased_from_then_on():
    ledger = make_ledger(num_groups=12)
    bad = ledger.problem_index(1)
    ledger.set_aside.add(bad)
    asked = [ledger.problem_index(lease(ledger)) for _ in range(12)]
    assert bad not in asked
    plain = make_ledger(num_groups=12)
    others = [(a, plain.problem_index(g)) for g, a in enumerate(asked) if plain.problem_index(g) != bad]
    assert len(others) == 9 and all(a == own for a, own in others), "no other group asks anything else"


def test_what_a_group_asked_when_it_was_trained_is_known_after_its_problem_was_set_aside_and_a_restart():
    ledger = make_ledger(num_groups=8)
    own = [ledger.problem_index(g) for g in range(8)]
    ledger.train([buffer(ledger)])
    ledger.set_aside.add(own[0])
    assert ledger.trained_problems() == {own[0]}
    substitute = next(g for g in range(4, 8) if own[g] == own[0])
    for _ in range(
        substitute
    ):  # the last of them asks something else than its own problem in the second epoch
        ledger.train([buffer(ledger)])
    again = restart(ledger)
    assert again.set_aside == {own[0]}
    assert again.trained_problems() == ledger.trained_problems()
    assert again.problem_index(substitute) == ledger.problem_index(substitute) != own[0]
