"""Whole synchronous runs with nothing replaced: one to the end, one whose learner dies, one that imitates.

One engine a run takes some seconds to start, so claims share runs through module-scoped fixtures.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from rich.console import Console

from actors.tokens import encode_prompts, load_tokenizer
from cluster.commands.training import Start, train_stage
from cluster.fleet.ray_cluster import CONTROLLER_NAME
from cluster.run.asked import Asked
from cluster.run.recovery import Origin
from cluster.run_directory.record import RunRecord
from cluster.run_directory.run_file import RunFile
from cluster.terminal.console import View
from tests.shared.left_behind import checkpoint_at
from tests.shared.live_run import (
    GROUPS,
    SAMPLES,
    STEPS,
    assert_different_checkpoint,
    assert_same_checkpoint,
    scrape,
    staleness,
    trained_groups,
    trajectories,
    wait,
)
from verifiers.problems.loading import load_problems


@pytest.fixture(scope="module")
def whole(start, make_config, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    run_dir = tmp_path_factory.mktemp("whole")
    with start(make_config(), run_dir) as run:
        return run_dir, run.finish()


@pytest.fixture(scope="module")
def recovered(ray_cluster, make_config, tmp_path_factory) -> dict[str, Any]:
    """The same run, as `bonfire train` drives it; its learner is killed after the third step."""
    run_dir = tmp_path_factory.mktemp("recovered")
    config = make_config()
    seen: dict[str, Any] = {"run_dir": run_dir}

    def controller_facts() -> dict[str, Any]:
        with contextlib.suppress(ValueError, ray.exceptions.RayActorError):  # there is none between two
            return ray.get(ray.get_actor(CONTROLLER_NAME, namespace=run_dir.name).facts.remote(), timeout=60)
        return {"step": -1, "recoveries": -1}

    def kill_the_learner() -> None:
        before = wait(controller_facts, lambda facts: facts["step"] >= 3)
        os.kill(before["learner_ranks"][0]["pid"], signal.SIGKILL)
        seen["after"] = wait(controller_facts, lambda facts: facts["recoveries"] == 1 and facts["events"])
        seen["metrics"] = scrape(seen["after"])

    problems = load_problems(config.problems, "train")
    start = Start(
        problems=problems,
        test_problems=[],
        prompts=encode_prompts(load_tokenizer(config.model), problems),
        demonstrations=[],
        asked=Asked(),
        origin=Origin(),
    )
    shown = io.StringIO()
    view = View("a run", ["training"], Console(file=shown, width=1000))
    with ThreadPoolExecutor(1) as killer, RunFile(run_dir, local=True) as run_file, view:
        killing = killer.submit(kill_the_learner)
        seen["stage"] = train_stage(
            config, view, RunRecord(run_dir), start, run_file, ray_address="", received=[], go_on=""
        )
        killing.result()
    return {**seen, "shown": shown.getvalue()}


def test_a_synchronous_run_trains_every_group_once_in_order_and_fresh(whole):
    run_dir, facts = whole
    assert facts["stage"] == "finished" and facts["step"] == STEPS
    assert trained_groups(run_dir) == list(range(STEPS * GROUPS))
    assert staleness(run_dir) == [0] * STEPS * GROUPS
    assert facts["groups"] == {"leased": 0, "buffered": 0, "trained": STEPS * GROUPS, "pending": 0}
    assert facts["restarts"] == {"rollout": 0, "verifier": 0}


def test_the_log_of_a_good_run_says_how_it_went(whole):
    run_dir, facts = whole
    log = (run_dir / "controller.log").read_text()
    begun = f"training from step 0 on; metrics at port {facts['metrics_port']}\n"
    moments = [
        begun,
        f"step 1/{STEPS}: reward ",
        "checkpoint of step 1 written in ",
        f"finished at step {STEPS}/{STEPS}\n",
    ]
    assert sorted(moments, key=log.index) == moments


def test_training_changes_the_policy_and_engines_follow_it(whole):
    run_dir, facts = whole
    assert_different_checkpoint(checkpoint_at(run_dir, 1), checkpoint_at(run_dir, STEPS))
    assert [worker["version"] for worker in facts["rollout_workers"]] in ([], [STEPS])
    assert 0 < facts["parity_max"] < 1e-4  # float32 rounding; one version of drift is far above
    assert facts["ratio_mean"] == pytest.approx(1, abs=1e-4)


def test_parquet_rows_hold_whole_groups(whole, make_config):
    run_dir, _ = whole
    order = {problem.id for problem in load_problems(make_config().problems, "train")}
    for step, rows in trajectories(run_dir).items():
        assert len(rows) == GROUPS
        for row in rows:
            assert row["step"] == step and row["problem_id"] in order
            for column in ("token_ids", "logprobs", "versions", "texts", "scores", "rewards", "weights"):
                assert len(row[column]) == SAMPLES, column
            lengths = [len(ids) for ids in row["token_ids"]]
            assert lengths == [len(values) for values in row["logprobs"]]
            assert lengths == [len(values) for values in row["versions"]]
            assert set(row["statuses"]) == {"ok"} and row["scores"] == row["rewards"]
            verdicts = zip(row["texts"], row["rewards"], row["answers"], strict=True)
            for text, reward, answer in verdicts:  # each stands beside its own sample
                assert reward == sum(map(ord, text)) % 97 / 97 and answer == (text[:3] or None)
            assert row["demonstration_token_ids"] is None and row["demonstration_score"] is None
            assert np.isfinite(row["weights"]).all() and max(row["logprobs"][0]) <= 0
            # loo1 baselines: the weights of a group need not sum to zero, but they rank with the rewards
            assert np.argmax(row["weights"]) == np.argmax(row["rewards"])


def test_an_epoch_asks_every_problem_once(whole, make_config):
    run_dir, _ = whole
    asked = [row["problem_id"] for rows in trajectories(run_dir).values() for row in rows]
    every = sorted(problem.id for problem in load_problems(make_config().problems, "train"))
    for epoch in range(4):
        assert sorted(asked[10 * epoch : 10 * (epoch + 1)]) == every
    assert asked[:10] != asked[10:20]


@pytest.mark.slow
def test_a_run_that_loses_its_learner_goes_on_by_itself_and_says_so(recovered):
    assert recovered["stage"] == "finished"
    [line] = [line for line in recovered["shown"].splitlines() if "] ! " in line]
    assert re.search(
        r"! learner was lost while .*: ActorDiedError; recovery 1: goes on from checkpoint step-0000\d\d, "
        r"[01] steps are done again$",
        line,
    )
    event = line.split(" ! ")[1]
    assert event in (recovered["run_dir"] / "controller.log").read_text()
    assert any(event in noted for noted in recovered["after"]["events"])
    assert recovered["metrics"]["bonfire_cluster_recoveries_total"] == 1


@pytest.mark.slow
def test_a_run_that_lost_its_learner_equals_one_that_did_not(whole, recovered):
    run_dir, _ = whole
    for step in (1, STEPS):  # of its first life and of its second
        assert_same_checkpoint(checkpoint_at(run_dir, step), checkpoint_at(recovered["run_dir"], step))
    ours, theirs = trajectories(run_dir), trajectories(recovered["run_dir"])
    for rows, others in zip(ours.values(), theirs.values(), strict=True):
        for row, other in zip(rows, others, strict=True):
            for column in ("group", "problem_id", "seed", "token_ids", "logprobs", "versions", "weights"):
                assert row[column] == other[column], column


@pytest.mark.slow
def test_a_run_of_two_learner_ranks_is_resumed_by_one(start, make_config, whole, tmp_path):
    with start(make_config(learner={"ranks": 2}, train={"steps": 3}), tmp_path) as run:
        facts = run.finish()
    assert facts["stage"] == "finished" and facts["parity_max"] < 1e-4
    ours, theirs = (
        json.loads((path / "metrics.jsonl").read_text().splitlines()[0]) for path in (tmp_path, whole[0])
    )
    for name in ("loss", "grad_norm", "trained_tokens", "parity_tokens"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    with start(make_config(train={"steps": 5}), tmp_path, checkpoint=checkpoint_at(tmp_path, 3)) as run:
        assert run.finish()["step"] == 5
    assert trained_groups(tmp_path) == list(range(5 * GROUPS))
    assert staleness(tmp_path) == [0] * 5 * GROUPS


@pytest.mark.slow
def test_a_run_that_imitates_trains_on_demonstrations_judged_as_its_samples_are(start, make_config, tmp_path):
    config = make_config(
        verifier={"reward": "countdown"},
        rollout={"max_tokens": 16},
        objective={"name": "bon_sft", "num_select": 4},
        train={"steps": 3},
    )
    with start(config, tmp_path) as run:
        facts = run.finish()
    assert facts["stage"] == "finished" and facts["step"] == 3
    problems = {problem.id: problem for problem in load_problems(config.problems, "train")}
    tokenizer = load_tokenizer(config.model)
    rows = [row for rows in trajectories(tmp_path).values() for row in rows]
    assert len(rows) == 3 * GROUPS
    for row in rows:
        *words, stop = tokenizer.convert_ids_to_tokens(row["demonstration_token_ids"])
        assert (" ".join(words), stop) == (problems[row["problem_id"]].demonstration, "<eos>")
        assert row["demonstration_score"] == 1.0
        assert len(row["scores"]) == len(row["answers"]) == SAMPLES
    assert_different_checkpoint(checkpoint_at(tmp_path, 1), checkpoint_at(tmp_path, 3))
