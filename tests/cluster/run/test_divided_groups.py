"""Whole synchronous runs of two engines that share groups, with nothing replaced; in one of them a worker is killed.

A step has three groups of 16 samples: each engine draws a whole group, and half of the third.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.shared.left_behind import checkpoint_at
from tests.shared.live_run import (
    assert_same_checkpoint,
    both_sample,
    serving,
    staleness,
    trained_groups,
    trajectories,
)

SAMPLES, GROUPS, STEPS = 16, 3, 12
STILL_S = 3.0
"""A step takes some tenths of a second."""
SAMPLED = (
    "group",
    "problem_id",
    "seed",
    "prompt_token_ids",
    "token_ids",
    "versions",
    "texts",
    "finish_reasons",
)


@pytest.fixture(scope="module")
def two_engines(make_config):
    def config(**rollout: Any) -> Any:
        return make_config(
            rollout={"workers": 2, "samples_per_prompt": SAMPLES, **rollout},
            train={"groups_per_step": GROUPS, "steps": STEPS},
        )

    return config


@pytest.fixture(scope="module")
def divided(start, two_engines, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("divided")
    with start(two_engines(), run_dir) as run:
        assert run.finish()["stage"] == "finished"
    return run_dir


@pytest.fixture(scope="module")
def killed(start, two_engines, tmp_path_factory) -> dict[str, Any]:
    """The same run; a worker is killed while its half of a group is awaited."""
    run_dir = tmp_path_factory.mktemp("killed")
    with start(two_engines(), run_dir) as run:
        before = run.wait_for(lambda facts: facts["step"] >= 2 and both_sample(facts))
        worker = serving(before)[1]
        os.kill(worker["pid"], signal.SIGSTOP)
        while not (awaited := when_nothing_moves(run))["groups"][
            "leased"
        ]:  # it was to take weights, not to sample
            os.kill(worker["pid"], signal.SIGCONT)
            run.wait_for(lambda facts: facts["step"] > awaited["step"])
            os.kill(worker["pid"], signal.SIGSTOP)
        os.kill(worker["pid"], signal.SIGKILL)
        return {"run_dir": run_dir, "worker": worker["name"], "awaited": awaited, "end": run.finish()}


def when_nothing_moves(run: Any) -> dict[str, Any]:
    """The facts once they have been the same for longer than a step takes."""
    seen, since_s = None, time.monotonic()
    while time.monotonic() < since_s + STILL_S:
        facts = run.facts()
        now = facts["step"], facts["groups"], facts["verifier_queue"]
        if now != seen:
            seen, since_s = now, time.monotonic()
        time.sleep(0.05)
    return facts


def shares(run_dir: Path) -> dict[int, list[list[str]]]:
    """The different workers of each group, by step."""
    return {
        step: [list(dict.fromkeys(row["workers"])) for row in rows]
        for step, rows in trajectories(run_dir).items()
    }


def assert_same_samples(ours: Path, theirs: Path) -> None:
    ours_by_step, theirs_by_step = trajectories(ours), trajectories(theirs)
    assert ours_by_step.keys() == theirs_by_step.keys()
    for step, rows in ours_by_step.items():
        for row, other in zip(rows, theirs_by_step[step], strict=True):
            for column in SAMPLED:
                assert row[column] == other[column], (step, column)


@pytest.mark.slow
def test_two_engines_draw_half_of_a_steps_samples_each_and_every_group_is_whole(divided):
    assert trained_groups(divided) == list(range(STEPS * GROUPS)) and set(staleness(divided)) == {0}
    for rows in trajectories(divided).values():
        names = [name for row in rows for name in row["workers"]]
        assert sorted(map(names.count, set(names))) == [GROUPS * SAMPLES // 2] * 2
        assert [len(set(row["workers"])) for row in rows] == [1, 1, 2]
        for row in rows:
            assert len(row["texts"]) == len(row["workers"]) == SAMPLES
            for text, reward in zip(row["texts"], row["rewards"], strict=True):
                assert reward == sum(map(ord, text)) % 97 / 97


@pytest.mark.slow
@pytest.mark.parametrize(
    "rollout", [{"divide_groups": False}, {"workers": 1}], ids=["whole groups", "one engine"]
)
def test_a_synchronous_run_trains_the_same_tokens_whether_or_not_groups_are_divided(
    start, two_engines, divided, tmp_path, rollout
):
    with start(two_engines(**rollout), tmp_path) as run:
        run.finish()
    assert {len(workers) for groups in shares(tmp_path).values() for workers in groups} == {1}
    assert_same_samples(divided, tmp_path)


@pytest.mark.slow
def test_a_run_that_divides_groups_is_resumed_to_the_same_bits(start, two_engines, divided, tmp_path):
    run_dir = tmp_path / "resumed"
    shutil.copytree(divided, run_dir)
    with start(two_engines(), run_dir, checkpoint=checkpoint_at(run_dir, 3)) as run:
        run.finish()
    assert_same_checkpoint(checkpoint_at(divided, STEPS), checkpoint_at(run_dir, STEPS))
    assert_same_samples(divided, run_dir)


@pytest.mark.slow
def test_a_workers_death_loses_its_part_of_a_group_which_others_sample_to_the_same_tokens(divided, killed):
    assert killed["end"]["stage"] == "finished" and killed["end"]["restarts"]["rollout"] == 1
    assert trained_groups(killed["run_dir"]) == list(range(STEPS * GROUPS))
    assert_same_samples(divided, killed["run_dir"])
    by_one = [
        step
        for step, groups in shares(killed["run_dir"]).items()
        if len(set(chain.from_iterable(groups))) == 1
    ]
    assert killed["awaited"]["step"] + 1 in by_one  # all that the dead worker had was sampled by the other
    log = (killed["run_dir"] / "controller.log").read_text()
    assert f"{killed['worker']} was lost" in log
