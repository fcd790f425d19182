"""No group is trained staler than allowed, nothing is dropped for it, and the run never stands still."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.types import Piece
from cluster.leasing.admission import cut_batch, next_part, num_admitted, too_stale
from cluster.leasing.leased_group import LeasedGroup
from cluster.leasing.ledger import Ledger

STANDSTILL_TICKS = 20_000


@dataclass
class Worker:
    """A rollout worker as the controller knows it, and what it is busy with."""

    name: str
    slowness: int
    up_at: int
    serving: bool = False
    version: int = -1
    loading: int | None = None
    loaded_at: int = 0
    sampling: dict[Piece, tuple[int, int]] = field(default_factory=dict)
    """Piece to the tick at which it is finished, and the version that begins it."""
    silent_until: int = 0


class Simulation:
    """The loops of controller.py and rollouts.py in ticks, around the real ledger and the real rule.

    The learner passes over parts of its next batch, of a random size, each for a random time. Groups are leased in pieces of
    random sizes, of which a piece takes as long as its longest sample.

    Random: how long a sample is (some twenty times as long as others), workers' speeds, verdicts,
    training steps, broadcasts (confirmed by each worker at its own time), deaths and verifier failures,
    workers that fall silent for a while, and go on sampling meanwhile.
    """

    def __init__(self, seed, *, max_staleness, deaths=False, silences=False, num_steps=10):
        rng = self.rng = random.Random(seed)
        self.max_staleness = max_staleness
        self.groups_per_step = rng.randint(1, 6)
        self.num_steps = num_steps
        self.death_rate = rng.choice([0.001, 0.01]) if deaths else 0.0
        self.unjudged_rate = 0.02 if deaths else 0.0
        self.silence_rate = rng.choice([0.003, 0.03]) if silences else 0.0
        self.learner_ticks = rng.choice([1, 10, 60])
        self.broadcast_ticks = rng.choice([1, 5, 40])
        self.part_size = rng.randint(1, self.groups_per_step)
        self.num_samples = rng.randint(1, 6)
        self.num_parts = 0
        num_workers = rng.randint(1, 4)
        self.synchronous = max_staleness == 0
        self.groups_in_flight = (
            self.groups_per_step * self.num_samples if self.synchronous else rng.choice([1, 2, 8, 100])
        )
        num_groups = num_steps * self.groups_per_step
        self.ledger = Ledger(
            num_problems=rng.randint(1, 50), num_groups=num_groups, seed=seed, num_samples=self.num_samples
        )
        lengths_rng = random.Random(seed)  # a sample is fixed by its seed, whoever draws it
        self.lengths = {
            group: [
                lengths_rng.randint(1, 5) * (20 if lengths_rng.random() < 0.03 else 1)
                for _ in range(self.num_samples)
            ]
            for group in range(num_groups)
        }
        self.received: dict[int, dict[int, int]] = {}
        """Of groups that are sampled: the lengths of the samples that have come, by their numbers."""
        self.trained_lengths: list[int] = []
        self.num_divided = 0
        self.now = self.version = self.published = 0
        self.phase, self.phase_ends = "waiting", 0
        self.in_training: list[int] = []
        self.syncing: set[str] = set()
        self.judging: dict[int, int] = {}
        self.num_started = 0
        self.workers: dict[str, Worker] = {}
        for _ in range(num_workers):
            self.start_worker()
        self.first_starts = set(self.workers)
        self.leases_by_version: Counter[int] = Counter()
        self.trained: list[int] = []
        self.staleness: list[int] = []
        self.num_dropped = 0
        self.num_deaths = self.num_silences = self.num_late = 0
        self.max_outstanding = 0
        self.num_overlapping = 0  # ticks with sampling and training at once

    def run(self):
        last_step_at = 0
        while self.version < self.num_steps or self.phase != "waiting":
            version = self.version
            self.tick()
            if self.version > version:
                last_step_at = self.now
            assert self.now - last_step_at < STANDSTILL_TICKS, (
                f"stands still at version {self.version}: {self.phase}, {self.ledger.leased}, {self.ledger.buffered}"
            )
        return self

    def tick(self):
        self.now += 1
        for worker in list(self.workers.values()):
            if self.rng.random() < self.death_rate:
                self.lose(worker)
            elif worker.serving and self.rng.random() < self.silence_rate:
                self.fall_silent(worker)
        for worker in self.workers.values():
            if worker.silent_until <= self.now:
                self.advance(worker)
        for group in [group for group, due in self.judging.items() if due <= self.now]:
            del self.judging[group]
            if self.rng.random() < self.unjudged_rate:
                self.ledger.release([group])
                del self.received[group]
            else:
                assert self.ledger.commit(group)
        self.advance_learner()
        self.num_overlapping += self.phase == "training" and any(w.sampling for w in self.workers.values())

    def start_worker(self):
        worker = Worker(
            name=f"rollout-{self.num_started}",
            slowness=self.rng.randint(1, 4),
            up_at=self.now + self.rng.randint(1, 50),
        )
        self.num_started += 1
        self.workers[worker.name] = worker

    def lose(self, worker):
        self.num_deaths += 1
        del self.workers[worker.name]
        self.syncing.discard(worker.name)
        self.first_starts.discard(worker.name)
        self.ledger.forget(worker.name)
        self.start_worker()
        self.top_up()

    def fall_silent(self, worker):
        self.num_silences += 1
        worker.silent_until = self.now + self.rng.randint(1, 200)
        worker.serving, worker.loading = False, None
        self.syncing.discard(worker.name)
        self.ledger.doubt(worker.name)
        self.top_up()

    def advance(self, worker):
        if worker.loading is not None and worker.loaded_at <= self.now:
            worker.version, worker.loading = worker.loading, None
            self.syncing.discard(worker.name)
            if not self.syncing:
                self.top_up()
        if not worker.serving and worker.up_at <= self.now and worker.loading is None:
            if worker.version == self.published:
                worker.serving = True
                self.first_starts.discard(worker.name)
                self.top_up()
            else:
                self.load(worker)
        finished = [piece for piece, (due, _) in worker.sampling.items() if due <= self.now]
        for piece in finished:
            _, version = worker.sampling.pop(piece)
            if not self.ledger.receive(piece, worker.name, version=version):
                self.num_late += 1
            elif self.version - version > self.max_staleness:
                self.ledger.give_back(piece)
                self.num_dropped += 1
            else:
                self.receive(piece)
        if finished or self.rng.random() < 0.1:
            self.top_up()

    def receive(self, piece):
        received = self.received.setdefault(piece.group, {})
        for sample in range(piece.start, piece.stop):
            assert sample not in received
            received[sample] = self.lengths[piece.group][sample]
        if self.ledger.is_received(piece.group):
            assert len(received) == self.num_samples
            self.judging[piece.group] = self.now + self.rng.randint(0, 5)

    def load(self, worker):
        worker.loading = self.published
        worker.loaded_at = self.now + self.rng.randint(0, self.broadcast_ticks)

    def advance_learner(self):
        if self.phase == "waiting" and self.version < self.num_steps:
            batch = self.next_batch()
            if batch is not None:
                leases = {**self.ledger.buffered, **self.ledger.begun}
                self.staleness += [self.version - leases[group] for group in batch]
                assert set(self.ledger.begun) <= set(batch) and len(set(batch)) == self.groups_per_step
                self.in_training = batch
                self.phase = "training"
                self.phase_ends = self.now + self.rng.randint(0, self.learner_ticks)
                self.top_up()
            elif (part := next_part(self.ledger, size=self.part_size, **self.bounds)) is not None:
                self.ledger.begin(part)
                self.num_parts += 1
                self.phase = "passing"
                self.phase_ends = self.now + self.rng.randint(0, self.learner_ticks)
        elif self.phase == "passing" and self.phase_ends <= self.now:
            self.phase = "waiting"
        elif self.phase == "training" and self.phase_ends <= self.now:
            self.ledger.train(self.in_training)
            self.trained += self.in_training
            for group in self.in_training:
                self.trained_lengths += self.received.pop(group).values()
            self.in_training = []
            self.version += 1
            self.phase = "finishing the last broadcast"
        if self.phase == "finishing the last broadcast" and not self.syncing:
            self.published = self.version
            self.syncing = {worker.name for worker in self.workers.values() if worker.serving}
            for name in self.syncing:
                self.load(self.workers[name])
            self.phase = "broadcasting" if self.synchronous else "waiting"
        if self.phase == "broadcasting" and not self.syncing:
            self.phase = "waiting"

    def next_batch(self):
        stale = too_stale(self.ledger, **self.bounds)
        self.num_dropped += len(stale)
        for group in stale:
            self.ledger.discard(group)
            del self.received[group]
        return cut_batch(self.ledger, **self.bounds)

    @property
    def bounds(self):
        return {
            "version": self.version,
            "groups_per_step": self.groups_per_step,
            "max_staleness": self.max_staleness,
        }

    def top_up(self):
        serving = {name: worker for name, worker in self.workers.items() if worker.serving}
        if self.synchronous and (
            self.first_starts or any(worker.version != self.published for worker in serving.values())
        ):
            return
        load = {name: len(self.ledger.leases_of(name)) for name in serving}
        while load:
            name = min(load, key=lambda name: (load[name], name))
            worker = self.workers[name]
            found = self.ledger.next_piece
            if found is None:
                break
            whole, begun_under = found
            is_fresh = begun_under is not None and begun_under <= worker.version
            admitted = is_fresh or num_admitted(
                next_version=self.version + bool(self.in_training),
                served_version=worker.version,
                outstanding=self.ledger.num_outstanding - len(self.in_training),
                groups_per_step=self.groups_per_step,
                max_staleness=self.max_staleness,
            )
            if load[name] >= self.groups_in_flight or not admitted:
                del load[name]
                continue
            most = self.rng.choice([self.rng.randint(1, self.num_samples), self.num_samples])
            piece = self.ledger.lease(name, version=worker.version, now_s=self.now, most=most)
            self.leases_by_version[worker.version] += begun_under is None
            self.num_divided += piece != whole
            finished_at = self.now + worker.slowness * max(
                self.lengths[piece.group][piece.start : piece.stop]
            )
            # One in flight is not started twice.
            worker.sampling.setdefault(piece, (finished_at, worker.version))
            load[name] += 1
            self.max_outstanding = max(self.max_outstanding, self.ledger.num_outstanding)


def simulations(max_staleness, *, num_runs=50, **faults):
    return [Simulation(seed, max_staleness=max_staleness, **faults).run() for seed in range(num_runs)]


# The whole loop


@pytest.mark.parametrize("deaths", [False, True])
@pytest.mark.parametrize("max_staleness", [0, 1, 2, 3, 4])
def test_every_group_is_trained_once_and_in_time_and_none_is_dropped(max_staleness, deaths):
    runs = simulations(max_staleness, deaths=deaths)
    for run in runs:
        assert sorted(run.trained) == list(range(run.num_steps * run.groups_per_step))
        assert max(run.staleness) <= max_staleness and min(run.staleness) >= 0
        assert run.num_dropped == run.num_late == 0
        assert run.max_outstanding <= (max_staleness + 1) * run.groups_per_step
    # Not in vain: the bound is reached, and there were deaths to survive.
    assert max(max(run.staleness) for run in runs) == max_staleness
    assert any(run.max_outstanding == (max_staleness + 1) * run.groups_per_step for run in runs)
    assert (sum(run.num_deaths for run in runs) > 100) == deaths
    assert sum(run.num_parts for run in runs) > 100
    assert sum(run.num_divided for run in runs) > 100


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_the_lengths_that_are_trained_are_those_that_are_sampled_whatever_dies_or_is_silent(max_staleness):
    """Nothing is left out for being long: each sample is fixed by its seed, and has its place in the run's order."""
    runs = simulations(max_staleness, deaths=True, silences=True)
    for run in runs:
        sampled = [length for lengths in run.lengths.values() for length in lengths]
        assert sorted(run.trained_lengths) == sorted(sampled)
    assert sum(run.num_deaths for run in runs) > 100 and sum(run.num_divided for run in runs) > 100


@pytest.mark.parametrize("deaths", [False, True])
@pytest.mark.parametrize("max_staleness", [0, 1, 2, 3, 4])
def test_with_workers_that_fall_silent_the_run_goes_on_and_trains_every_group_once_and_in_time(
    max_staleness, deaths
):
    runs = simulations(max_staleness, deaths=deaths, silences=True)
    for run in runs:
        assert sorted(run.trained) == list(range(run.num_steps * run.groups_per_step))
        assert max(run.staleness) <= max_staleness
    assert sum(run.num_silences for run in runs) > 100
    assert sum(run.num_late for run in runs) > 10


def test_synchronous_training_leases_one_batch_under_every_version():
    for run in simulations(0, deaths=False):
        assert run.leases_by_version == {version: run.groups_per_step for version in range(run.num_steps)}
        assert run.num_overlapping == 0


def test_with_staleness_sampling_goes_on_while_the_learner_trains():
    for max_staleness in (1, 4):
        assert sum(run.num_overlapping for run in simulations(max_staleness, deaths=False)) > 1000


# num_admitted


@pytest.mark.parametrize(
    ("next_version", "served_version", "outstanding", "max_staleness", "expected"),
    [
        (3, 3, 0, 0, 8),
        (3, 3, 7, 0, 1),  # the last place in the batch that version 3 trains
        (3, 3, 8, 0, 0),
        (4, 3, 0, 0, 0),  # version 3 is being trained: the next batch is for version 4
        (3, 2, 0, 0, 0),  # the engine lags behind
        (4, 3, 0, 1, 8),
        (4, 3, 7, 1, 1),
        (4, 3, 8, 1, 0),
        (3, 3, 15, 1, 1),
        (3, 3, 16, 1, 0),
        (5, 3, 0, 1, 0),
        (5, 3, 23, 4, 1),
        (5, 3, 24, 4, 0),
    ],
)
def test_groups_are_admitted_up_to_the_last_that_would_be_consumed_in_time(
    next_version, served_version, outstanding, max_staleness, expected
):
    found = num_admitted(
        next_version=next_version,
        served_version=served_version,
        outstanding=outstanding,
        groups_per_step=8,
        max_staleness=max_staleness,
    )
    assert found == expected
    for number in range(found + 1):  # one after the other, each behind all that are outstanding then
        consumed_at = next_version + (outstanding + number) // 8
        assert (consumed_at - served_version <= max_staleness) == (number < found)


# cut_batch


def cut(*, version, leased, buffered, groups_per_step=2, max_staleness=1):
    return batch_of(
        version=version,
        leased=leased,
        buffered=buffered,
        groups_per_step=groups_per_step,
        max_staleness=max_staleness,
    )


def test_a_batch_is_cut_from_the_oldest_leases():
    buffered = {9: 4, 8: 5, 3: 5, 7: 4}
    assert cut(version=5, leased={}, buffered=buffered) == [7, 9]
    assert cut(version=5, leased={}, buffered=buffered, groups_per_step=4) == [7, 9, 3, 8]
    assert cut(version=5, leased={}, buffered=buffered, groups_per_step=5) is None


def test_a_finished_group_may_overtake_a_slow_one_that_still_has_time():
    assert cut(version=5, leased={0: 5, 1: 5}, buffered={2: 5, 3: 5}) == [2, 3]


def test_a_batch_waits_rather_than_leave_a_slow_group_to_expire():
    buffered = {2: 5, 3: 5, 4: 5}
    assert cut(version=5, leased={0: 4}, buffered=buffered) is None  # 0 must be trained by version 5
    assert cut(version=5, leased={}, buffered={0: 4, **buffered}) == [0, 2]
    # Three groups left for the two places of version 6.
    assert cut(version=5, leased={0: 5, 1: 5}, buffered=buffered) is None
    assert cut(version=5, leased={0: 5, 1: 5}, buffered=buffered, max_staleness=2) == [2, 3]


def in_time(left, version, groups_per_step, max_staleness):
    """Transcription: whether the groups left can be trained, oldest first, by the versions that follow."""
    left = sorted(left)
    while left:
        version += 1
        batch, left = left[:groups_per_step], left[groups_per_step:]
        if any(version - lease > max_staleness for lease in batch):
            return False
    return True


def test_a_batch_is_cut_exactly_when_all_that_is_left_can_be_trained_in_time():
    rng = random.Random(0)
    cuts = 0
    for _ in range(5000):
        version, groups_per_step, max_staleness = rng.randint(0, 5), rng.randint(1, 4), rng.randint(0, 4)
        numbers = rng.sample(range(30), rng.randint(0, 14))
        leases = {number: rng.randint(max(0, version - max_staleness - 1), version) for number in numbers}
        num_leased = rng.randint(0, min(4, len(numbers)))
        leased = {number: leases[number] for number in numbers[:num_leased]}
        buffered = {number: leases[number] for number in numbers[num_leased:]}
        batch = cut(
            version=version,
            leased=leased,
            buffered=buffered,
            groups_per_step=groups_per_step,
            max_staleness=max_staleness,
        )
        oldest = sorted(buffered, key=lambda number: (leases[number], number))[:groups_per_step]
        left = [lease for number, lease in leases.items() if number not in oldest]
        ready = len(oldest) == groups_per_step
        expected = oldest if ready and in_time(left, version, groups_per_step, max_staleness) else None
        assert batch == expected
        cuts += batch is not None
    assert 500 < cuts < 4500


def test_too_stale_names_the_groups_that_are_past_their_last_version():
    buffered = {0: 2, 1: 3, 2: 4, 3: 5}

    def stale(max_staleness):
        return stale_of(version=5, buffered=buffered, groups_per_step=4, max_staleness=max_staleness)

    assert (stale(1), stale(3), stale(0)) == ([0, 1], [], [0, 1, 2])


def test_too_stale_names_the_groups_for_which_there_is_no_batch_left_in_time():
    """As when a worker was silent, and what it had under version 0 comes after others have overtaken it."""
    buffered = {3: 0, 4: 0, 5: 0, 7: 2, 8: 2, 9: 2}
    bounds = {"version": 2, "groups_per_step": 2, "max_staleness": 2}
    assert batch_of(leased={}, buffered=buffered, **bounds) is None
    assert stale_of(buffered=buffered, **bounds) == [5]
    del buffered[5]
    assert batch_of(leased={}, buffered=buffered, **bounds) == [3, 4]


# next_part


def part_of(*, leased, buffered, begun=(), size=1, version=5, groups_per_step=4, max_staleness=1):
    return next_part(
        ledger_of(leased, buffered, begun),
        version=version,
        size=size,
        groups_per_step=groups_per_step,
        max_staleness=max_staleness,
    )


def test_the_learner_begins_with_the_oldest_finished_groups_that_leave_the_slow_ones_their_place():
    assert part_of(leased={0: 5, 1: 5}, buffered={2: 5, 3: 4}) == [3]
    assert part_of(leased={0: 5, 1: 5}, buffered={2: 5, 3: 4}, size=2) == [3, 2]
    assert part_of(leased={0: 5, 1: 5}, buffered={2: 5}, size=2) is None
    # All but one of version 4 are still sampled, and must be in this batch.
    assert part_of(leased={0: 4, 1: 4, 2: 4}, buffered={3: 5}) == [3]
    assert part_of(leased={0: 4, 1: 4, 2: 4}, buffered={3: 5, 4: 5}, size=2) is None
    assert part_of(leased={0: 4, 1: 4, 2: 4}, buffered={4: 5}, begun=[3]) is None


def test_what_would_complete_the_batch_is_no_part_of_it():
    assert part_of(leased={}, buffered={0: 5, 1: 5}, begun=[2, 3], size=2) is None
    assert part_of(leased={}, buffered={0: 5, 1: 5}, begun=[2], size=2) == [0, 1]


def test_synchronous_parts_are_those_of_the_batchs_order_whatever_came_first():
    late = {"leased": {1: 5}, "max_staleness": 0, "groups_per_step": 6}
    assert part_of(buffered={0: 5, 2: 5, 3: 5}, size=2, **late) is None
    assert part_of(buffered={0: 5, 2: 5, 3: 5}, size=1, **late) == [0]
    assert part_of(buffered={2: 5, 3: 5}, begun=[0], size=2, **late) is None
    assert part_of(buffered={2: 5, 3: 5}, leased={4: 5}, size=2, max_staleness=0, groups_per_step=6) == [2, 3]


# Against slow transcriptions of the rules


def ledger_of(leased, buffered, begun=()):
    """A ledger with these groups, each leased under its version."""
    ledger = Ledger(num_problems=1000, num_groups=1000, seed=0)
    ledger.num_leased_by_version.update(leased.values())
    ledger.num_buffered_by_version.update(buffered.values())
    ledger.buffered.update(buffered)
    ledger.begun.update(dict.fromkeys(begun, 0))
    for group, version in leased.items():
        ledger.leased[group] = LeasedGroup(version, 0.0, rest=[])
    return ledger


def batch_of(*, leased, buffered, begun=(), **bounds):
    return cut_batch(ledger_of(leased, buffered, begun), **bounds)


def stale_of(*, buffered, begun=(), **bounds):
    return too_stale(ledger_of({}, buffered, begun), **bounds)


def slow_oldest_of(count, *, places_left, version, leased, buffered, groups_per_step, max_staleness):
    """The oldest finished groups, if each of the others, one after the other, still has a place in time."""
    if len(buffered) < count:
        return None
    oldest = sorted(buffered, key=lambda group: (buffered[group], group))[:count]
    left = sorted([*leased.values(), *(lease for group, lease in buffered.items() if group not in oldest)])
    for position, lease in enumerate(left):
        if position + 1 > places_left + max(0, lease + max_staleness - version) * groups_per_step:
            return None
    return oldest


def slow_stale_of(*, version, buffered, begun, groups_per_step, max_staleness):
    stale, num_kept = [], len(begun)
    for group in sorted(buffered, key=lambda group: (buffered[group], group)):
        if num_kept < (buffered[group] + max_staleness - version + 1) * groups_per_step:
            num_kept += 1
        else:
            stale.append(group)
    return stale


groups_by_version = st.lists(st.integers(0, 6), max_size=14)


@settings(max_examples=400, deadline=None)
@given(
    leased=groups_by_version,
    buffered=groups_by_version,
    version=st.integers(0, 8),
    groups_per_step=st.integers(1, 5),
    max_staleness=st.integers(0, 4),
    num_begun=st.integers(0, 4),
    size=st.integers(1, 4),
)
def test_the_rules_are_those_of_their_slow_transcriptions(
    leased, buffered, version, groups_per_step, max_staleness, num_begun, size
):
    begun = list(range(200, 200 + min(num_begun, groups_per_step)))
    leased_groups = dict(enumerate(leased))
    buffered_groups = dict(enumerate(buffered, start=100))
    bounds = {"version": version, "groups_per_step": groups_per_step, "max_staleness": max_staleness}
    groups = {"leased": leased_groups, "buffered": buffered_groups}
    places = groups_per_step - len(begun)
    rest = slow_oldest_of(places, places_left=0, **groups, **bounds)
    expected = None if rest is None else begun + rest
    assert batch_of(**groups, begun=begun, **bounds) == expected
    assert stale_of(buffered=buffered_groups, begun=begun, **bounds) == slow_stale_of(
        buffered=buffered_groups, begun=begun, **bounds
    )
    part = slow_oldest_of(size, places_left=places - size, **groups, **bounds) if size < places else None
    if part and max_staleness == 0 and leased_groups:  # numbers of leased groups are lower here
        part = None
    assert part_of(**groups, begun=begun, size=size, **bounds) == part
