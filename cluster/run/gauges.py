"""The gauges of the endpoint that are read off the run as it stands."""

from __future__ import annotations

from cluster.fleet.elastic import Elastic
from cluster.fleet.rollouts import RolloutFleet
from cluster.fleet.verifying import VerifierFleet
from cluster.leasing.ledger import Ledger
from cluster.run.metrics import Metrics


def refresh(
    metrics: Metrics,
    ledger: Ledger,
    rollouts: RolloutFleet,
    verifying: VerifierFleet,
    elastic: Elastic,
    num_unjudged: int,
) -> None:
    """Groups by state, workers and what they tell of themselves."""
    metrics.set_depths(
        ledger.counts,
        verifying.queue_depth,
        {"rollout": len(rollouts.serving), "verifier": len(verifying.working)},
    )
    metrics.set_targets(elastic.targets)
    metrics.set_silent(elastic.num_silent)
    metrics.set_unjudged(num_unjudged)
    workers = (*rollouts.workers.values(), *verifying.workers.values())
    metrics.set_startups((worker.name, worker.startup_s) for worker in workers)
    metrics.set_child_restarts(verifying.num_child_restarts)
    metrics.set_rollouts((name, worker.facts) for name, worker in rollouts.workers.items() if worker.facts)
