"""The whole loop with nothing replaced: Ray actors, vLLM engines, verifier processes, the learner.

One engine a run takes some seconds to start, so claims share runs through module-scoped fixtures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from rich.console import Console

from actors.tokens import encode_prompts, load_tokenizer
from cluster.commands.training import Start, train_stage
from cluster.config.schema import RunConfig
from cluster.fleet.broadcast import Published
from cluster.fleet.calls import Halt
from cluster.fleet.learning import LearnerHandle
from cluster.run.controller import Controller
from cluster.run.launch import CONTROLLER_NAME
from cluster.run.preflight import Prepared
from cluster.run.recovery import Origin
from cluster.run_directory.record import RunRecord
from cluster.run_directory.run_file import RunFile
from cluster.terminal.console import View
from tests.shared.left_behind import checkpoint_at
from tests.shared.live_run import (
    GROUPS,
    HEARTBEAT_S,
    SAMPLES,
    STEPS,
    SUSPECT_S,
    assert_different_checkpoint,
    assert_same_checkpoint,
    both_sample,
    scrape,
    serving,
    silent_ones,
    staleness,
    trained_groups,
    trajectories,
    wait,
)
from verifiers.problems.loading import load_problems

# --- synchronous: one run to the end; one whose learner dies ---


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
        problems=Prepared(train_problems=problems, test_problems=[]),
        prompts=encode_prompts(load_tokenizer(config.model), problems),
        demonstrations=[],
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


def test_a_run_that_lost_its_learner_equals_one_that_did_not(whole, recovered):
    run_dir, _ = whole
    for step in (1, STEPS):  # of its first life and of its second
        assert_same_checkpoint(checkpoint_at(run_dir, step), checkpoint_at(recovered["run_dir"], step))
    ours, theirs = trajectories(run_dir), trajectories(recovered["run_dir"])
    for rows, others in zip(ours.values(), theirs.values(), strict=True):
        for row, other in zip(rows, others, strict=True):
            for column in ("group", "problem_id", "seed", "token_ids", "logprobs", "versions", "weights"):
                assert row[column] == other[column], column


# --- imitation: each group brings an expert's completion ---


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


# --- asynchronous, with workers that die and hang; then resumed ---


@pytest.fixture(scope="module")
def faulty(start, make_config, tmp_path_factory) -> dict[str, Any]:
    """What was seen during a run whose workers were killed and stopped, one after the other."""
    run_dir = tmp_path_factory.mktemp("faulty")
    config = make_config(
        verifier={"workers": 2, "heartbeat_timeout_s": HEARTBEAT_S},
        rollout={"workers": 2, "heartbeat_timeout_s": HEARTBEAT_S, "suspect_after_s": SUSPECT_S},
        train={"steps": 100_000, "max_staleness": 1, "checkpoint_every": 20, "keep_checkpoints": 2},
    )
    seen: dict[str, Any] = {"run_dir": run_dir}
    with start(config, run_dir) as run:
        seen["before"] = run.wait_for(lambda facts: facts["step"] >= 10 and both_sample(facts))
        seen["metrics"] = scrape(seen["before"])
        seen["after"] = run.facts()

        silent = seen["silent"] = serving(seen["before"])[1]
        os.kill(silent["pid"], signal.SIGSTOP)
        facts = run.wait_for(lambda facts: silent["name"] in silent_ones(facts))
        seen["while_silent"] = run.wait_for(lambda now: now["step"] >= facts["step"] + 5)
        seen["metrics_while_silent"] = scrape(seen["while_silent"])
        os.kill(silent["pid"], signal.SIGCONT)
        seen["before_deaths"] = run.wait_for(both_sample)

        killed = seen["killed"] = serving(seen["before_deaths"])[0]
        os.kill(killed["pid"], signal.SIGKILL)
        verifier = seen["killed_verifier"] = seen["before"]["verifier_workers"][0]
        os.kill(verifier["pid"], signal.SIGKILL)
        seen["during"] = run.wait_for(lambda facts: sum(facts["restarts"].values()) == 2)
        run.wait_for(lambda facts: facts["step"] >= seen["during"]["step"] + 5)  # one engine is enough

        hung = seen["hung"] = serving(run.facts())[0]  # the only one left
        os.kill(hung["pid"], signal.SIGSTOP)
        stopped_at = time.monotonic()
        run.wait_for(lambda facts: facts["restarts"]["rollout"] == 2)
        seen["found_after_s"] = time.monotonic() - stopped_at
        seen["last"] = run.wait_for(both_sample)
        run.wait_for(lambda facts: facts["step"] >= seen["last"]["step"] + 5)
        seen["last_metrics"] = scrape(seen["last"])
        run.stop()
        seen["end"] = run.finish()
    seen["copy"] = run_dir.with_name("faulty-copy")  # the run directory itself is resumed below
    shutil.copytree(run_dir, seen["copy"])
    return seen


@pytest.fixture(scope="module")
def faulty_resumed(start, make_config, faulty) -> dict[str, Any]:
    """The faulty run's remainder; its worker dies when the checkpoint it came from is gone."""
    run_dir, step = faulty["run_dir"], faulty["end"]["step"]
    config = make_config(
        train={"steps": step + 40, "max_staleness": 1, "checkpoint_every": 2, "keep_checkpoints": 1},
    )
    checkpoint = checkpoint_at(run_dir, step)
    with start(config, run_dir, checkpoint=checkpoint) as run:
        facts = run.wait_for(lambda facts: facts["step"] >= step + 4 and not checkpoint.exists())
        os.kill(serving(facts)[0]["pid"], signal.SIGKILL)
        return run.finish()


def test_staleness_is_bounded_and_occurs(faulty):
    values = staleness(faulty["copy"])
    assert set(values) == {0, 1} or set(values) == {1}
    for step, rows in trajectories(faulty["copy"]).items():
        newest = max(version for row in rows for sample in row["versions"] for version in sample)
        assert newest <= step - 1


def test_killed_workers_are_named_counted_and_replaced(faulty):
    assert faulty["during"]["restarts"] == {"rollout": 1, "verifier": 1}
    log = (faulty["run_dir"] / "controller.log").read_text()
    for worker in (faulty["killed"], faulty["killed_verifier"]):
        assert f"{worker['name']} was lost" in log
        assert any(worker["name"] in event for event in faulty["during"]["events"])
    names = {worker["name"] for worker in faulty["last"]["rollout_workers"]}
    assert faulty["killed"]["name"] not in names and len(names) == 2


def test_the_learner_does_not_wait_for_a_silent_worker_while_another_lives(faulty):
    facts, log = faulty["while_silent"], (faulty["run_dir"] / "controller.log").read_text()
    assert silent_ones(facts) == [faulty["silent"]["name"]] and facts["restarts"]["rollout"] == 0
    assert faulty["metrics_while_silent"]["bonfire_cluster_silent_workers{rollout}"] == 1
    name = faulty["silent"]["name"]
    assert f"{name} has not answered for {1 + SUSPECT_S:g} s: others may take its groups" in log
    assert f"another rollout worker starts, while {name} does not answer" in log
    assert f"{name} answers again" in log


def test_a_stopped_worker_is_found_within_its_heartbeat(faulty):
    assert HEARTBEAT_S - 1.5 < faulty["found_after_s"] < HEARTBEAT_S + 2.5
    log = (faulty["run_dir"] / "controller.log").read_text()
    assert f"{faulty['hung']['name']} did not answer within {HEARTBEAT_S:g} s" in log
    assert faulty["last"]["restarts"] == {"rollout": 2, "verifier": 1}


def test_stop_finishes_the_step_and_writes_a_checkpoint(faulty):
    assert faulty["end"]["stage"] == "stopped"
    step = faulty["end"]["step"]
    assert faulty["last"]["step"] < step == max(trajectories(faulty["copy"]))
    assert checkpoint_at(faulty["copy"], step).is_dir()


def test_no_group_is_trained_twice_whatever_dies(faulty):
    trained = trained_groups(faulty["copy"])
    assert len(trained) == len(set(trained)) == faulty["end"]["step"] * GROUPS


def test_a_run_with_deaths_stopped_and_resumed_trains_every_group_exactly_once(faulty, faulty_resumed):
    last = faulty["end"]["step"] + 40
    assert faulty_resumed["step"] == last and faulty_resumed["restarts"]["rollout"] == 1
    assert sorted(trained_groups(faulty["run_dir"])) == list(range(last * GROUPS))
    assert max(staleness(faulty["run_dir"])) == 1


def test_the_metrics_endpoint_agrees_with_the_facts(faulty):
    before, metrics, after = faulty["before"], faulty["metrics"], faulty["after"]

    def between(low: float, name: str, high: float) -> None:
        assert low <= metrics[name] <= high, name

    between(before["step"], "bonfire_learner_version", after["step"])
    between(before["step"], "bonfire_learner_steps_total", after["step"])
    between(before["step"] - 1, "bonfire_learner_step_seconds_count", after["step"])
    between(
        before["groups"]["trained"], "bonfire_ledger_groups{trained}", after["groups"]["trained"] + GROUPS
    )
    between(
        before["groups"]["trained"] * SAMPLES,
        "bonfire_rollout_sequences_total",
        (after["groups"]["trained"] + 5 * GROUPS) * SAMPLES,
    )
    assert (
        metrics["bonfire_rollout_sequences_total"]
        < metrics["bonfire_rollout_tokens_total"]
        <= 8 * metrics["bonfire_rollout_sequences_total"]
    )
    assert metrics["bonfire_verifier_verdicts_total{ok}"] >= before["groups"]["trained"] * SAMPLES
    assert metrics["bonfire_verifier_verdicts_total{crashed}"] == 0
    mean_latency_s = (
        metrics["bonfire_verifier_latency_seconds_sum"] / metrics["bonfire_verifier_latency_seconds_count"]
    )
    assert 0.003 <= mean_latency_s < 0.1
    assert (
        metrics["bonfire_cluster_workers{rollout}"] == 2 and metrics["bonfire_cluster_workers{verifier}"] == 2
    )
    assert metrics["bonfire_cluster_restarts_total{rollout}"] == 0
    for worker in before["rollout_workers"]:
        between(before["step"] - 3, f"bonfire_rollout_version{{{worker['name']}}}", after["step"])
        assert 1e8 < metrics[f"bonfire_rollout_resident_bytes{{{worker['name']}}}"] < 8e9
        assert metrics[f"bonfire_rollout_busy_seconds{{{worker['name']}}}"] > 0
    assert 0 < metrics["bonfire_batch_reward_mean"] < metrics["bonfire_batch_best_of_n_reward"] < 1
    assert metrics["bonfire_learner_logprob_difference_max_nats"] < 1e-4

    last = faulty["last_metrics"]
    assert last["bonfire_cluster_restarts_total{rollout}"] == 2
    assert last["bonfire_cluster_restarts_total{verifier}"] == 1
    shown = {worker["name"] for worker in faulty["last"]["rollout_workers"]}
    series = {
        name.split("{")[1].rstrip("}") for name in last if name.startswith("bonfire_rollout_busy_seconds{")
    }
    assert series == shown  # a dead worker's series are dropped


# --- alarms: what makes a run stop ---

ControllerClass = Controller.__ray_metadata__.modified_class


class DeceivedAboutTemperature(ControllerClass):
    """Its learner believes that samples were drawn at another temperature than they were."""

    def __init__(self, config: RunConfig, *arguments: Any) -> None:
        super().__init__(config, *arguments)
        rollout = config.rollout.model_copy(update={"temperature": 0.7})
        self._learner = LearnerHandle(config.model_copy(update={"rollout": rollout}))


class DamagesWeights(ControllerClass):
    """From version 3 on, one byte of the weights changes between learner and engines."""

    async def _sync(self, published: Published, stepped_at_s: float) -> None:
        if published.version >= 3:
            damaged = (await published.buckets[0]).copy()
            damaged[1000] ^= 1
            published = dataclasses.replace(published, buckets=[ray.put(damaged), *published.buckets[1:]])
        await super()._sync(published, stepped_at_s)


@pytest.mark.slow
def test_samples_from_another_distribution_stop_the_run(start, make_config, tmp_path):
    with (
        start(make_config(), tmp_path, controller=ray.remote(DeceivedAboutTemperature)) as run,
        pytest.raises(Halt, match=r"^rollout-0 samples from another distribution .* differ by [0-9.]+"),
    ):
        run.finish()
    assert trained_groups(tmp_path) == []


@pytest.mark.slow
def test_an_engine_with_other_weights_than_the_learner_stops_the_run(start, make_config, tmp_path):
    config = make_config(train={"max_staleness": 1, "steps": 1000})
    with (
        start(config, tmp_path, controller=ray.remote(DamagesWeights)) as run,
        pytest.raises(Halt, match=r"^rollout-0 serves other weights than the learner's version 3"),
    ):
        run.finish()


@pytest.mark.slow
def test_a_verifier_that_always_fails_stops_the_run_with_its_message(start, make_config, tmp_path):
    config = make_config(
        verifier={"reward": "loop_verifiers:broken"}, train={"max_consecutive_failures": 3, "steps": 1000}
    )
    with start(config, tmp_path) as run:
        message = r"3 failures in a row .*loop_verifiers:broken.*KeyError: 'no such column'"
        with pytest.raises(Halt, match=message):
            run.finish()
        with pytest.raises(ValueError, match="the run is ending: it takes no more workers"):
            run.scale(rollout=2)
    assert trained_groups(tmp_path) == []


def test_a_verifier_that_cannot_start_stops_the_run_with_its_message(start, make_config, tmp_path):
    config = make_config(
        verifier={"reward": "no_such_module:judge"}, train={"max_consecutive_failures": 2, "steps": 1000}
    )
    with (
        start(config, tmp_path) as run,
        pytest.raises(Halt, match=r"no verifier worker starts: verifier-2 .*cannot import 'no_such_module'"),
    ):
        run.finish()
