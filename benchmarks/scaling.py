"""From `scale` to the newcomer's first group, and what the time is spent on.

    .venv/bin/python -m benchmarks.scaling runs/countdown-base > benchmarks/results/scaling.json

A run of the demo's settings gets a second rollout worker, and gives it up again, five times. `placed`: Ray has found
resources and the process is up; `engine`: it is built; `weights`: it serves the newest version; `first_group`: it was
given a lease, sampled it, and the controller has the group. About two minutes on two cores. The run goes on meanwhile,
and with two cores a newcomer shares them with the engine and the learner that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.demo_run import EXAMPLE, NAMESPACE, machine, train
from cluster.config.parse import load_config
from cluster.fleet import ray_cluster

WARM_UP_STEPS = 3
ROUNDS = 5


class Rounds:
    """Scales up when one worker is there, and down when the newcomer has sampled its first group."""

    def __init__(self) -> None:
        self.startups_s: list[dict[str, float]] = []
        self._is_grown = False

    @property
    def are_over(self) -> bool:
        return len(self.startups_s) == ROUNDS

    def see(self, facts: dict[str, Any]) -> None:
        import ray

        controller: Any = ray.get_actor(ray_cluster.CONTROLLER_NAME)
        workers = facts["rollout_workers"]
        if facts["step"] < WARM_UP_STEPS or self.are_over:
            return
        if not self._is_grown and len(workers) == 1:
            ray.get(controller.scale.remote(rollout=2))
            self._is_grown = True
        elif self._is_grown and len(workers) == 2 and "first_group" in workers[1]["startup_s"]:
            self.startups_s.append(workers[1]["startup_s"])
            ray.get(controller.scale.remote(rollout=1))
            self._is_grown = False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the demo's base model, e.g. runs/countdown-base")
    arguments = parser.parse_args()
    # Half a CPU each, so that a second one fits a machine of two cores; an engine has one thread all the same.
    changes = ["metrics.port=0", "train.steps=100000", "rollout.workers=1", "rollout.num_cpus=0.5"]
    config = load_config(EXAMPLE, [f"model={arguments.model}", *changes])
    ray_cluster.start_ray(config, address=None, namespace=NAMESPACE)
    rounds = Rounds()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory:
        train(config, Path(directory), on_facts=rounds.see, should_stop=lambda: rounds.are_over)
    totals_s = [sum(startup.values()) for startup in rounds.startups_s]
    result = {
        "machine": machine(),
        "load_average_1min_before": load_before,
        "seconds_to_first_group": totals_s,
        "median_s": statistics.median(totals_s),
        "spent_on_median_s": {
            phase: statistics.median(startup[phase] for startup in rounds.startups_s)
            for phase in rounds.startups_s[0]
        },
        "rounds": rounds.startups_s,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
