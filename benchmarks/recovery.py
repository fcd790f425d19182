"""How soon a killed and a hung rollout worker are noticed and replaced, and how long the learner waits meanwhile.

    .venv/bin/python -m benchmarks.recovery runs/countdown-base > benchmarks/results/recovery.json
    .venv/bin/python -m benchmarks.recovery runs/countdown-base --without-room > benchmarks/results/recovery_without_room.json

A run of the demo's settings, asynchronous, with two rollout workers, of which one is killed (SIGKILL) or stopped (SIGSTOP),
in turns. `noticed`: the controller has given it up; `serving`: two others serve the newest weights. `learner_waited` is the
longest wait for a batch in the steps until both are so, `learner_waits` the median of those before the first fault. All from
the moment of the signal, seen twice a second. About five minutes on two cores.

A worker that does not answer is given a stand-in before it is given up, where a node has room for it: `--without-room` gives
Ray no room for a third engine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.demo_run import EXAMPLE, NAMESPACE, machine, train
from cluster.config.parse import load_config
from cluster.fleet import ray_cluster

WARM_UP_STEPS = 10
PAUSE_STEPS = 5
ROUNDS = 5
HEARTBEAT_TIMEOUT_S = 20.0
SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}


class Rounds:
    """Hits a worker whenever both serve, and follows what becomes of it."""

    def __init__(self) -> None:
        self.seen: dict[str, list[dict[str, float]]] = {name: [] for name in SIGNALS}
        self._to_come = list(SIGNALS) * ROUNDS
        self._under_way = ""
        self._victim = ""
        self._struck_s = 0.0
        self._next_step = WARM_UP_STEPS
        self.waits_s: list[float] = []
        """Of the steps before the first fault."""
        self._step = 0

    @property
    def are_over(self) -> bool:
        return not self._to_come and not self._under_way

    def see(self, facts: dict[str, Any]) -> None:
        now_s = time.monotonic()
        if facts["step"] > self._step:
            self._step = facts["step"]
            if self._under_way:
                current = self.seen[self._under_way][-1]
                current["learner_waited"] = max(current["learner_waited"], facts["wait_s"])
            elif len(self._to_come) == len(SIGNALS) * ROUNDS and self._step > 2:
                self.waits_s.append(facts["wait_s"])
        serving = {worker["name"]: worker["pid"] for worker in facts["rollout_workers"] if worker["serving"]}
        if not self._under_way:
            if self._to_come and len(serving) == 2 and self._step >= self._next_step:
                self._under_way = self._to_come.pop(0)
                self._victim, pid = next(iter(serving.items()))
                self.seen[self._under_way].append({"learner_waited": 0.0})
                self._struck_s = now_s
                os.kill(pid, SIGNALS[self._under_way])
            return
        current = self.seen[self._under_way][-1]
        is_there = any(worker["name"] == self._victim for worker in facts["rollout_workers"])
        if not is_there and "noticed" not in current:
            current["noticed"] = now_s - self._struck_s
        if self._victim not in serving and len(serving) == 2 and "serving" not in current:
            current["serving"] = now_s - self._struck_s
        if "noticed" in current and "serving" in current:
            self._under_way = ""
            self._next_step = self._step + PAUSE_STEPS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the demo's base model, e.g. runs/countdown-base")
    parser.add_argument("--without-room", action="store_true", help="for a third engine, as a stand-in")
    arguments = parser.parse_args()
    changes = [
        "metrics.port=0",
        "train.steps=100000",
        "train.max_staleness=2",
        "rollout.workers=2",
        # With the learner's 1 that leaves room on two cores for a third engine; each has one thread all the same.
        "rollout.num_cpus=0.25",
        f"verifier.num_cpus={max(2, os.cpu_count() or 2) - 1.5 if arguments.without_room else 0.25}",
        f"rollout.heartbeat_timeout_s={HEARTBEAT_TIMEOUT_S}",
    ]
    config = load_config(EXAMPLE, [f"model={arguments.model}", *changes])
    ray_cluster.start_ray(config, address=None, namespace=NAMESPACE)
    rounds = Rounds()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        train(config, Path(directory), on_facts=rounds.see, should_stop=lambda: rounds.are_over)
    result = {
        "machine": machine(),
        "load_average_1min_before": load_before,
        "heartbeat_timeout_s": HEARTBEAT_TIMEOUT_S,
        "suspect_after_s": config.rollout.suspect_after_s,
        "room_for_a_stand_in": not arguments.without_room,
        "learner_waits": statistics.median(rounds.waits_s),
        "median_s": {
            name: {moment: statistics.median(one[moment] for one in those) for moment in those[0]}
            for name, those in rounds.seen.items()
        },
        "longest_s": {
            name: {moment: max(one[moment] for one in those) for moment in those[0]}
            for name, those in rounds.seen.items()
        },
        "rounds": rounds.seen,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
