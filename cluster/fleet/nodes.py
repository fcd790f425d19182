"""What the run asks of Ray's head, and hears from it: nodes, actors.

The calls block: make them in a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence

from actors.config import RolloutConfig
from learner.config import LearnerConfig
from verifiers.config import VerifierConfig

Bundle = Mapping[str, float]

NODE_LOSS_SETTINGS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""Environment of a cluster's head: it gives up a node whose raylet is gone after 1.5 s, one that does not answer after
4.5 s, at the latest. A node that stands still for 4 s may thus be lost. Ray's own are 15 and 65 s.

A private cluster is not given them: the only node that it could lose is the run's own.
"""
HUNG_WORKER_SETTINGS = {"RAY_kill_worker_timeout_milliseconds": "500"}
"""Environment of every node: a worker that hangs (SIGSTOP, say) holds its resources so long after it was given up, not 5 s
as by Ray's own setting; its replacement may wait for them.
"""
DEADLINE_MARGIN_S = 3.0
"""Kept of a node's deadline: Ray lets it go a second or two after its last worker."""
EVERY_INTERFACE = ("0.0.0.0", "::", "")
_one_request_at_a_time = threading.Lock()


def reached_at(host: str) -> str:
    """Where others reach what listens on `host` of this node."""
    import ray

    return str(ray.util.get_node_ip_address()) if host in EVERY_INTERFACE else host


def bundle(role: RolloutConfig | VerifierConfig | LearnerConfig) -> dict[str, float]:
    """What one worker, or one rank, reserves, as Ray writes it; empty where it reserves nothing."""
    num_gpus = role.gpus_of_worker if isinstance(role, RolloutConfig) else role.num_gpus
    reserved = {"CPU": role.num_cpus, "GPU": num_gpus, **role.resources}
    return {name: amount for name, amount in reserved.items() if amount}


def describe(needed: Bundle) -> str:
    """`1 CPU, 1 GPU`."""
    return ", ".join(f"{count:g} {name}" for name, count in needed.items()) or "which reserves nothing"


def request_nodes(bundles: Sequence[Bundle]) -> None:
    """Ask the cluster's autoscaler for nodes that hold all bundles at once; none: for nothing any more.

    It holds until asked again, also where an earlier call is still under way, for the whole cluster: of several runs
    on one the last that asked is heard. What workers still wait for is asked by Ray itself, so that no run stands
    still by that. Where no autoscaler runs, nobody reads it.
    """
    from ray.autoscaler.sdk import request_resources

    with _one_request_at_a_time:
        request_resources(bundles=[dict(one) for one in bundles if one])


def has_room(needed: Bundle, *, without: Collection[str]) -> bool:
    """Whether some node, `without` these, has so much free, as far as Ray's head knows now.

    By a private module of Ray 2.60: the public function adds all nodes up.
    """
    from ray._private.state import available_resources_per_node

    return any(
        all(free.get(name, 0.0) >= amount for name, amount in needed.items())
        for node_id, free in available_resources_per_node().items()
        if node_id not in without
    )


def living_actors() -> list[str]:
    """Classes of the actors, not known for dead, that this driver's job has made, directly or not.

    By a private function of Ray 2.60: the public one asks the dashboard, which a private cluster has not.
    """
    import ray
    from ray._private.state import state

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return [
        about["ActorClassName"] for about in state.actor_table(None, job).values() if about["State"] != "DEAD"
    ]


def draining_nodes() -> dict[str, float | None]:
    """Nodes that are to go, by id, with the seconds left to leave them; None: no deadline.

    By a private function of Ray 2.60: no public one tells of a drain before it is over.
    """
    from ray._private.state import state

    now_s = time.time()
    return {
        node_id: max(0.0, deadline_ms / 1e3 - now_s - DEADLINE_MARGIN_S) if deadline_ms else None
        for node_id, deadline_ms in state.get_draining_nodes().items()
    }
