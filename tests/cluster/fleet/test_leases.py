"""Who is given how many groups: as many as keep an engine full, counted in sequences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors.config import RolloutConfig
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
        self.given: dict[str, list[int]] = {f"rollout-{number}": [] for number in range(num_workers)}
        self.ledger = Ledger(num_problems=1000, num_groups=1000, seed=0)
        self.num_admitted = 1000
        self.fleet = RolloutFleet(
            config=RolloutConfig(samples_per_prompt=SAMPLES, max_num_seqs=SEQUENCES, **config),
            model="",
            works=[
                Work(
                    ledger=self.ledger,
                    num_samples=SAMPLES,
                    may_lease=lambda version: self.ledger.num_outstanding < self.num_admitted,
                    make_lease=lambda group: group,  # type: ignore[arg-type, return-value]
                ),
                *([beside] if beside else []),
            ],
            synchronous=synchronous,
            update_timeout_s=1.0,
            on_groups=lambda groups: None,
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

    def tells(self, name: str, num_unfinished: int, capacity: float = SEQUENCES, unseen: int = 0) -> None:
        """The worker has seen all groups given to it but the last `unseen`."""
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
        ledger=Ledger(num_problems=num_groups, num_groups=num_groups, seed=0),
        num_samples=num_samples,
        may_lease=lambda version: True,
        make_lease=lambda group: 5000 + group,  # type: ignore[arg-type, return-value]
    )


def test_work_that_comes_later_takes_no_place_from_what_goes_first():
    run = Run(beside=beside(100, 4))
    run.num_admitted = 6
    assert run.top_up() == {"rollout-0": 6 + 2 * SEQUENCES // 4}
    assert run.given["rollout-0"][:7] == [0, 1, 2, 3, 4, 5, 5000]
    run.num_admitted = 1000
    run.tells("rollout-0", num_unfinished=6 * SAMPLES + 64)  # as before
    assert run.top_up() == {"rollout-0": 2}
    assert run.given["rollout-0"][-2:] == [6, 7]


def test_work_that_goes_first_may_have_none_to_give():
    run = Run(beside=beside(3, 4))
    run.num_admitted = 0
    assert run.top_up() == {"rollout-0": 3} and run.given["rollout-0"] == [5000, 5001, 5002]


def test_others_may_take_the_groups_of_both_kinds_of_a_worker_that_is_silent():
    run = Run(2, beside=beside(2, 4))
    run.num_admitted = 4
    run.top_up()
    assert run.fleet.leases_by_worker() == {"rollout-0": 3, "rollout-1": 3}
    theirs = set(run.given["rollout-0"])
    run.fleet._suspect(run.fleet.workers["rollout-0"], 3.0)
    assert set(run.given["rollout-1"]) == {0, 1, 2, 3, 5000, 5001} > theirs
    assert run.fleet.leases_by_worker() == {"rollout-0": 0, "rollout-1": 6}


def test_what_counts_is_unfinished_sequences_and_not_groups():
    """Of its eight groups each has one straggler: by groups the engine would be full, by sequences it is empty."""
    run = Run()
    run.top_up()
    run.tells("rollout-0", num_unfinished=8)
    assert run.top_up() == {"rollout-0": 7}
    run.tells("rollout-0", num_unfinished=8, unseen=7)
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


@pytest.mark.parametrize("unfinished", [0, 60])
def test_synchronous_leases_are_spread_evenly_whatever_the_workers_told_before(unfinished):
    run = Run(3, synchronous=True)
    run.num_admitted = 31
    run.tells("rollout-1", num_unfinished=unfinished)
    assert run.top_up() == {"rollout-0": 11, "rollout-1": 10, "rollout-2": 10}
    assert run.given["rollout-0"][:3] == [0, 3, 6]
