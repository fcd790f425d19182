"""What the endpoint shows is what happened, under names that say role, quantity and unit."""

from __future__ import annotations

import math
import re
import shutil
import socket
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.engine import EngineLoad
from actors.types import Judgement
from actors.worker import RolloutFacts
from cluster.config.schema import MetricsConfig
from cluster.fleet.scaling import Decision
from cluster.run.metrics import BATCH_GAUGES, LEARNER_GAUGES, Metrics
from cluster.run.progress import Progress
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.objectives.config import ObjectiveConfig
from tests.shared.tiny_model import make_group, model_path

ANY_PORT = MetricsConfig(port=0)
ROLES = {
    "engine",
    "rollout",
    "verifier",
    "learner",
    "cluster",
    "ledger",
    "batch",
    "weights",
    "workers",
    "scaling",
    "held",
}
UNITS = {
    "seconds", "bytes", "nats", "ratio",
    "groups", "sequences", "tokens", "verdicts", "steps", "versions", "version", "workers", "restarts", "decisions",
    "recoveries", "problems",
}  # fmt: skip
WITHOUT_UNIT = {
    "bonfire_learner_loss",
    "bonfire_learner_gradient_norm",
    "bonfire_learner_learning_rate",
    "bonfire_learner_importance_ratio_mean",
    "bonfire_batch_reward_mean",
    "bonfire_batch_score_mean",
    "bonfire_batch_best_of_n_reward",
    "bonfire_batch_majority_at_n_reward",
    "bonfire_batch_num_select",
    "bonfire_engine_fill",
    "bonfire_held_out_estimate",
    "bonfire_held_out_difference",
    "bonfire_workers_target",
    "bonfire_rollout_tokens_per_second",  # a rate; seconds is its denominator
}


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def scrape(metrics):
    """The endpoint's answer as {name{label="value"}: value}."""
    server = metrics.serve(ANY_PORT)
    port = server.server_port

    def get():
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        return {
            sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    yield get
    server.shutdown()
    server.server_close()


def step_facts(**changes):
    facts = {fact: 0.0 for fact in (*LEARNER_GAUGES, *BATCH_GAUGES)}
    timings = {
        "version": 3,
        "clipped": 0.0,
        "trained_tokens": 100,
        "ahead_s": 0.0,
        "learn_s": 0.3,
        "wait_s": 0.02,
        "tokens_per_s": 5000.0,
    }
    return {**facts, **timings, **changes}


LOAD = {
    "num_running": 12,
    "num_waiting": 3,
    "kv_usage": 0.5,
    "prefix_queried_tokens": 100,
    "prefix_hit_tokens": 75,
}


def rollout_facts(**changes):
    fields = {
        "version": 2,
        "groups_in_flight": 1,
        "num_leased": 3,
        "num_unfinished": 4,
        "capacity": 16.0,
        "num_sequences": 8,
        "num_tokens": 70,
        "num_reprefilled_tokens": 0,
    }
    times = {
        "busy_s": 5.0,
        "idle_s": 1.0,
        "updating_s": 0.5,
        "running_s": 40.0,
        "fill": 0.25,
        "resident_bytes": 10**9,
    }
    load = {name: changes.pop(name) for name in LOAD if name in changes}
    return RolloutFacts(**{**fields, **times, **changes}, load=EngineLoad(**{**LOAD, **load}))


# The endpoint


def test_the_endpoint_answers_on_the_loopback_address_only(metrics):
    server = metrics.serve(ANY_PORT)
    port = server.server_port
    try:
        assert server.server_address == ("127.0.0.1", port) and port > 0
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert b"bonfire_learner_version 0.0" in answer.read()
    finally:
        server.shutdown()
        server.server_close()


def test_a_port_in_use_is_one_line_that_names_it_and_the_remedy(metrics):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError) as error:
            metrics.serve(MetricsConfig(port=port))
    assert str(error.value) == (
        f"metrics.port = {port} on 127.0.0.1 cannot be used (Address already in use): "
        "choose another, or metrics.port=0 for any free one"
    )


def test_two_runs_on_one_machine_have_series_of_their_own(metrics):
    other = Metrics()
    metrics.observe_samples(8, 70)
    assert metrics.registry.get_sample_value("bonfire_rollout_tokens_total") == 70
    assert other.registry.get_sample_value("bonfire_rollout_tokens_total") == 0


def test_the_disk_of_the_run_is_watched(tmp_path):
    free = Metrics(tmp_path).registry.get_sample_value("bonfire_cluster_disk_free_bytes")
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert math.isnan(Metrics(tmp_path / "gone").registry.get_sample_value("bonfire_cluster_disk_free_bytes"))


# Values


def test_every_fact_of_a_step_is_shown_under_its_name(metrics, scrape):
    facts = {fact: 1.5 + place for place, fact in enumerate((*LEARNER_GAUGES, *BATCH_GAUGES))}
    metrics.observe_step(step_facts(**facts))
    shown = scrape()
    for role, gauges in (("learner", LEARNER_GAUGES), ("batch", BATCH_GAUGES)):
        for fact, (name, _) in gauges.items():
            assert shown[f"bonfire_{role}_{name}"] == facts[fact]
    assert shown["bonfire_learner_version"] == 3
    assert shown["bonfire_rollout_tokens_per_second"] == 5000


def test_gauges_show_the_newest_step_and_counters_all_of_them(metrics, scrape):
    metrics.observe_step(
        step_facts(version=3, loss=0.5, trained_tokens=100, learn_s=0.3, wait_s=0.02, clipped=1.0)
    )
    metrics.observe_step(
        step_facts(version=4, loss=-0.25, trained_tokens=40, ahead_s=0.02, learn_s=0.04, wait_s=7.0)
    )
    metrics.observe_sync(0.2)
    shown = scrape()
    assert shown["bonfire_learner_loss"] == -0.25
    assert shown["bonfire_learner_version"] == 4
    assert shown["bonfire_learner_steps_total"] == 2
    assert shown["bonfire_learner_clipped_steps_total"] == 1
    assert shown["bonfire_learner_trained_tokens_total"] == 140
    assert shown["bonfire_learner_step_seconds_count"] == 2
    assert shown["bonfire_learner_step_seconds_sum"] == pytest.approx(0.36)
    assert shown["bonfire_learner_step_seconds_bucket[0.05]"] == 0
    assert shown["bonfire_learner_step_seconds_bucket[0.1]"] == 1
    assert shown["bonfire_learner_step_seconds_bucket[0.5]"] == 2
    assert shown["bonfire_learner_wait_seconds_sum"] == pytest.approx(7.02)
    assert shown["bonfire_weights_sync_seconds_count"] == 1
    assert shown["bonfire_weights_sync_seconds_sum"] == pytest.approx(0.2)


def test_verdicts_are_counted_by_status_and_every_status_is_there_from_the_start(metrics, scrape):
    start = scrape()
    for status in ("ok", "wrong_format", "timeout", "crashed", "refused"):
        assert start[f"bonfire_verifier_verdicts_total[{status}]"] == 0
    metrics.observe_verdicts(judged(("ok", "ok", "timeout", "wrong_format")), 3.0)
    metrics.observe_verdicts(judged(("ok", "refused", "ok", "ok")), 4.0)
    shown = scrape()
    assert shown["bonfire_verifier_verdicts_total[ok]"] == 5
    assert shown["bonfire_verifier_verdicts_total[timeout]"] == 1
    assert shown["bonfire_verifier_verdicts_total[crashed]"] == 0
    assert shown["bonfire_cluster_group_seconds_sum"] == pytest.approx(7.0)
    assert shown["bonfire_verifier_latency_seconds_count"] == 8
    assert shown["bonfire_verifier_latency_seconds_sum"] == pytest.approx(8 * 0.002, rel=1e-6)


def test_samples_losses_and_discards_are_counted(metrics, scrape):
    metrics.observe_samples(8, 70)
    metrics.observe_samples(8, 30)
    metrics.observe_lost("rollout")
    metrics.observe_discarded("late")
    metrics.observe_discarded("stale", 3)
    shown = scrape()
    assert shown["bonfire_rollout_sequences_total"] == 16
    assert shown["bonfire_rollout_tokens_total"] == 100
    assert shown["bonfire_cluster_restarts_total[rollout]"] == 1
    assert shown["bonfire_cluster_restarts_total[verifier]"] == 0
    assert shown["bonfire_cluster_discarded_groups_total[late]"] == 1
    assert shown["bonfire_cluster_discarded_groups_total[stale]"] == 3


def test_depths_are_those_of_the_last_look(metrics, scrape):
    metrics.set_depths({"leased": 5, "buffered": 1}, 9, {"rollout": 2, "verifier": 1})
    metrics.set_depths({"leased": 4, "buffered": 2}, 0, {"rollout": 1, "verifier": 1})
    shown = scrape()
    assert shown["bonfire_ledger_groups[leased]"] == 4
    assert shown["bonfire_ledger_groups[buffered]"] == 2
    assert shown["bonfire_verifier_queue_groups"] == 0
    assert shown["bonfire_cluster_workers[rollout]"] == 1


def test_a_dead_workers_series_vanish_and_the_livings_stay(metrics, scrape):
    metrics.set_rollouts([("rollout-0", rollout_facts()), ("rollout-1", rollout_facts(busy_s=7.0))])
    shown = scrape()
    assert shown["bonfire_rollout_busy_seconds[rollout-0]"] == 5
    assert shown["bonfire_rollout_busy_seconds[rollout-1]"] == 7
    assert shown["bonfire_rollout_idle_seconds[rollout-0]"] == 1
    assert shown["bonfire_engine_fill[rollout-0]"] == 0.25
    assert shown["bonfire_engine_running_sequences[rollout-0]"] == 12
    assert shown["bonfire_engine_waiting_sequences[rollout-0]"] == 3
    assert shown["bonfire_engine_kv_usage_ratio[rollout-0]"] == 0.5
    assert shown["bonfire_rollout_version[rollout-0]"] == 2
    assert shown["bonfire_rollout_resident_bytes[rollout-0]"] == 10**9
    metrics.set_rollouts([("rollout-1", rollout_facts(busy_s=8.0)), ("rollout-2", rollout_facts(version=3))])
    shown = scrape()
    assert not [name for name in shown if "rollout-0" in name]
    assert shown["bonfire_rollout_busy_seconds[rollout-1]"] == 8
    assert shown["bonfire_rollout_version[rollout-2]"] == 3
    metrics.set_rollouts([])
    assert not [name for name in scrape() if "rollout-" in name]


def test_tokens_computed_again_are_those_of_all_workers_also_of_the_dead(metrics, scrape):
    name = "bonfire_rollout_reprefilled_tokens_total"
    metrics.set_rollouts(
        [("rollout-0", rollout_facts(num_reprefilled_tokens=5)), ("rollout-1", rollout_facts())]
    )
    assert scrape()[name] == 5
    metrics.set_rollouts(
        [("rollout-0", rollout_facts(num_reprefilled_tokens=9)), ("rollout-1", rollout_facts())]
    )
    assert scrape()[name] == 9
    metrics.set_rollouts([("rollout-1", rollout_facts(num_reprefilled_tokens=3))])
    metrics.set_rollouts([("rollout-2", rollout_facts(num_reprefilled_tokens=1))])
    assert scrape()[name] == 13
    metrics.set_rollouts(
        [("rollout-0", rollout_facts(num_reprefilled_tokens=11))]
    )  # it was only not heard of
    assert scrape()[name] == 15


def test_lookups_in_prefix_caches_are_those_of_all_workers(metrics, scrape):
    metrics.set_rollouts([("rollout-0", rollout_facts()), ("rollout-1", rollout_facts())])
    metrics.set_rollouts([("rollout-1", rollout_facts(prefix_queried_tokens=300, prefix_hit_tokens=80))])
    shown = scrape()
    assert shown["bonfire_engine_prefix_queried_tokens_total"] == 400
    assert shown["bonfire_engine_prefix_hit_tokens_total"] == 155


def test_the_newest_evaluation_is_shown_with_its_interval_and_the_difference_from_the_base(metrics, scrape):
    def row(step, mean):
        estimates = {
            name: {"mean": mean, "low": mean - 0.1, "high": mean + 0.1} for name in ("pass@16", "reward")
        }
        return {
            "step": step,
            "seconds": 3.0,
            "estimates": estimates,
            "differences": {"pass@16": estimates["reward"]},
        }

    metrics.observe_held_out(row(25, 0.3))
    metrics.observe_held_out(row(50, 0.5))
    metrics.observe_held_out_samples(16, 100)
    metrics.set_best(50)
    seen = scrape()
    assert (
        seen["bonfire_held_out_estimate[mean][16][pass]"]
        == seen["bonfire_held_out_estimate[mean][1][reward]"]
        == 0.5
    )
    assert seen["bonfire_held_out_estimate[low][16][pass]"] == 0.4
    assert seen["bonfire_held_out_difference[high][16][pass]"] == 0.6
    assert (seen["bonfire_held_out_version"], seen["bonfire_held_out_best_version"]) == (50, 50)
    assert (seen["bonfire_held_out_sequences_total"], seen["bonfire_held_out_tokens_total"]) == (16, 100)


def test_targets_and_the_decisions_that_made_them_are_shown(metrics, scrape):
    metrics.set_targets({"rollout": 3, "verifier": 1})
    for role, before, after, reason in (
        ("rollout", 1, 2, "starved"),
        ("rollout", 2, 3, "starved"),
        ("verifier", 2, 1, "idle"),
    ):
        metrics.observe_decision(Decision(role=role, before=before, after=after, reason=reason, text=""))
    shown = scrape()
    assert shown["bonfire_workers_target[rollout]"] == 3
    assert shown["bonfire_scaling_decisions_total[up][starved][rollout]"] == 2
    assert shown["bonfire_scaling_decisions_total[down][idle][verifier]"] == 1


def test_what_a_living_workers_start_was_spent_on_is_shown_until_it_is_gone(metrics, scrape):
    metrics.set_startups([("rollout-0", {"placed": 1.5}), ("verifier-0", {"placed": 0.5, "verifiers": 0.25})])
    metrics.set_startups([("rollout-0", {"placed": 1.5, "engine": 6.0})])
    shown = scrape()
    assert shown["bonfire_cluster_startup_seconds[placed][rollout-0]"] == 1.5
    assert shown["bonfire_cluster_startup_seconds[engine][rollout-0]"] == 6.0
    assert not [name for name in shown if "verifier-0" in name]


def test_a_scrape_between_two_updates_never_misses_a_living_worker(metrics):
    def facts_read_while_scraped():
        yield "rollout-0", rollout_facts(busy_s=6.0)
        seen.append(
            metrics.registry.get_sample_value("bonfire_rollout_busy_seconds", {"worker": "rollout-1"})
        )
        yield "rollout-1", rollout_facts()

    seen = []
    metrics.set_rollouts([("rollout-0", rollout_facts()), ("rollout-1", rollout_facts(busy_s=7.0))])
    metrics.set_rollouts(facts_read_while_scraped())
    assert seen == [7.0]


# Names


def test_every_name_says_role_quantity_and_unit(metrics):
    families = {family.name: family for family in metrics.registry.collect()}
    assert len(families) > 30
    for name, family in families.items():
        assert re.fullmatch(r"bonfire(_[a-z]+)+", name), name
        assert name.split("_")[1] in ROLES, name
        if name not in WITHOUT_UNIT:
            assert name.split("_")[-1] in UNITS, name
        assert family.documentation and len(family.documentation) > 10, name
        assert (family.type == "histogram") <= name.endswith("_seconds"), name
        for sample in family.samples:
            if family.type == "counter" and not sample.name.endswith("_created"):
                assert sample.name == f"{name}_total"
    assert set(families) >= WITHOUT_UNIT


def test_no_label_has_more_values_than_workers_states_roles_and_reasons(metrics):
    metrics.observe_step(step_facts())
    metrics.observe_verdicts(judged(("ok",) * 4), 1.0)
    metrics.set_depths({"leased": 5}, 9, {"rollout": 2})
    metrics.set_rollouts([("rollout-0", rollout_facts())])
    metrics.observe_discarded("late")
    metrics.set_startups([("rollout-0", {"placed": 1.0})])
    metrics.observe_decision(Decision(role="rollout", before=1, after=2, reason="starved", text=""))
    labels = {label for family in metrics.registry.collect() for s in family.samples for label in s.labels}
    assert labels == {"worker", "phase", "state", "role", "direction", "reason", "status", "le"}


# The facts that are shown


def judged(statuses):
    n = len(statuses)
    return Judgement(
        scores=np.zeros(n),
        rewards=np.zeros(n),
        statuses=statuses,
        answers=(None,) * n,
        latencies_s=np.full(n, 0.002, np.float32),
    )


def test_the_learner_and_the_batch_give_every_fact_that_is_shown():
    groups = [make_group(number) for number in range(2)]
    learner = Learner(model_path(), LearnerConfig(), ObjectiveConfig(num_select=2), 1.0, seed=0)
    step = learner.train_step(groups)
    facts = Progress(steps=1).finish_step(
        step, {"ahead_s": 0.0, "learn_s": 0.1, "wait_s": 0.1, "verify_s": 0.0, "steps_without_learning": 0}
    )
    metrics = Metrics()
    metrics.observe_step(facts)
    assert facts["clipped_fraction"] == facts["clipped"]
    assert math.isnan(metrics.registry.get_sample_value("bonfire_batch_majority_at_n_reward"))
    assert math.isnan(metrics.registry.get_sample_value("bonfire_batch_win_ratio"))
    metrics.observe_step({**facts, "majority_at_n": 0.375, "win_rate": 0.5})
    assert metrics.registry.get_sample_value("bonfire_batch_majority_at_n_reward") == 0.375
    assert metrics.registry.get_sample_value("bonfire_batch_win_ratio") == 0.5


def test_the_share_of_clipped_steps_is_that_of_the_newest_twenty():
    groups = [make_group(0)]
    step = Learner(model_path(), LearnerConfig(), ObjectiveConfig(num_select=2), 1.0, seed=0).train_step(
        groups
    )
    progress = Progress(steps=100)
    waited = {"wait_s": 0.0, "verify_s": 0.0}
    shares = [
        progress.finish_step(replace(step, facts={**step.facts, "clipped": clipped}), waited)[
            "clipped_fraction"
        ]
        for clipped in (1.0, 0.0, 0.0, 1.0, *[0.0] * 17)
    ]
    assert shares[:4] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 2]) and shares[-2:] == pytest.approx(
        [2 / 20, 1 / 20]
    )


def test_a_controller_that_follows_a_lost_one_says_how_many_there_were(metrics):
    assert metrics.registry.get_sample_value("bonfire_cluster_recoveries_total") == 0
    metrics.observe_recoveries(2)
    metrics.observe_checkpoint(0.25)
    assert metrics.registry.get_sample_value("bonfire_cluster_recoveries_total") == 2
    assert metrics.registry.get_sample_value("bonfire_learner_checkpoint_seconds_sum") == 0.25
