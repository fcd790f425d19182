"""Verdicts beside their group: samples, demonstrations, and what the verifier's worker went through."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.types import Judgement, SampleGroup, ScoredGroup
from cluster.fleet.stored import JudgedGroup, store
from cluster.fleet.verifying import VerifierFleet, in_columns
from tests.shared.stored_groups import lost_from_store
from tests.shared.tiny_model import make_group
from verifiers.config import VerifierConfig
from verifiers.types import Problem, Verdict


def test_the_verdict_after_the_samples_is_the_demonstrations_own() -> None:
    verdicts = [Verdict(score=s, reward=s / 2, answer=f"{s}") for s in (1.0, 2.0, 3.0)]
    scored = in_columns(verdicts, (5, 6, 1))
    assert scored.scores.tolist() == [1.0, 2.0] and scored.rewards.tolist() == [0.5, 1.0]
    assert scored.answers == ("1.0", "2.0")
    assert scored.demonstration is not None and scored.demonstration.score == 3.0
    assert scored.demonstration.token_ids.dtype == np.int32
    assert scored.demonstration.token_ids.tolist() == [5, 6, 1]
    assert in_columns(verdicts[:2]).demonstration is None


class Judged:
    """What a fleet of one real worker made of groups."""

    def __init__(self) -> None:
        self.scored: list[Judgement] = []
        self.errors: list[str] = []
        self.num_child_restarts = 0


@pytest.fixture
def judge(ray_cluster: str) -> Callable[..., Judged]:
    def judge(
        verifier: VerifierConfig,
        problem: Problem,
        groups: Sequence[SampleGroup],
        demonstrations: Mapping[str, Sequence[int]],
        held_out: Mapping[int, Problem] | None = None,
    ) -> Judged:
        """`held_out`: what groups ask, by number, that ask something else than the problem."""
        judged = Judged()

        async def run() -> None:
            fleet = VerifierFleet(
                config=verifier,
                problems={problem.id: problem},
                on_judged=lambda group: judged.scored.append(group.judgement),
                on_unjudged=lambda group, error: judged.errors.append(error),
                on_gone=lambda groups: judged.errors.append("gone"),
                on_lost=lambda role, error: judged.errors.append(str(error)),
                demonstrations=demonstrations,
            )
            fleet.start()
            for group in store(groups):
                fleet.put(group, (held_out or {}).get(group.facts.group))
            async with asyncio.timeout(60):
                while len(judged.scored) + len(judged.errors) < len(groups):
                    await asyncio.sleep(0.01)
            judged.num_child_restarts = fleet.num_child_restarts
            await fleet.stop()

        asyncio.run(run())
        return judged

    return judge


def group_of(number: int, problem: Problem, *texts: str) -> SampleGroup:
    return scored_of(number, problem, *texts).samples


def scored_of(number: int, problem: Problem, *texts: str) -> ScoredGroup:
    scored = make_group(number, samples=len(texts))
    samples = dataclasses.replace(scored.samples, problem_id=problem.id, texts=texts)
    return dataclasses.replace(scored, samples=samples)


def test_a_demonstration_is_judged_with_every_group_that_asks_for_it(judge) -> None:
    problem = Problem(id="p", prompt="", truth={"numbers": [1, 2], "target": 3}, demonstration="2 + 1")
    groups = [group_of(0, problem, "1 + 2", "2 - 1"), group_of(1, problem, "1", "1 +")]
    first, second = judge(VerifierConfig(), problem, groups, {"p": (4, 1)}).scored
    assert first.scores.tolist() == [1.0, 0.0] and first.answers == ("1 + 2", "2 - 1")
    assert second.scores.tolist() == [0.0, 0.0] and second.answers == ("1", None)
    for scored in (first, second):
        assert scored.demonstration.score == 1.0 and scored.demonstration.token_ids.tolist() == [4, 1]
    (scored,) = judge(VerifierConfig(), problem, groups[:1], {}).scored
    assert scored.scores.tolist() == [1.0, 0.0] and scored.demonstration is None


def test_a_held_out_problem_is_judged_by_its_own_truth_after_all_others_though_it_has_anothers_id(
    judge,
) -> None:
    trained = Problem(id="p", prompt="", truth={"numbers": [1, 2], "target": 3}, demonstration="2 + 1")
    held_out = Problem(id="p", prompt="", truth={"numbers": [4, 2], "target": 2})
    texts = ("1 + 2", "4 - 2")
    groups = [group_of(number, trained, *texts) for number in range(3)]
    judged = judge(VerifierConfig(), trained, groups, {"p": (4, 1)}, {0: held_out})
    assert [scored.scores.tolist() for scored in judged.scored] == [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert [scored.demonstration is None for scored in judged.scored] == [False, False, True]


def test_a_group_whose_demonstration_crashes_the_verifier_is_not_scored(judge, user_modules: Path) -> None:
    (user_modules / "demonstration_verifiers.py").write_text(
        "def judge(problem, completion):\n    return {'good': 1.0, 'bad': 0.0}[completion]\n"
    )
    verifier = VerifierConfig(reward="demonstration_verifiers:judge")
    problem = Problem(id="p", prompt="", demonstration="unheard of")
    groups = [group_of(0, problem, "good", "bad")]
    judged = judge(verifier, problem, groups, {"p": (4, 1)})
    assert judged.errors == ["KeyError: 'unheard of'"] and judged.scored == []
    (scored,) = judge(verifier, problem, groups, {}).scored
    assert scored.scores.tolist() == [1.0, 0.0]


def test_processes_that_verdicts_cost_are_counted(judge, user_modules: Path) -> None:
    (user_modules / "dying_verifiers.py").write_text(
        "import os\n"
        "def judge(problem, completion):\n"
        "    if completion == 'kill': os._exit(1)\n"
        "    return 1.0\n"
    )
    verifier = VerifierConfig(reward="dying_verifiers:judge", retries=1)
    problem = Problem(id="p", prompt="")
    groups = [group_of(0, problem, "kill", "x"), group_of(1, problem, "x", "x")]
    judged = judge(verifier, problem, groups, {})
    assert (len(judged.scored), len(judged.errors), judged.num_child_restarts) == (1, 1, 2)


def test_a_group_taken_at_the_moment_a_node_must_be_left_is_judged_by_another(ray_cluster: str) -> None:
    problem = Problem(id="p", prompt="", truth={"numbers": [1, 2], "target": 3})
    scored: list[JudgedGroup] = []

    async def run() -> None:
        fleet = VerifierFleet(
            config=VerifierConfig(),
            problems={"p": problem},
            on_judged=scored.append,
            on_unjudged=lambda group, error: pytest.fail(error),
            on_gone=lambda groups: pytest.fail("samples are lost"),
            on_lost=lambda role, error: pytest.fail(str(error)),
        )
        fleet.start()
        async with asyncio.timeout(120):
            while not all(worker.takes_groups for worker in fleet.workers.values()) or not fleet.workers:
                await asyncio.sleep(0.01)
            (worker,) = fleet.workers.values()
            await asyncio.sleep(0.1)  # it waits for groups
            fleet.put(store([group_of(0, problem, "1 + 2", "2 - 1")])[0])
            fleet.slots.replace(worker.slot, 0.0)
            while not scored:
                await asyncio.sleep(0.01)
        await fleet.stop()

    asyncio.run(run())
    assert scored[0].judgement.rewards.tolist() == [1.0, 0.0]


def test_a_verifier_whose_groups_samples_are_lost_is_not_blamed_and_judges_the_others(
    ray_cluster: str,
) -> None:
    problem = Problem(id="p", prompt="", truth={"numbers": [1, 2], "target": 3})
    judged: list[JudgedGroup] = []
    gone: list[int] = []

    async def run() -> None:
        fleet = VerifierFleet(
            config=VerifierConfig(),
            problems={"p": problem},
            on_judged=judged.append,
            on_unjudged=lambda group, error: pytest.fail(error),
            on_gone=lambda groups: gone.extend(group.facts.group for group in groups),
            on_lost=lambda role, error: pytest.fail(str(error)),
        )
        lost = [
            group.stored
            for group in lost_from_store([scored_of(number, problem, "1 + 2", "1") for number in range(2)])
        ]
        there = store([group_of(number, problem, "1", "1 + 2") for number in range(2, 4)])
        for group in (lost[0], there[0], lost[1], there[1]):
            fleet.put(group)
        fleet.start()
        async with asyncio.timeout(120):
            while len(judged) + len(gone) < 4:
                await asyncio.sleep(0.01)
        assert fleet.num_restarts == 0 and [*fleet.workers] == ["verifier-0"]
        await fleet.stop()

    asyncio.run(run())
    assert gone == [0, 1]
    assert [group.stored.facts.group for group in judged] == [2, 3]
    assert [group.judgement.rewards.tolist() for group in judged] == [[0.0, 1.0]] * 2


@pytest.mark.parametrize("comes_back", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_group_of_a_verifier_that_falls_silent_is_judged_by_another_and_scored_once(
    ray_cluster: str, user_modules: Path, tmp_path: Path, comes_back: bool
) -> None:
    """The verifier waits in its first call until its worker is stopped."""
    (user_modules / "waiting_verifiers.py").write_text(
        "import pathlib, time\n"
        "def judge(problem, completion):\n"
        "    began = pathlib.Path(problem.truth['directory'], 'began')\n"
        "    if not began.exists():\n"
        "        began.touch()\n"
        "        time.sleep(2.5)\n"
        "    return 1.0\n"
    )
    problem = Problem(id="p", prompt="", truth={"directory": str(tmp_path)})
    scored: list[JudgedGroup] = []
    lost: list[str] = []
    holders: list[str] = []

    async def run() -> None:
        fleet = VerifierFleet(
            config=VerifierConfig(
                workers=2,
                reward="waiting_verifiers:judge",
                suspect_after_s=1.5,
                heartbeat_timeout_s=60.0 if comes_back else 6.0,
            ),
            problems={"p": problem},
            on_judged=scored.append,
            on_unjudged=lambda group, error: pytest.fail(error),
            on_gone=lambda groups: pytest.fail("samples are lost"),
            on_lost=lambda role, error: lost.append(str(error)),
        )
        fleet.start()
        async with asyncio.timeout(120):
            while len(fleet.working) < 2:
                await asyncio.sleep(0.01)
            fleet.put(store([group_of(0, problem, "x")])[0])
            while not (tmp_path / "began").exists():
                await asyncio.sleep(0.01)
            (holder,) = [worker for worker in fleet.workers.values() if worker.cases]
            holders.append(holder.name)
            os.kill(holder.pid, signal.SIGSTOP)
            while not scored:
                await asyncio.sleep(0.01)
            assert holder.silent.is_set() and holder.name in fleet.workers  # not given up yet
            assert holder not in fleet.working and not holder.takes_groups
            if comes_back:
                os.kill(holder.pid, signal.SIGCONT)
            while holder.silent.is_set() if comes_back else len(fleet.working) < 2:
                await asyncio.sleep(0.01)
            if comes_back:
                while holder.judging_since_s is not None:  # its own verdict comes, and is not counted
                    await asyncio.sleep(0.01)
            fleet.put(store([group_of(1, problem, "y")])[0])
            while len(scored) < 2:
                await asyncio.sleep(0.01)
        await fleet.stop()

    asyncio.run(run())
    assert [group.stored.facts.group for group in scored] == [0, 1]
    assert [error.partition(" while")[0] for error in lost] == (
        [] if comes_back else [f"{holders[0]} did not answer within 6 s"]
    )
