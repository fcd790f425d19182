"""When an evaluation begins, when it goes before training, what becomes of its groups, and when a run ends by it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.types import GroupFacts, Lease, Piece
from cluster.config.parse import parse_config
from cluster.fleet.stored import JudgedGroup, StoredGroup, StoredPiece
from cluster.leasing import priority
from cluster.run.asked import Asked, choose
from cluster.run.health import Health
from cluster.run.held_out import FIRST_GROUP, HeldOut, is_held_out
from cluster.run.metrics import Metrics
from cluster.run.unjudged import TRIES
from cluster.run_directory.held_out import read_held_out
from cluster.run_directory.record import RunRecord
from tests.shared.judgements import judged
from tests.shared.stored_groups import Nowhere
from verifiers.types import Problem

SAMPLES = 4


def problems(count: int) -> list[Problem]:
    return [Problem(id=f"p{index}", prompt=f"{index}?") for index in range(count)]


def settings(train: dict[str, Any], **evaluation: Any) -> Any:
    return parse_config(
        {
            "model": "some/model",
            "evaluation": {
                "every": 2,
                "samples_per_problem": 8,
                "during_samples": SAMPLES,
                "ks": [1, 4],
                **evaluation,
            },
            "train": {"steps": 9, **train},
        }
    )


class Run:
    """A run's evaluations, with engines and verifiers that answer when they are told to."""

    def __init__(self, run_dir: Path, *, version: int = 0, num_problems: int = 3, **train: Any) -> None:
        config = settings(train)
        asked = choose(config, problems(num_problems), [(index,) for index in range(num_problems)])
        self.trained_to = version
        self.is_stopping = False
        self.judging: list[tuple[StoredGroup, Problem]] = []
        self.health = Health(config)
        self.record = RunRecord(run_dir)
        self.held_out = HeldOut(
            config,
            asked,
            self.record,
            Metrics(),
            self.health,
            version=version,
            trained_to=lambda: self.trained_to,
            is_stopping=lambda: self.is_stopping,
            verify=lambda group, problem: self.judging.append((group, problem)),
            on_change=lambda: None,
        )

    def lease(self, version: int, worker: str = "rollout-0") -> list[Lease]:
        """All that an engine which serves the version may be given."""
        work, leases = self.held_out.work, []
        while work.num_admitted(version):
            piece = work.ledger.lease(worker, version=version, now_s=0.0)
            if piece is None:
                break
            leases.append(work.make_lease(piece))
        return leases

    def sample(self, leases: list[Lease], version: int, worker: str = "rollout-0") -> list[StoredGroup]:
        pieces = [stored(lease, version, worker) for lease in leases]
        for piece in pieces:
            self.held_out.receive(worker, piece)
        return [StoredGroup.of([piece]) for piece in pieces]

    def judge(self, reward: float = 0.5) -> None:
        for group, _ in self.judging:
            self.held_out.accept(JudgedGroup(stored=group, judgement=judged([reward] * SAMPLES)))
        self.judging = []

    async def evaluate(self, version: int, reward: float = 0.5) -> None:
        """One from its beginning to its end, by engines that serve the version."""
        self.trained_to = version
        self.held_out.begin_if_due(version)
        self.sample(self.lease(version), version)
        self.judge(reward)
        await self.settled()

    async def settled(self) -> None:
        """What was judged is reckoned, in a thread, and written."""
        async with asyncio.timeout(60):
            while (under_way := self.held_out.facts()["under_way"]) and self.is_judged(under_way):
                await asyncio.sleep(0.01)

    async def begun(self, version: int) -> None:
        """The evaluation of the version is under way."""
        async with asyncio.timeout(60):
            while (under_way := self.held_out.facts()["under_way"]) is None or under_way["step"] != version:
                await asyncio.sleep(0.01)

    @staticmethod
    def is_judged(under_way: dict[str, Any]) -> bool:
        return under_way["num_done"] == under_way["num_problems"]


def stored(lease: Lease, version: int, worker: str) -> StoredPiece:
    facts = GroupFacts(
        piece=lease.piece,
        problem_id=lease.problem_id,
        workers=(worker,),
        num_tokens=10,
        oldest_version=version,
        newest_version=version,
        finish_reasons=frozenset({"stop"}),
        only_text=None,
    )
    return StoredPiece(facts=facts, batch=Nowhere(), row=0)  # type: ignore[arg-type]


def live(run: Run, play: Callable[[], Awaitable[None]]) -> None:
    """Play with the loop of the evaluations under way."""

    async def both() -> None:
        loop = asyncio.create_task(run.held_out.run())
        try:
            await play()
        finally:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop

    asyncio.run(both())


def test_the_problems_are_the_same_ones_each_time_in_the_order_of_the_split():
    every = problems(100)
    prompts = [(index,) for index in range(100)]
    chosen = choose(settings({}, during_problems=10), every, prompts)
    again = choose(settings({}, during_problems=10), every, prompts)
    other = choose(settings({}, during_problems=10, seed=2), every, prompts)
    assert chosen == again != other
    assert len(set(chosen.indices)) == 10 and list(chosen.indices) == sorted(chosen.indices)
    assert [problem.id for problem in chosen.problems] == [f"p{index}" for index in chosen.indices]
    assert chosen.prompts == tuple((index,) for index in chosen.indices)
    assert choose(settings({}), every[:5], prompts[:5]).indices == (0, 1, 2, 3, 4)
    assert choose(settings({}, every=0), every, prompts) == Asked()


def test_a_lease_draws_what_bonfire_eval_draws_after_everything_that_is_trained_on(tmp_path):
    run = Run(tmp_path)
    run.held_out.begin_if_due(0)
    leases = run.lease(0)
    assert [lease.seed for lease in leases] == [(1 << 32) + index * 8 for index in range(3)]
    assert [lease.piece for lease in leases] == [Piece(FIRST_GROUP + place, 0, SAMPLES) for place in range(3)]
    assert min(lease.priority for lease in leases) > priority.of_training(10**6, 10**9)
    assert all(is_held_out(stored(lease, 0, "rollout-0")) for lease in leases)


def test_the_policy_that_the_run_begins_with_is_evaluated_before_the_first_step(tmp_path):
    run = Run(tmp_path)

    async def play() -> None:
        run.held_out.begin_if_due(0)
        assert run.held_out.goes_first
        groups = run.sample(run.lease(0), 0)
        assert [problem.id for _, problem in run.judging] == ["p0", "p1", "p2"] and len(groups) == 3
        run.judge()
        await run.settled()
        assert not run.held_out.goes_first
        [row] = read_held_out(tmp_path)
        assert (row["step"], row["num_problems"], row["num_samples"], row["num_tokens"]) == (0, 3, 12, 30)
        assert (
            row["estimates"]["pass@4"] == {"mean": 0.5, "low": 0.5, "high": 0.5} and row["differences"] == {}
        )

    live(run, play)


def test_later_ones_let_training_go_first_until_the_next_is_due(tmp_path):
    run = Run(tmp_path)

    async def play() -> None:
        await run.evaluate(0)
        run.held_out.begin_if_due(1)
        assert run.lease(1) == []  # none is due
        run.held_out.begin_if_due(2)
        assert run.lease(1) == []  # an engine that serves less than the version it is of
        assert not run.held_out.goes_first and run.held_out.work.due_since_s() == math.inf
        first, *rest = run.lease(2)
        run.sample([first], 2)
        run.held_out.begin_if_due(3)
        assert not run.held_out.goes_first
        run.held_out.begin_if_due(4)
        began_s = run.held_out.work.due_since_s()
        assert run.held_out.goes_first and began_s < math.inf
        run.trained_to = 5
        run.sample(rest, 5)
        assert (
            began_s < run.held_out.work.due_since_s() < math.inf
        )  # each that comes gives the others their time
        run.judge()
        await run.settled()
        row = read_held_out(tmp_path)[-1]
        assert (row["step"], row["ended_step"], row["oldest_version"], row["newest_version"]) == (2, 5, 2, 5)
        assert not run.held_out.goes_first and run.held_out.is_due_at(5)  # that of step 4 was put off
        await run.evaluate(5)
        assert read_held_out(tmp_path)[-1]["step"] == 5 and not run.held_out.is_due_at(7)

    live(run, play)


def test_a_synchronous_run_always_waits_for_its_evaluation(tmp_path):
    run = Run(tmp_path, max_staleness=0)

    async def play() -> None:
        await run.evaluate(0)
        run.held_out.begin_if_due(2)
        assert run.held_out.goes_first

    live(run, play)


def test_groups_of_a_lost_engine_are_sampled_again_and_come_once(tmp_path):
    run = Run(tmp_path)

    async def play() -> None:
        run.held_out.begin_if_due(0)
        leases = run.lease(0)
        run.sample(leases[:1], 0)
        run.held_out.work.ledger.forget("rollout-0")
        again = run.lease(0, "rollout-1")
        assert [lease.problem_id for lease in again] == ["p1", "p2"]
        assert [lease.seed for lease in again] == [lease.seed for lease in leases[1:]]
        run.sample(leases, 0)  # late: nobody waits for it any more
        assert len(run.judging) == 1
        run.held_out.release([group for group, _ in run.judging])  # gone with its node
        run.judging = []
        run.sample(again, 0, "rollout-1")
        run.sample(run.lease(0, "rollout-1"), 0, "rollout-1")
        run.judge()
        await run.settled()
        assert read_held_out(tmp_path)[0]["num_problems"] == 3

    live(run, play)


def test_a_problem_on_which_the_verifier_fails_again_and_again_is_left_out_from_then_on(tmp_path):
    run = Run(tmp_path)

    async def play() -> None:
        run.held_out.begin_if_due(0)
        run.sample(run.lease(0), 0)
        for left in reversed(range(TRIES)):
            [bad] = [pair for pair in run.judging if pair[1].id == "p1"]
            run.judging.remove(bad)
            run.held_out.give_back(bad[0], "KeyError")
            run.sample(run.lease(0), 0)
            assert len(run.judging) == 2 + (left > 0)
        run.judge()
        await run.settled()
        await run.evaluate(2)
        rows = read_held_out(tmp_path)
        assert [(row["num_problems"], row["num_left_out"]) for row in rows] == [(2, 1), (2, 0)]
        assert rows[1]["differences"]["pass@1"]["mean"] == 0.0
        assert "held-out problem p1 is left out" in run.health.events[-1]

    live(run, play)


def test_without_a_problem_that_can_be_judged_the_run_goes_on_unevaluated(tmp_path):
    run = Run(tmp_path, num_problems=1)

    async def play() -> None:
        run.held_out.begin_if_due(0)
        run.held_out.begin_if_due(2)  # while that of version 0 is under way
        for _ in range(TRIES):
            run.sample(run.lease(2), 2)
            [(bad, _)] = run.judging
            run.judging = []
            run.held_out.give_back(bad, "KeyError")
        await run.settled()
        assert not run.held_out.goes_first and not run.held_out.is_due_at(4)
        assert "no held-out problem is left" in run.health.events[-1]
        run.held_out.begin_if_due(4)
        async with asyncio.timeout(10):
            await run.held_out.finish(9)

    live(run, play)


def test_the_end_of_a_run_waits_for_the_evaluation_of_its_last_version(tmp_path):
    run = Run(tmp_path)

    async def play() -> None:
        await run.evaluate(0)
        run.held_out.begin_if_due(8)
        leases = run.lease(8)
        run.held_out.begin_if_due(9)  # the last step; that of step 8 is under way
        run.trained_to = 9
        ending = asyncio.create_task(run.held_out.finish(9))
        await asyncio.sleep(0)
        run.sample(leases, 8)
        run.judge()
        await run.settled()
        await run.begun(9)
        assert not ending.done()
        run.sample(run.lease(9), 9)
        run.judge()
        await asyncio.wait_for(ending, 60)
        assert [row["step"] for row in read_held_out(tmp_path)] == [0, 8, 9]
        await asyncio.wait_for(run.held_out.finish(9), 60)

    live(run, play)


def test_a_run_that_is_to_stop_waits_for_no_evaluation(tmp_path):
    run = Run(tmp_path)

    async def play() -> None:
        run.held_out.begin_if_due(0)
        ending = asyncio.create_task(run.held_out.finish(9))
        await asyncio.sleep(0)
        run.is_stopping = True
        run.held_out.wake()
        await asyncio.wait_for(ending, 60)
        assert run.lease(0) == []

    live(run, play)


@pytest.mark.parametrize(("version", "is_due"), [(2, True), (3, False), (4, True), (5, True)])
def test_a_resumed_run_evaluates_at_once_what_it_lacks(tmp_path, version, is_due):
    """There are those of steps 0 and 2, and one of step 4 that was not over."""
    run = Run(tmp_path)

    async def play() -> None:
        await run.evaluate(0, reward=0.25)
        await run.evaluate(2)

    live(run, play)
    resumed = Run(tmp_path, version=version)
    assert resumed.held_out.is_due_at(version) == is_due

    async def go_on() -> None:
        await resumed.evaluate(6)
        assert read_held_out(tmp_path)[-1]["differences"]["pass@1"]["mean"] == 0.25

    live(resumed, go_on)


def test_the_run_ends_after_so_many_evaluations_that_are_no_better_also_after_a_resume(tmp_path):
    stopping = {"keep_best": "pass@4", "stop_when_worse_for": 2, "max_staleness": 0}
    run = Run(tmp_path, **stopping)
    why = "held-out pass@4 has not improved for 2 evaluations, the best is of step 2"

    async def play() -> None:
        for version, reward in ((0, 0.9), (2, 0.5), (4, 0.5), (6, 0.25)):
            assert run.held_out.verdict is None
            await run.evaluate(version, reward)
        assert run.held_out.verdict == why
        assert run.held_out.facts()["best"] == {"step": 2, "by": "pass@4", "value": 0.5}
        assert run.record.kept_steps == {2}

    live(run, play)
    assert Run(tmp_path, version=7, **stopping).held_out.verdict == why
    again = Run(tmp_path, version=6, **stopping).held_out  # which makes that of step 6 again
    assert again.verdict is None and again.is_due_at(6)


def test_without_evaluations_nothing_is_ever_due(tmp_path):
    config = parse_config({"model": "some/model"})
    held_out = HeldOut(
        config,
        Asked(),
        RunRecord(tmp_path),
        Metrics(),
        Health(config),
        version=0,
        trained_to=lambda: 0,
        is_stopping=lambda: False,
        verify=lambda group, problem: None,
        on_change=lambda: None,
    )
    held_out.begin_if_due(0)
    asyncio.run(held_out.finish(0))
    assert not held_out.work.num_admitted(0) and held_out.facts() is None and not held_out.goes_first
    assert held_out.verdict is None and np.isinf(held_out.work.due_since_s())
