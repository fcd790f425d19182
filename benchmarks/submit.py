"""Seconds from `bonfire submit` to the first step, and what they are spent on.

    .venv/bin/python -m benchmarks.submit runs/countdown-base > benchmarks/results/submit.json

The demo's settings as a job on a cluster of one node, its base model made already, three times; each run is stopped after its
first step. Seconds from the start of the command until: Ray has accepted the job; its driver runs (`run.json` is there); the
controller answers (stage `training`); the first step is done, of which engine and learner start the most. Resolution 0.05 s;
about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.demo_run import machine
from cluster.run_directory.record import RUN_FILE
from cluster.run_directory.run_file import read_run_file
from tests.shared.user_cluster import PATIENCE_S, Cluster, started_cluster

EXAMPLES = Path(__file__).parent.parent / "examples"
ROUNDS = 3
LOOK_EVERY_S = 0.05


def stage(run_dir: Path) -> str:
    return str(read_run_file(run_dir).get("stage", "")) if (run_dir / RUN_FILE).exists() else ""


def first_step(cluster: Cluster, model: Path, runs: Path, name: str) -> dict[str, float]:
    run_dir = runs / name
    metrics = run_dir / "metrics.jsonl"
    started_s = time.perf_counter()

    def until(condition: Callable[[], object]) -> float:
        while not condition():
            assert time.perf_counter() < started_s + PATIENCE_S
            time.sleep(LOOK_EVERY_S)
        return time.perf_counter() - started_s

    settings = (f"model={model}", "metrics.port=0", "rollout.workers=1", "--runs", runs, "--name", name)
    command = ("submit", "countdown.toml", *settings, "--no-follow", "--address", cluster.dashboard)
    submitting = cluster.start(*command, cwd=EXAMPLES)
    assert submitting.stdout is not None
    seconds = {}
    for line in submitting.stdout:
        if line.startswith("submitted job"):
            seconds["accepted"] = time.perf_counter() - started_s
            break
    seconds["driver"] = until(lambda: stage(run_dir))
    seconds["controller"] = until(lambda: stage(run_dir) == "training")
    seconds["first_step"] = until(lambda: metrics.exists() and metrics.read_text().count("\n"))
    submitting.communicate()
    code, _, err = cluster.bonfire("stop", name, "--address", cluster.dashboard, cwd=EXAMPLES)
    assert code == 0, err
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the demo's base model, e.g. runs/countdown-base")
    model = parser.parse_args().model.absolute()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as runs, started_cluster() as cluster:
        rounds = [first_step(cluster, model, Path(runs), f"round-{number}") for number in range(ROUNDS)]
    result = {
        "machine": machine(),
        "load_average_1min_before": load_before,
        "median_s": {moment: statistics.median(one[moment] for one in rounds) for moment in rounds[0]},
        "rounds": rounds,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
