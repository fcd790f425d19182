"""Seconds of a checkpoint, what is sampled meanwhile, and seconds from a checkpoint to the next step.

    .venv/bin/python -m benchmarks.checkpoint runs/countdown-base > benchmarks/results/checkpoint.json

Two models: the demo's, with the demo's batches, and one of 99 million random parameters, with small ones. Each is
trained for some steps with a checkpoint after each, with two versions of slack, so that there are leases at any time; then
its run is gone on with for one step. `while_saving` compares, while a checkpoint is being written and while not, the tokens
that arrive a second (engines sample as far as the staleness bound has leases for them: of the large model's batches all are
sampled while the learner still trains) and how long the controller took to answer at most. Resume: `verify` reads and hashes the checkpoint, the rest is the time since the controller was
asked for, until it answers, until the learner has loaded the checkpoint, until an engine serves its weights, until the
first step is done. About six minutes on two cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.demo_run import EXAMPLE, NAMESPACE, machine, train
from cluster.config.parse import load_config
from cluster.config.schema import RunConfig
from cluster.fleet import ray_cluster
from cluster.run import launch
from cluster.run_directory.integrity import find_damage
from cluster.run_directory.record import finished_checkpoints

LOOK_EVERY_S = 0.02
STEPS = 12
LARGE_STEPS = 4
LARGE = {"hidden_size": 768, "num_heads": 12, "num_layers": 14, "intermediate_size": 2048}
LARGE_BATCH = ["train.groups_per_step=4", "rollout.samples_per_prompt=8", "objective.num_select=4"]


def make_large_model(directory: Path) -> None:
    """A countdown model of random weights."""
    import torch

    from learner.sft import build_model, build_tokenizer
    from learner.supervised.config import SftConfig

    torch.manual_seed(0)
    build_model(SftConfig(**LARGE)).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)


class Watch(threading.Thread):
    """Looks at the controller as often as it answers; `seen` are its facts with the time of each."""

    def __init__(self, namespace: str) -> None:
        super().__init__(daemon=True)
        self._namespace = namespace
        self._over = threading.Event()
        self.seen: list[tuple[float, dict[str, Any]]] = []

    def run(self) -> None:
        import ray

        while not self._over.wait(LOOK_EVERY_S):
            try:
                controller: Any = ray.get_actor(ray_cluster.CONTROLLER_NAME, namespace=self._namespace)
                facts = ray.get(controller.facts.remote())
            except (ValueError, ray.exceptions.RayError):  # not yet there, or no longer
                continue
            self.seen.append((time.perf_counter(), facts))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def first(self, condition: Callable[[dict[str, Any]], Any]) -> float:
        return next(at_s for at_s, facts in self.seen if condition(facts))


def trained(config: RunConfig, run_dir: Path, checkpoint: Path | None) -> Watch:
    """A run to its end, and what was seen of it."""
    watch = Watch(run_dir.name)
    watch.start()
    train(config, run_dir, namespace=run_dir.name, checkpoint=checkpoint)
    watch.stop()
    launch.wait_for_its_end()
    return watch


def while_saving(watch: Watch) -> dict[str, float]:
    """Tokens a second that engines report, and the longest time between two answers, from the first step to the last."""
    spent_s = {True: 0.0, False: 0.0}
    longest_s = {True: 0.0, False: 0.0}
    tokens = {True: 0, False: 0}
    training = [
        (at_s, facts) for at_s, facts in watch.seen if facts["step"] >= 1 and facts["stage"] == "training"
    ]
    for (before_s, before), (after_s, after) in itertools.pairwise(training):
        is_saving = before["checkpoint"]["is_saving"]
        spent_s[is_saving] += after_s - before_s
        longest_s[is_saving] = max(longest_s[is_saving], after_s - before_s)
        tokens[is_saving] += num_tokens(after) - num_tokens(before)
    return {
        "seconds_saving": spent_s[True],
        "tokens_per_s_saving": tokens[True] / spent_s[True],
        "tokens_per_s_otherwise": tokens[False] / spent_s[False],
        "longest_answer_s_saving": longest_s[True],
        "longest_answer_s_otherwise": longest_s[False],
    }


def num_tokens(facts: dict[str, Any]) -> int:
    return sum(worker.get("num_tokens", 0) for worker in facts["rollout_workers"])


def measure(model: Path, name: str, directory: Path, steps: int, overrides: list[str]) -> dict[str, Any]:
    run_dir = directory / name
    every = [
        "metrics.port=0",
        "rollout.workers=1",
        "train.max_staleness=2",
        "train.checkpoint_every=1",
    ]
    config = load_config(EXAMPLE, [f"model={model}", f"train.steps={steps}", *every, *overrides])
    watch = trained(config, run_dir, None)
    seconds = {facts["checkpoint"]["version"]: facts["checkpoint"]["seconds"] for _, facts in watch.seen}
    saved_s = [second for second in seconds.values() if second is not None]
    checkpoint = finished_checkpoints(run_dir)[-1]
    size_bytes = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())

    started_s = time.perf_counter()
    assert find_damage(checkpoint) is None
    verify_s = time.perf_counter() - started_s
    begun_s = time.perf_counter()
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps + 1})})
    again = trained(longer, run_dir, checkpoint)
    moments = [
        ("controller", again.first(lambda facts: True)),
        ("learner", again.first(lambda facts: facts["stage"] != "starting")),
        ("engine", again.first(lambda facts: any(worker["serving"] for worker in facts["rollout_workers"]))),
        ("first_step", again.first(lambda facts: facts["step"] > steps)),
    ]
    return {
        "checkpoint_bytes": size_bytes,
        "checkpoint_s": {"median": statistics.median(saved_s), "max": max(saved_s), "count": len(saved_s)},
        "while_saving": while_saving(watch),
        "resume_s": {"verify": verify_s, **{phase: at_s - begun_s for phase, at_s in moments}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the demo's base model, e.g. runs/countdown-base")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        large = directory / "large"
        make_large_model(large)
        ray_cluster.start_ray(load_config(EXAMPLE, [f"model={large}"]), address=None, namespace=NAMESPACE)
        result = {
            "machine": machine(),
            "load_average_1min_before": load_before,
            "demo": measure(arguments.model.absolute(), "demo", directory, STEPS, []),
            "large": measure(large, "large-run", directory, LARGE_STEPS, LARGE_BATCH),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
