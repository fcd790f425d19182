"""What evaluations cost a run while it trains: the same training with and without them, in turns.

    .venv/bin/python -m benchmarks.during runs/countdown-base > benchmarks/results/during.json

Takes about ten minutes on two cores. Steps count from the warm-up to the last one, so that the evaluations before the
first step and after the last one are left out; `whole_s` is all of a run, engine starts included. Ratios within one call
are what counts, absolute numbers are the machine's.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.demo_run import EXAMPLE, NAMESPACE, train
from cluster.config.parse import load_config
from cluster.config.schema import RunConfig
from cluster.fleet import ray_cluster
from cluster.run.asked import Asked, choose
from cluster.run_directory.held_out import read_held_out

WARM_UP_STEPS = 3


def asked_of(config: RunConfig) -> Asked:
    """What the run is evaluated on."""
    from actors.tokens import encode_prompts, load_tokenizer
    from verifiers.problems.loading import load_problems

    problems = load_problems(config.problems, "test")
    return choose(config, problems, encode_prompts(load_tokenizer(config.model), problems))


def one_run(config: RunConfig, turn: int) -> dict[str, Any]:
    """A run in a directory that is thrown away."""
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        train(config, Path(directory), namespace=f"{NAMESPACE}-{turn}", asked=asked_of(config))
        whole_s = time.perf_counter() - started_s
        lines = (Path(directory) / "metrics.jsonl").read_text().splitlines()
        evaluations = read_held_out(Path(directory))
    steps = [json.loads(line) for line in lines][WARM_UP_STEPS:]
    seconds = sum(step["step_s"] for step in steps)
    between = [row for row in evaluations if 0 < row["step"] < config.train.steps]
    return {
        "steps_per_s": len(steps) / seconds,
        "tokens_per_s": sum(step["tokens_per_s"] * step["step_s"] for step in steps) / seconds,
        "whole_s": whole_s,
        "evaluations": [
            {name: row[name] for name in ("step", "ended_step", "newest_version", "seconds", "num_tokens")}
            for row in evaluations
        ],
        "evaluation_tokens_share": sum(row["num_tokens"] for row in between)
        / sum(step["tokens_per_s"] * step["step_s"] for step in steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the demo's base model, e.g. runs/countdown-base")
    parser.add_argument("--steps", type=int, default=53)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--turns", type=int, default=3, help="runs of each kind")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting")
    arguments = parser.parse_args()
    overrides = [
        f"model={arguments.model}",
        "metrics.port=0",
        f"train.steps={arguments.steps}",
        *arguments.set,
    ]
    configs = {
        "without": load_config(EXAMPLE, overrides),
        "with": load_config(EXAMPLE, [*overrides, f"evaluation.every={arguments.every}"]),
    }
    ray_cluster.start_ray(configs["with"], address=None, namespace=NAMESPACE)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in configs}
    for turn in range(arguments.turns):
        for name, config in configs.items():
            runs[name].append(one_run(config, 2 * turn + (name == "with")))
            print(name, runs[name][-1], file=sys.stderr)
    ratios = [
        one["steps_per_s"] / other["steps_per_s"]
        for one, other in zip(runs["with"], runs["without"], strict=True)
    ]
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "every": arguments.every,
        "during_problems": len(asked_of(configs["with"]).problems),
        "steps": arguments.steps,
        "steps_per_s_with_over_without": {"median": statistics.median(ratios), "turns": ratios},
        "runs": runs,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
