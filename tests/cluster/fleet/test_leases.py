"""Who is given how many groups, or pieces of them: as many as keep an engine full, counted in sequences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors.config import RolloutConfig
from actors.types import Piece
from cluster.fleet.handles import RolloutHandle
from cluster.fleet.rollouts import RolloutFleet
from cluster.fleet.slots import Slot
from cluster.leasing.ledger import Ledger
from cluster.leasing.work import Work

SAMPLES, SEQUENCES = 8, 32


class Run:
    """A fleet of simulated workers, around the real ledger; everything is admitted."""

    def __init__(
        self, num_workers: int = 1, *, synchronous: bool = False, beside: Work | None = None, **config: int
    ) -> None:
        self.given: dict[str, list[Piece]] = {f"rollout-{number}": [] for number in range(num_workers)}
        samples = config.pop("samples_per_prompt", SAMPLES)
        self.ledger = Ledger(num_problems=1000, num_groups=1000, seed=0, num_samples=samples)
        self.num_admitted = 1000
        self.oldest = 0
        """Version under which a group may be begun."""
        self.fleet = RolloutFleet(
            config=RolloutConfig(samples_per_prompt=samples, max_num_seqs=SEQUENCES, **config),
            model="",
            works=[
                Work(
                    ledger=self.ledger,
                    num_admitted=lambda version: (
                        self.num_admitted - self.ledger.num_outstanding if version >= self.oldest else 0
                    ),
                    make_lease=lambda piece: piece,  # type: ignore[arg-type, return-value]
                ),
                *([beside] if beside else []),
            ],
            synchronous=synchronous,
            update_timeout_s=1.0,
            on_pieces=lambda worker, pieces: None,
            on_lost=lambda role, error: None,
        )
        for name, groups in self.given.items():
            actor = SimpleNamespace(submit=SimpleNamespace(remote=groups.extend))
            self.fleet.workers[name] = RolloutHandle(
                name=name, actor=actor, slot=Slot(is_initial=False), serving=True, version=0, has_started=True
            )
        published: Any = SimpleNamespace(version=0)
        self.fleet.announce(published)

    def top_up(self) -> dict[str, int]:
        """How many groups each worker was given just now."""
        before = {name: len(groups) for name, groups in self.given.items()}
        self.fleet.top_up()
        return {name: len(groups) - before[name] for name, groups in self.given.items()}

    def num_samples(self, name: str) -> int:
        return sum(piece.num_samples for piece in self.given[name])

    def tells(self, name: str, num_unfinished: int, capacity: float = SEQUENCES, unseen: int = 0) -> None:
        """The worker has seen all sequences given to it but the last `unseen`."""
        worker = self.fleet.workers[name]
        facts: Any = SimpleNamespace(
            num_leased=worker.num_leased - unseen * SAMPLES, num_unfinished=num_unfinished, capacity=capacity
        )
        worker.facts = facts


def test_a_worker_is_given_groups_for_a_full_engine_and_as_many_again_that_wait():
    run = Run()
    assert run.top_up() == {"rollout-0": 2 * SEQUENCES // SAMPLES}
    assert run.top_up() == {"rollout-0": 0}


def beside(num_groups: int, num_samples: int) -> Work:
    """Work of another kind, whose groups are numbered from 5000 on."""
    return Work(
        ledger=Ledger(num_problems=num_groups, num_groups=num_groups, seed=0, num_samples=num_samples),
        num_admitted=lambda version: num_groups,
        make_lease=lambda piece: piece._replace(group=5000 + piece.group),  # type: ignore[arg-type, return-value]
    )


def test_work_that_comes_later_takes_no_place_from_what_goes_first():
    run = Run(beside=beside(100, 4))
    run.num_admitted = 6
    assert run.top_up() == {"rollout-0": 6 + 2 * SEQUENCES // 4}
    assert [piece.group for piece in run.given["rollout-0"][:7]] == [0, 1, 2, 3, 4, 5, 5000]
    run.num_admitted = 1000
    run.tells("rollout-0", num_unfinished=6 * SAMPLES + 64)  # as before
    assert run.top_up() == {"rollout-0": 2}
    assert [piece.group for piece in run.given["rollout-0"][-2:]] == [6, 7]


def test_work_that_goes_first_may_have_none_to_give():
    run = Run(beside=beside(3, 4))
    run.num_admitted = 0
    assert run.top_up() == {"rollout-0": 3}
    assert [piece.group for piece in run.given["rollout-0"]] == [5000, 5001, 5002]


def test_others_may_take_the_groups_of_both_kinds_of_a_worker_that_is_silent():
    run = Run(2, beside=beside(2, 4))
    run.num_admitted = 4
    run.top_up()
    assert run.fleet.leases_by_worker() == {"rollout-0": 3, "rollout-1": 3}
    theirs = {piece.group for piece in run.given["rollout-0"]}
    run.fleet._suspect(run.fleet.workers["rollout-0"], 3.0)
    assert {piece.group for piece in run.given["rollout-1"]} == {0, 1, 2, 3, 5000, 5001} > theirs
    assert run.fleet.leases_by_worker() == {"rollout-0": 0, "rollout-1": 6}


def test_what_counts_is_unfinished_sequences_and_not_groups():
    """Of its eight groups each has one straggler: by groups the engine would be full, by sequences it is empty."""
    run = Run()
    run.top_up()
    run.tells("rollout-0", num_unfinished=8)
    assert run.top_up() == {"rollout-0": 7}
    run.tells("rollout-0", num_unfinished=8, unseen=7 * SAMPLES)
    assert run.top_up() == {"rollout-0": 0}


def test_an_engine_whose_cache_holds_fewer_sequences_is_given_fewer_groups_and_never_less_than_two():
    run = Run()
    run.tells("rollout-0", num_unfinished=0, capacity=16.0)
    assert run.top_up() == {"rollout-0": 4}
    tiny = Run()
    tiny.tells("rollout-0", num_unfinished=0, capacity=0.5)
    assert tiny.top_up() == {"rollout-0": 2}


def test_the_worker_with_the_fewest_unfinished_sequences_comes_first():
    run = Run(2)
    run.num_admitted = 3
    run.tells("rollout-0", num_unfinished=20)
    run.tells("rollout-1", num_unfinished=2)
    assert run.top_up() == {"rollout-0": 0, "rollout-1": 3}


def test_a_cap_on_groups_holds_whatever_the_sequences():
    run = Run(max_queued_groups=3)
    assert run.top_up() == {"rollout-0": 3}
    run.tells("rollout-0", num_unfinished=0)
    assert run.top_up() == {"rollout-0": 0}


def test_a_cap_on_groups_leaves_room_for_larger_groups_of_another_kind():
    run = Run(max_queued_groups=1, beside=beside(3, 4 * SAMPLES))
    run.num_admitted = 0
    assert run.top_up() == {"rollout-0": 1}
    assert [(piece.group, piece.num_samples) for piece in run.given["rollout-0"]] == [(5000, 4 * SAMPLES)]


@pytest.mark.parametrize("unfinished", [0, 60])
def test_synchronous_leases_are_spread_evenly_whatever_the_workers_told_before(unfinished):
    run = Run(3, synchronous=True, divide_groups=False)
    run.num_admitted = 31
    run.tells("rollout-1", num_unfinished=unfinished)
    assert sorted(run.top_up().values()) == [10, 10, 11]
    assert [piece.group for piece in run.given["rollout-0"]][:3] == [0, 3, 6]


def test_the_share_of_a_worker_behind_an_update_goes_to_another_as_far_as_it_has_room():
    run = Run(2)
    run.oldest = 1
    run.fleet.workers["rollout-1"].version = 1
    run.fleet.announce(SimpleNamespace(version=1))
    run.tells("rollout-1", num_unfinished=40)
    assert run.top_up() == {"rollout-0": 0, "rollout-1": 3}


# Division


@pytest.mark.parametrize("num_workers", [2, 3, 4, 7])
@pytest.mark.parametrize(("num_groups", "samples"), [(1, 8), (5, 16), (8, 16), (9, 5), (2, 3)])
def test_a_synchronous_step_gives_every_worker_the_same_number_of_sequences_within_one(
    num_workers, num_groups, samples
):
    run = Run(num_workers, synchronous=True, samples_per_prompt=samples)
    run.num_admitted = num_groups
    run.top_up()
    given = [run.num_samples(name) for name in run.given]
    assert sum(given) == num_groups * samples and max(given) - min(given) <= 1
    pieces = sorted(piece for pieces in run.given.values() for piece in pieces)
    drawn = [(piece.group, sample) for piece in pieces for sample in range(piece.start, piece.stop)]
    assert drawn == [(group, sample) for group in range(num_groups) for sample in range(samples)]
    divided = {piece.group for piece in pieces if piece.num_samples < samples}
    assert len(divided) <= num_workers - 1 and divided == set(range(num_groups)[num_groups - len(divided) :])


def test_the_same_step_is_divided_the_same_way_each_time():
    def given():
        run = Run(3, synchronous=True)
        run.num_admitted = 4
        run.top_up()
        return run.given

    assert (
        given()
        == given()
        == {
            "rollout-0": [Piece(0, 0, 8), Piece(3, 0, 3)],
            "rollout-1": [Piece(1, 0, 8), Piece(3, 3, 6)],
            "rollout-2": [Piece(2, 0, 8), Piece(3, 6, 8)],
        }
    )


def test_a_group_larger_than_an_engines_room_is_spread():
    """Of 256 sequences an engine of 32 takes 64 at most; all eight engines have the same share of the first groups."""
    run = Run(8, samples_per_prompt=256)
    run.top_up()
    assert [run.num_samples(name) for name in run.given] == [64] * 8
    assert sorted(piece for pieces in run.given.values() for piece in pieces) == [
        Piece(group, start, start + 64) for group in (0, 1) for start in range(0, 256, 64)
    ]


def test_where_fewer_groups_are_admitted_than_workers_have_room_the_last_are_divided_evenly():
    run = Run(2, samples_per_prompt=24)
    run.num_admitted = 1
    run.top_up()
    assert run.given == {"rollout-0": [Piece(0, 0, 12)], "rollout-1": [Piece(0, 12, 24)]}
    run.tells("rollout-0", num_unfinished=0)
    run.tells("rollout-1", num_unfinished=10)
    run.num_admitted = 3
    assert run.top_up() == {"rollout-0": 2, "rollout-1": 1}
    assert run.given["rollout-0"][1:] + run.given["rollout-1"][1:] == [
        Piece(1, 0, 24),
        Piece(2, 16, 24),
        Piece(2, 0, 16),
    ]


@pytest.mark.parametrize("unfinished", [0, 3, 7, 14, 63])
def test_no_piece_is_smaller_than_a_prompt_is_worth(unfinished):
    run = Run(3, samples_per_prompt=20)
    for name in run.given:
        run.tells(name, num_unfinished=unfinished)
        run.num_admitted = run.ledger.num_outstanding + 1
        run.top_up()
    pieces = [piece for pieces in run.given.values() for piece in pieces]
    assert pieces and all(piece.num_samples >= 8 for piece in pieces)


@pytest.mark.parametrize("synchronous", [False, True])
def test_one_worker_and_workers_that_may_not_divide_are_leased_whole_groups(synchronous):
    for run in (
        Run(1, synchronous=synchronous, samples_per_prompt=24),
        Run(3, synchronous=synchronous, samples_per_prompt=24, divide_groups=False),
    ):
        run.num_admitted = 7
        run.top_up()
        pieces = sorted(piece for pieces in run.given.values() for piece in pieces)
        assert pieces == [Piece(group, 0, 24) for group in range(len(pieces))] and len(pieces) >= 3


def test_what_a_dead_worker_had_of_a_group_goes_to_the_others_without_a_further_admission():
    run = Run(3, synchronous=True)
    run.num_admitted = 4
    run.top_up()
    assert run.ledger.receive(Piece(3, 6, 8), "rollout-2")
    run.ledger.forget("rollout-1")
    del run.fleet.workers["rollout-1"]
    run.num_admitted = 3  # as when the next batch has been cut meanwhile: no group may be begun
    before = run.given["rollout-0"] + run.given["rollout-2"]
    run.top_up()
    again = [piece for piece in run.given["rollout-0"] + run.given["rollout-2"] if piece not in before]
    assert again == [Piece(3, 3, 6)]
    assert run.ledger.counts["leased"] == 3


def test_a_worker_behind_an_update_takes_no_piece_of_a_group_that_was_begun_after_it():
    run = Run(2, synchronous=False, samples_per_prompt=24)
    run.fleet.workers["rollout-0"].version = 1
    run.num_admitted = 1
    run.fleet.workers["rollout-1"].serving = False
    run.top_up()
    (piece,) = run.given["rollout-0"]
    run.ledger.give_back(piece)
    assert run.ledger.lease("rollout-0", version=1, now_s=0.0, most=8) == Piece(0, 0, 8)
    run.fleet.workers["rollout-0"].serving = False
    run.fleet.workers["rollout-1"].serving = True
    assert run.top_up()["rollout-1"] == 0
    run.fleet.workers["rollout-1"].version = 1
    run.top_up()
    assert run.given["rollout-1"] == [Piece(0, 8, 24)]
