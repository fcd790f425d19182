"""The run's facts as Prometheus series, served read-only by the controller.

One registry, one process: workers piggyback their counters on their replies, and a dead worker's
series are dropped with it.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from actors.types import Judgement
from actors.worker import RolloutFacts
from cluster.config.schema import MetricsConfig
from cluster.fleet.scaling import Decision, Role
from verifiers.types import STATUSES

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
GROUP_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
LATENCY_SECONDS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10)

LEARNER_GAUGES = {
    "loss": ("loss", "Loss of the newest step"),
    "grad_norm": ("gradient_norm", "Global gradient norm, of the loss over its normaliser, before clipping"),
    "clipped_fraction": (
        "clipped_steps_ratio",
        "Share of the newest 20 steps whose gradient was scaled down",
    ),
    "learning_rate": ("learning_rate", "Step size in use"),
    "kl": ("kl_nats", "KL from behaviour to learner policy per trained token"),
    "kl_reference": ("kl_reference_nats", "KL from learner to reference policy per sample; 0 when off"),
    "ratio_mean": ("importance_ratio_mean", "Mean ratio of learner to behaviour policy per trained token"),
    "ratio_truncated_fraction": (
        "importance_ratio_truncated_ratio",
        "Share of trained tokens with a cut ratio",
    ),
    "staleness_ratio": (
        "group_shift_ratio",
        "(N-1) times the total variation between groups and the learner's policy, rounding left out",
    ),
    "staleness_kl": (
        "staleness_kl_nats",
        "KL from behaviour to learner policy per sequence, of older tokens, rounding left out",
    ),
    "rounding_kl": ("rounding_kl_nats", "What rounding adds to the KL of older tokens per sequence"),
    "parity_mean": (
        "logprob_difference_mean_nats",
        "Mean |log-prob| difference of engine and learner, equal weights",
    ),
    "parity_kl": (
        "engine_kl_nats",
        "KL from engine to learner per token, equal weights",
    ),
    "parity_tokens": ("parity_tokens", "Tokens of the newest step compared with the engines"),
    "parity_max": (
        "logprob_difference_max_nats",
        "Largest |log-prob| difference of engine and learner, equal weights",
    ),
}
BATCH_GAUGES = {
    "reward": ("reward_mean", "Mean reward of the newest batch"),
    "score": ("score_mean", "Mean finite score of the newest batch"),
    "num_select": ("num_select", "N of the next three, at which they are estimated"),
    "bon": ("best_of_n_reward", "Unbiased Best-of-N reward of the newest batch"),
    "pass_at_n": ("pass_at_n_ratio", "Unbiased pass@N of the newest batch"),
    "majority_at_n": (
        "majority_at_n_reward",
        "Unbiased reward of the most frequent of N answers in the newest batch; NaN but with the objective majority",
    ),
    "win_rate": (
        "win_ratio",
        "Share of the base's samples that one of the newest batch beats; NaN without objective.score_transform",
    ),
    "bon_win_rate": (
        "best_of_n_win_ratio",
        "Share of the base's samples that the best of N of the newest batch beats; NaN without it",
    ),
    "staleness_mean": ("staleness_mean_versions", "Mean versions between sampling and training"),
    "staleness_max": ("staleness_max_versions", "Largest number of versions between sampling and training"),
    "steps_without_learning": ("weightless_steps", "Steps in a row in which no sample had a weight"),
    "completion_tokens": ("completion_mean_tokens", "Mean completion length"),
}

OF_SOME_OBJECTIVES = frozenset({"majority_at_n", "win_rate", "bon_win_rate"})
"""Facts that the steps of other objectives do not have: NaN."""


HELD_OUT_TEXT = (
    "Of the newest evaluation while it trains: mean over held-out problems, and the ends of its 95 % interval"
)


class Metrics:
    """All series of a run. Names follow bonfire_<role>_<quantity>_<unit>[_total]."""

    def __init__(self, run_dir: Path | None = None) -> None:
        """`run_dir`: whose disk is watched; it is looked at by each scrape, in the endpoint's own thread."""
        self.registry = CollectorRegistry()
        self._learner = {
            fact: Gauge(f"bonfire_learner_{name}", text, registry=self.registry)
            for fact, (name, text) in LEARNER_GAUGES.items()
        }
        self._batch = {
            fact: Gauge(f"bonfire_batch_{name}", text, registry=self.registry)
            for fact, (name, text) in BATCH_GAUGES.items()
        }
        self._version = self._gauge("bonfire_learner_version", "Policy version of the learner")
        self._steps = self._counter("bonfire_learner_steps", "Optimizer steps since this controller started")
        self._clipped_steps = self._counter(
            "bonfire_learner_clipped_steps",
            "Optimizer steps since this controller started whose gradient was scaled down",
        )
        self._trained_tokens = self._counter(
            "bonfire_learner_trained_tokens", "Tokens with a non-zero weight"
        )
        self._step_seconds = self._histogram(
            "bonfire_learner_step_seconds", "Duration of a learner step", SECONDS
        )
        self._wait_seconds = self._histogram(
            "bonfire_learner_wait_seconds", "Learner's wait for a batch", SECONDS
        )
        self._sync_seconds = self._histogram(
            "bonfire_weights_sync_seconds",
            "Learner's optimizer step done to the last engine serving it",
            SECONDS,
        )
        self._ledger = self._gauge("bonfire_ledger_groups", "Groups by state", ["state"])
        self._queue = self._gauge("bonfire_verifier_queue_groups", "Groups waiting for a verifier")
        self._workers = self._gauge("bonfire_cluster_workers", "Workers alive", ["role"])
        self._restarts = self._counter("bonfire_cluster_restarts", "Workers replaced", ["role"])
        self._recoveries = self._counter(
            "bonfire_cluster_recoveries", "Times the run went on by itself from a checkpoint"
        )
        self._checkpoint_seconds = self._histogram(
            "bonfire_learner_checkpoint_seconds", "Time to write a checkpoint that survives a crash", SECONDS
        )
        self._silent = self._gauge(
            "bonfire_cluster_silent_workers", "Workers that do not answer, and are not given up yet", ["role"]
        )
        self._targets = self._gauge("bonfire_workers_target", "Workers there are to be", ["role"])
        self._decisions = self._counter(
            "bonfire_scaling_decisions", "Changes of a target", ["role", "direction", "reason"]
        )
        self._startup = self._gauge(
            "bonfire_cluster_startup_seconds",
            "Time that each phase of a living worker's start took, until its first group",
            ["worker", "phase"],
        )
        self._unjudged = self._gauge(
            "bonfire_verifier_unjudged_problems", "Problems set aside because the verifier fails on them"
        )
        self._discarded = self._counter("bonfire_cluster_discarded_groups", "Groups given back", ["reason"])
        self._sequences = self._counter("bonfire_rollout_sequences", "Sequences sampled")
        self._tokens = self._counter("bonfire_rollout_tokens", "Tokens sampled")
        self._reprefilled = self._counter(
            "bonfire_rollout_reprefilled_tokens",
            "Tokens of running sequences whose KV an update of the weights dropped, so that they were computed again",
        )
        self._rate = self._gauge(
            "bonfire_rollout_tokens_per_second", "Tokens sampled a second over the last step"
        )
        self._busy = self._gauge("bonfire_rollout_busy_seconds", "Time the engine was stepping", ["worker"])
        self._idle = self._gauge(
            "bonfire_rollout_idle_seconds", "Time the engine had nothing to do", ["worker"]
        )
        self._fill = self._gauge(
            "bonfire_engine_fill",
            "Sequences decoded at a time over rollout.max_num_seqs, in the last ten seconds or so",
            ["worker"],
        )
        self._running = self._gauge(
            "bonfire_engine_running_sequences", "Sequences being decoded at the moment", ["worker"]
        )
        self._waiting = self._gauge(
            "bonfire_engine_waiting_sequences", "Sequences that the engine has no place for yet", ["worker"]
        )
        self._kv_usage = self._gauge(
            "bonfire_engine_kv_usage_ratio", "Share of the KV cache that sequences hold", ["worker"]
        )
        self._prefix_queried = self._counter(
            "bonfire_engine_prefix_queried_tokens", "Tokens of new sequences looked up in the prefix cache"
        )
        self._prefix_hit = self._counter(
            "bonfire_engine_prefix_hit_tokens", "Tokens of new sequences found in the prefix cache"
        )
        self._group_seconds = self._histogram(
            "bonfire_cluster_group_seconds", "From a group's lease to its verdicts", GROUP_SECONDS
        )
        self._serving = self._gauge("bonfire_rollout_version", "Policy version the engine serves", ["worker"])
        self._resident = self._gauge("bonfire_rollout_resident_bytes", "Peak resident memory", ["worker"])
        self._child_restarts = self._gauge(
            "bonfire_verifier_child_restarts", "Verifier processes replaced within their workers"
        )
        self._verdicts = self._counter("bonfire_verifier_verdicts", "Candidates judged", ["status"])
        self._latency = self._histogram(
            "bonfire_verifier_latency_seconds", "Time of one verdict", LATENCY_SECONDS
        )
        self._held_out = self._gauge("bonfire_held_out_estimate", HELD_OUT_TEXT, ["metric", "k", "bound"])
        self._held_out_difference = self._gauge(
            "bonfire_held_out_difference",
            "The same less the estimate of the policy that the run began with, paired by problem",
            ["metric", "k", "bound"],
        )
        self._held_out_version = self._gauge(
            "bonfire_held_out_version", "Policy version with which the newest evaluation began"
        )
        self._held_out_best = self._gauge(
            "bonfire_held_out_best_version", "Policy version that is kept as the best; 0: none yet"
        )
        self._held_out_seconds = self._gauge(
            "bonfire_held_out_seconds", "Time that the newest evaluation took"
        )
        self._held_out_sequences = self._counter(
            "bonfire_held_out_sequences", "Sequences sampled for evaluations"
        )
        self._held_out_tokens = self._counter("bonfire_held_out_tokens", "Tokens sampled for evaluations")
        self._disk = self._gauge("bonfire_cluster_disk_free_bytes", "Free on the disk of the run directory")
        self._disk.set_function(lambda: _free_bytes(run_dir))
        self._rollout_names: set[str] = set()
        self._counted: dict[str, tuple[int, ...]] = {}
        """Of each worker that ever was, what its totals were when they were last counted."""
        self._startup_labels: set[tuple[str, str]] = set()
        for status in STATUSES:
            self._verdicts.labels(status)
        for role in ("rollout", "verifier"):
            self._restarts.labels(role)

    def serve(self, config: MetricsConfig) -> WSGIServer:
        """Answer GET /metrics; returns the server, which knows its port. Raises ValueError when the port is taken."""
        try:
            server, _ = start_http_server(config.port, addr=config.host, registry=self.registry)
        except OSError as error:
            raise config.unusable(error) from None
        return server

    def set_unjudged(self, num_problems: int) -> None:
        self._unjudged.set(num_problems)

    def observe_step(self, facts: Mapping[str, float]) -> None:
        """The facts of one optimizer step, as they go to metrics.jsonl."""
        for gauges in (self._learner, self._batch):
            for fact, gauge in gauges.items():
                gauge.set(facts.get(fact, math.nan) if fact in OF_SOME_OBJECTIVES else facts[fact])
        self._version.set(facts["version"])
        self._steps.inc()
        self._clipped_steps.inc(facts["clipped"])
        self._trained_tokens.inc(facts["trained_tokens"])
        self._step_seconds.observe(facts["ahead_s"] + facts["learn_s"])
        self._wait_seconds.observe(facts["wait_s"])
        self._rate.set(facts["tokens_per_s"])

    def observe_sync(self, seconds: float) -> None:
        self._sync_seconds.observe(seconds)

    def observe_verdicts(self, judgement: Judgement, seconds: float) -> None:
        """On a group that was leased so many seconds ago."""
        self._group_seconds.observe(seconds)
        for status, count in Tally(judgement.statuses).items():
            self._verdicts.labels(status).inc(count)
        for latency in judgement.latencies_s:
            self._latency.observe(latency)

    def observe_samples(self, num_sequences: int, num_tokens: int) -> None:
        self._sequences.inc(num_sequences)
        self._tokens.inc(num_tokens)

    def observe_held_out(self, row: Mapping[str, Any]) -> None:
        """An evaluation, as it goes to held_out.jsonl."""
        for gauge, what in ((self._held_out, "estimates"), (self._held_out_difference, "differences")):
            for name, estimate in row[what].items():
                metric, _, k = name.partition("@")
                for bound, value in estimate.items():
                    gauge.labels(metric, k or "1", bound).set(value)
        self._held_out_version.set(row["step"])
        self._held_out_seconds.set(row["seconds"])

    def observe_held_out_samples(self, num_sequences: int, num_tokens: int) -> None:
        self._held_out_sequences.inc(num_sequences)
        self._held_out_tokens.inc(num_tokens)

    def set_best(self, version: int) -> None:
        self._held_out_best.set(version)

    def observe_lost(self, role: str) -> None:
        self._restarts.labels(role).inc()

    def observe_recoveries(self, num_recoveries: int) -> None:
        """Those that led to this controller, whose counters all begin at 0."""
        self._recoveries.inc(num_recoveries)

    def observe_checkpoint(self, seconds: float) -> None:
        self._checkpoint_seconds.observe(seconds)

    def observe_decision(self, decision: Decision) -> None:
        self._decisions.labels(decision.role, decision.direction, decision.reason).inc()

    def observe_discarded(self, reason: str, num_groups: int = 1) -> None:
        self._discarded.labels(reason).inc(num_groups)

    def set_depths(self, ledger: Mapping[str, int], queue_depth: int, workers: Mapping[str, int]) -> None:
        for state, count in ledger.items():
            self._ledger.labels(state).set(count)
        for role, count in workers.items():
            self._workers.labels(role).set(count)
        self._queue.set(queue_depth)

    def set_targets(self, targets: Mapping[Role, int]) -> None:
        for role, count in targets.items():
            self._targets.labels(role).set(count)

    def set_silent(self, workers: Mapping[Role, int]) -> None:
        for role, count in workers.items():
            self._silent.labels(role).set(count)

    def set_startups(self, startups: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """Seconds by phase of the living workers' starts; those of the others are dropped."""
        gone, self._startup_labels = self._startup_labels, set()
        for name, phases in startups:
            for phase, seconds in phases.items():
                self._startup_labels.add((name, phase))
                self._startup.labels(name, phase).set(seconds)
        for labels in gone - self._startup_labels:
            self._startup.remove(*labels)

    def set_child_restarts(self, num_restarts: int) -> None:
        self._child_restarts.set(num_restarts)

    def set_rollouts(self, facts: Iterable[tuple[str, RolloutFacts]]) -> None:
        """Series of the living rollout workers; those of the others are dropped."""
        gauges = (
            self._busy,
            self._idle,
            self._fill,
            self._serving,
            self._resident,
            self._running,
            self._waiting,
            self._kv_usage,
        )
        gone, self._rollout_names = self._rollout_names, set()
        for name, fact in facts:
            self._rollout_names.add(name)
            load = fact.load
            self._count_totals(
                name, (fact.num_reprefilled_tokens, load.prefix_queried_tokens, load.prefix_hit_tokens)
            )
            values = (
                fact.busy_s,
                fact.idle_s,
                fact.fill,
                fact.version,
                fact.resident_bytes,
                load.num_running,
                load.num_waiting,
                load.kv_usage,
            )
            for gauge, value in zip(gauges, values, strict=True):
                gauge.labels(name).set(value)
        # A scrape may come at any moment: the living keep their series throughout.
        for name in gone - self._rollout_names:
            for gauge in gauges:
                gauge.remove(name)

    def _count_totals(self, name: str, totals: tuple[int, ...]) -> None:
        """Add what a worker's totals have grown by."""
        before = self._counted.get(name, (0,) * len(totals))
        self._counted[name] = totals
        counters = (self._reprefilled, self._prefix_queried, self._prefix_hit)
        for counter, new, old in zip(counters, totals, before, strict=True):
            counter.inc(new - old)

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(name, text, registry=self.registry, buckets=tuple(buckets))


def _free_bytes(run_dir: Path | None) -> float:
    """NaN where it cannot be known: a scrape must have its other series all the same."""
    try:
        return math.nan if run_dir is None else shutil.disk_usage(run_dir).free
    except OSError:
        return math.nan
