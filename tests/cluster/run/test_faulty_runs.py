"""A whole asynchronous run with nothing replaced, whose workers are killed and stopped; then resumed.

One engine a run takes some seconds to start, so claims share the run through module-scoped fixtures.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import Any

import pytest

from tests.shared.left_behind import checkpoint_at
from tests.shared.live_run import (
    both_sample,
    scrape,
    serving,
    silent_ones,
    staleness,
    trained_groups,
    trajectories,
)

HEARTBEAT_S, SUSPECT_S = 9.0, 1.0
GROUPS, SAMPLES = 3, 16
"""Of a step, and of a group: so that two engines share one group of three."""


@pytest.fixture(scope="module")
def faulty(start, make_config, tmp_path_factory) -> dict[str, Any]:
    """What was seen during a run whose workers were killed and stopped, one after the other."""
    run_dir = tmp_path_factory.mktemp("faulty")
    config = make_config(
        verifier={"workers": 2, "heartbeat_timeout_s": HEARTBEAT_S},
        rollout={
            "workers": 2,
            "samples_per_prompt": SAMPLES,
            "heartbeat_timeout_s": HEARTBEAT_S,
            "suspect_after_s": SUSPECT_S,
        },
        train={
            "steps": 100_000,
            "groups_per_step": GROUPS,
            "max_staleness": 1,
            "checkpoint_every": 20,
            "keep_checkpoints": 2,
        },
    )
    seen: dict[str, Any] = {"run_dir": run_dir}
    with start(config, run_dir) as run:
        seen["before"] = run.wait_for(lambda facts: facts["step"] >= 10 and both_sample(facts))
        seen["metrics"] = scrape(seen["before"])
        seen["after"] = run.facts()

        silent = seen["silent"] = serving(seen["before"])[1]
        os.kill(silent["pid"], signal.SIGSTOP)
        facts = run.wait_for(lambda facts: silent["name"] in silent_ones(facts))
        log = run_dir / "controller.log"
        seen["while_silent"] = (
            run.wait_for(  # five steps may take less than the second after which a stand-in is asked for
                lambda now: (
                    now["step"] >= facts["step"] + 5 and "another rollout worker starts" in log.read_text()
                )
            )
        )
        seen["metrics_while_silent"] = scrape(seen["while_silent"])
        os.kill(silent["pid"], signal.SIGCONT)
        seen["before_deaths"] = run.wait_for(both_sample)

        killed = seen["killed"] = serving(seen["before_deaths"])[0]
        os.kill(killed["pid"], signal.SIGKILL)
        verifier = seen["killed_verifier"] = seen["before"]["verifier_workers"][0]
        os.kill(verifier["pid"], signal.SIGKILL)
        seen["during"] = run.wait_for(lambda facts: sum(facts["restarts"].values()) == 2)
        run.wait_for(lambda facts: facts["step"] >= seen["during"]["step"] + 5)  # one engine is enough
        seen["last"] = run.wait_for(both_sample)
        seen["last_metrics"] = scrape(seen["last"])
        run.wait_for(lambda facts: facts["step"] >= seen["last"]["step"] + 5)
        run.stop()
        seen["end"] = run.finish()
    seen["copy"] = run_dir.with_name("faulty-copy")  # the run directory itself is resumed below
    shutil.copytree(run_dir, seen["copy"])
    return seen


@pytest.fixture(scope="module")
def faulty_resumed(start, make_config, faulty) -> dict[str, Any]:
    """The faulty run's remainder; its only worker hangs when the checkpoint it came from is gone."""
    run_dir, step = faulty["run_dir"], faulty["end"]["step"]
    config = make_config(
        rollout={
            "samples_per_prompt": SAMPLES,
            "heartbeat_timeout_s": HEARTBEAT_S,
            "suspect_after_s": SUSPECT_S,
        },
        train={
            "steps": step + 40,
            "groups_per_step": GROUPS,
            "max_staleness": 1,
            "checkpoint_every": 2,
            "keep_checkpoints": 1,
        },
    )
    checkpoint = checkpoint_at(run_dir, step)
    with start(config, run_dir, checkpoint=checkpoint) as run:
        facts = run.wait_for(lambda facts: facts["step"] >= step + 4 and not checkpoint.exists())
        hung = serving(facts)[0]
        os.kill(hung["pid"], signal.SIGSTOP)
        stopped_at = time.monotonic()
        run.wait_for(lambda facts: facts["restarts"]["rollout"] == 1)
        found_after_s = time.monotonic() - stopped_at
        return {"hung": hung, "found_after_s": found_after_s, "end": run.finish()}


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


def test_stop_finishes_the_step_and_writes_a_checkpoint(faulty):
    assert faulty["end"]["stage"] == "stopped"
    step = faulty["end"]["step"]
    assert faulty["last"]["step"] < step == max(trajectories(faulty["copy"]))
    assert checkpoint_at(faulty["copy"], step).is_dir()


def test_no_group_is_trained_twice_whatever_dies(faulty):
    trained = trained_groups(faulty["copy"])
    assert len(trained) == len(set(trained)) == faulty["end"]["step"] * GROUPS


def test_groups_that_engines_share_are_whole_also_around_silence_and_death(faulty):
    rows = [row for rows in trajectories(faulty["copy"]).values() for row in rows]
    shared = [row for row in rows if len(set(row["workers"])) > 1]
    assert {faulty["silent"]["name"], faulty["killed"]["name"]} <= {
        name for row in shared for name in row["workers"]
    }
    for row in rows:
        assert {len(row[column]) for column in ("workers", "texts", "token_ids", "rewards")} == {SAMPLES}
        for text, reward in zip(row["texts"], row["rewards"], strict=True):
            assert reward == sum(map(ord, text)) % 97 / 97


@pytest.mark.slow
def test_a_stopped_worker_is_found_within_its_heartbeat(faulty, faulty_resumed):
    assert HEARTBEAT_S - 1.5 < faulty_resumed["found_after_s"] < HEARTBEAT_S + 2.5
    log = (faulty["run_dir"] / "controller.log").read_text()
    assert f"{faulty_resumed['hung']['name']} did not answer within {HEARTBEAT_S:g} s" in log


@pytest.mark.slow
def test_a_run_with_deaths_stopped_and_resumed_trains_every_group_exactly_once(faulty, faulty_resumed):
    last = faulty["end"]["step"] + 40
    assert faulty_resumed["end"]["step"] == last and faulty_resumed["end"]["restarts"]["rollout"] == 1
    assert sorted(trained_groups(faulty["run_dir"])) == list(range(last * GROUPS))
    assert max(staleness(faulty["run_dir"])) == 1


def test_the_metrics_endpoint_agrees_with_the_facts(faulty):
    before, metrics, after = faulty["before"], faulty["metrics"], faulty["after"]

    def between(low: float, name: str, high: float) -> None:
        assert low <= metrics[name] <= high, name

    # Status has a step as soon as it is made, the endpoint once the version before has come to all engines.
    between(before["step"] - 1, "bonfire_learner_version", after["step"])
    between(before["step"] - 1, "bonfire_learner_steps_total", after["step"])
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
    assert last["bonfire_cluster_restarts_total{rollout}"] == 1
    assert last["bonfire_cluster_restarts_total{verifier}"] == 1
    shown = {worker["name"] for worker in faulty["last"]["rollout_workers"]}
    series = {
        name.split("{")[1].rstrip("}") for name in last if name.startswith("bonfire_rollout_busy_seconds{")
    }
    assert series == shown  # a dead worker's series are dropped
