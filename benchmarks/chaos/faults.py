"""The table of faults: what strikes, how often, how soon all must be well again, and where it cannot be had."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.chaos import node_faults as node
from benchmarks.chaos import worker_faults as process
from benchmarks.chaos.worker_faults import Act

KILL, STOP = signal.SIGKILL, signal.SIGSTOP


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`bound_s`: within which all must be as before, on two busy cores and with other faults between.

    `alone`: no other fault strikes until all is well. `needs`: what the machine must allow.
    """

    act: Act
    weight: int
    bound_s: float
    alone: bool = False
    needs: Sequence[str] = ()


WORKER_S, RUN_S, NODE_S = 120.0, 240.0, 240.0

FAULTS: dict[str, Fault] = {
    "rollout worker killed": Fault(act=process.worker("rollout", KILL), weight=6, bound_s=WORKER_S),
    "rollout worker stopped": Fault(act=process.worker("rollout", STOP), weight=3, bound_s=WORKER_S),
    "verifier worker killed": Fault(act=process.worker("verifier", KILL), weight=6, bound_s=WORKER_S),
    "verifier worker stopped": Fault(act=process.worker("verifier", STOP), weight=3, bound_s=WORKER_S),
    "verifier's child killed": Fault(
        act=process.gone("verifier_child", KILL, steps=2), weight=6, bound_s=WORKER_S
    ),
    "verifier's child stopped": Fault(
        act=process.gone("verifier_child", STOP, steps=2), weight=3, bound_s=WORKER_S
    ),
    "sandbox killed": Fault(
        act=process.gone("sandbox", KILL, steps=2), weight=6, bound_s=WORKER_S, needs=("sandbox",)
    ),
    "learner rank killed": Fault(act=process.learner_rank(KILL), weight=3, bound_s=RUN_S),
    "learner rank stopped": Fault(act=process.learner_rank(STOP), weight=1, bound_s=RUN_S),
    "controller killed": Fault(act=process.controller(KILL), weight=2, bound_s=RUN_S),
    "controller stopped": Fault(act=process.controller(STOP), weight=1, bound_s=RUN_S),
    "driver killed": Fault(act=process.driver_killed, weight=2, bound_s=RUN_S),
    "driver paused": Fault(act=process.driver_paused, weight=2, bound_s=RUN_S),
    "raylet of a sampling node killed": Fault(
        act=node.raylet_killed(*node.SAMPLING_NODES), weight=3, bound_s=NODE_S
    ),
    "raylet of the learner's node killed": Fault(act=node.raylet_killed("learner"), weight=1, bound_s=NODE_S),
    "raylet stopped": Fault(act=node.raylet_stopped, weight=2, bound_s=NODE_S),
    "network of a node lost, and back": Fault(
        act=node.network_lost, weight=3, bound_s=NODE_S, needs=("namespaces",)
    ),
    "network of a node interrupted": Fault(
        act=node.network_interrupted, weight=3, bound_s=NODE_S, needs=("namespaces",)
    ),
    "GCS killed and restarted": Fault(act=node.gcs_killed, weight=2, bound_s=NODE_S, alone=True),
    "head lost": Fault(act=node.head_lost, weight=1, bound_s=RUN_S, alone=True),
    "object store filled": Fault(act=node.store_filled, weight=2, bound_s=NODE_S),
    "disk filled": Fault(act=node.disk_filled, weight=1, bound_s=RUN_S, alone=True, needs=("mount",)),
    "newest checkpoint damaged": Fault(
        act=node.checkpoint_damaged, weight=1, bound_s=RUN_S, alone=True, needs=("checked checkpoints",)
    ),
}


def deal(names: Sequence[str], count: int, random: Random) -> list[str]:
    """`count` faults in random order: each of `names` once, if there is room, and the rest by their weights."""
    dealt = list(names) if count >= len(names) else random.sample(list(names), count)
    weights = [FAULTS[name].weight for name in names]
    dealt += random.choices(list(names), weights, k=count - len(dealt))
    random.shuffle(dealt)
    return dealt
