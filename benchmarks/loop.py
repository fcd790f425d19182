"""The loop against its own engine: throughput, idleness, weight updates, start-up, memory.

    .venv/bin/python -m benchmarks.loop runs/countdown-base > benchmarks/results/loop.json

Takes about four minutes on two cores. The bare engine samples the same prompts with the same
settings in the same kind of actor, before and after the run, without learner, verifier and
controller; ratios within one call are what counts, absolute numbers are the machine's.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.demo_run import EXAMPLE, NAMESPACE, measure
from cluster.config.parse import load_config
from cluster.config.schema import RunConfig
from cluster.fleet import ray_cluster

WARM_UP_STEPS = 3


class MemoryWatch(threading.Thread):
    """Peak of the memory of this process and all below it, twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_rss = self.peak_pss = 0

    def run(self) -> None:
        while True:
            rss = pss = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    memory = process.memory_full_info()
                except psutil.Error:
                    continue
                rss, pss = rss + memory.rss, pss + memory.pss
            self.peak_rss, self.peak_pss = max(self.peak_rss, rss), max(self.peak_pss, pss)
            time.sleep(0.5)


def bare_engine(config: RunConfig, prompts: list[tuple[int, ...]], num_groups: int) -> dict[str, float]:
    """Start one rollout actor alone, then keep it as full as the loop does."""
    import ray

    from actors.environment import engine_environment
    from actors.types import Lease, Piece
    from actors.worker import RolloutWorker

    n = config.rollout.samples_per_prompt

    def lease(group: int) -> Lease:
        prompt = prompts[group % len(prompts)]
        return Lease(piece=Piece(group, 0, n), problem_id=str(group), prompt_token_ids=prompt, seed=group * n)

    started = time.perf_counter()
    actor: Any = RolloutWorker.options(  # type: ignore[attr-defined]
        num_cpus=config.rollout.num_cpus, runtime_env={"env_vars": engine_environment(config.rollout)}
    ).remote("bare", config.model, config.rollout)
    ray.get(actor.ready.remote())
    up_s = time.perf_counter() - started
    actor.submit.remote([lease(num_groups)])
    while not ray.get(actor.collect.remote(10.0)[0])[0]:
        pass
    first_group_s = time.perf_counter() - started
    sampled, given, sequences, tokens = 0, 0, 0, 0
    started = time.perf_counter()
    while sampled < num_groups:
        wanted = min(num_groups, sampled + -(-2 * config.rollout.max_num_seqs // n))
        actor.submit.remote([lease(group) for group in range(given, wanted)])
        given = max(given, wanted)
        groups, _ = ray.get(actor.collect.remote(10.0)[0])
        sampled += len(groups)
        sequences += len(groups) * n
        tokens += sum(group.num_tokens for group in groups)
    seconds = time.perf_counter() - started
    ray.kill(actor)
    return {
        "engine_up_s": up_s,
        "first_group_s": first_group_s,
        "sequences_per_s": sequences / seconds,
        "tokens_per_s": tokens / seconds,
    }


def loop(config: RunConfig) -> tuple[list[dict], dict[str, float]]:
    """Run the controller; its steps after a warm-up, and what its rollout worker did meanwhile."""
    steps, seen = measure(config, warm_up_steps=WARM_UP_STEPS)
    first, last = seen[0], seen[-1]
    names = ("at", "num_sequences", "busy_s", "idle_s", "updating_s")
    return steps, {name: last[name] - first[name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the demo's base model, e.g. runs/countdown-base")
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    overrides = [
        f"model={arguments.model}",
        "metrics.port=0",
        "rollout.workers=1",
        f"train.steps={arguments.steps}",
    ]
    # Two versions of slack: leases are to be had at any time, so an idle engine is the loop's fault.
    config = load_config(EXAMPLE, [*overrides, "train.max_staleness=2"])
    synchronous = load_config(
        EXAMPLE, [*overrides, "train.max_staleness=0", "train.parts_per_step=1", "train.steps=15"]
    )

    ray_cluster.start_ray(config, address=None, namespace=NAMESPACE)
    from actors.tokens import encode_prompts, load_tokenizer
    from verifiers.problems.loading import load_problems

    problems = load_problems(config.problems, "train")
    prompts = encode_prompts(load_tokenizer(config.model), problems)
    watch = MemoryWatch()
    watch.start()

    before = bare_engine(config, prompts, 600)
    print("bare engine", before, file=sys.stderr)
    steps, rollout = loop(config)
    print("loop", rollout, file=sys.stderr)
    after = bare_engine(config, prompts, 600)
    print("bare engine", after, file=sys.stderr)
    in_turn, _ = loop(synchronous)

    bare = statistics.mean([before["sequences_per_s"], after["sequences_per_s"]])
    engine_s = rollout["busy_s"] + rollout["idle_s"] + rollout["updating_s"]
    step_s = sum(step["step_s"] for step in in_turn)
    weights_bytes = Path(arguments.model, "model.safetensors").stat().st_size
    sync_ms = [1e3 * step["sync_s"] for step in steps]
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "bare_engine": [before, after],
        "loop_sequences_per_s": rollout["num_sequences"] / rollout["at"],
        "loop_over_bare": rollout["num_sequences"] / rollout["at"] / bare,
        "loop_over_bare_while_busy": rollout["num_sequences"] / rollout["busy_s"] / bare,
        "engine_idle_share": rollout["idle_s"] / engine_s,
        "engine_updating_share": rollout["updating_s"] / engine_s,
        "weight_update_ms": {
            "median": statistics.median(sync_ms),
            "p90": float(np.percentile(sync_ms, 90)),
            "synchronous_median": statistics.median([1e3 * step["sync_s"] for step in in_turn]),
            "bytes": weights_bytes,
            "memcpy_of_the_same_bytes": memcpy_ms(weights_bytes),
        },
        "logprob_difference_nats": {
            "mean": statistics.mean(step["parity_mean"] for step in steps),
            "max": max(step["parity_max"] for step in steps),
            "tokens": sum(step["parity_tokens"] for step in steps),
        },
        "share_of_a_synchronous_step": {
            "rollout": sum(step["wait_s"] - step["verify_s"] for step in in_turn) / step_s,
            "verify": sum(step["verify_s"] for step in in_turn) / step_s,
            "learn": sum(step["learn_s"] for step in in_turn) / step_s,
            "weights": sum(step["sync_s"] for step in in_turn) / step_s,
        },
        "peak_memory_gib": {"rss_sum": watch.peak_rss / 2**30, "pss_sum": watch.peak_pss / 2**30},
    }
    print(json.dumps(result, indent=1))


def memcpy_ms(size_bytes: int) -> float:
    """Median milliseconds of a warm copy of as many bytes."""
    source, target = np.ones(size_bytes, np.uint8), np.zeros(size_bytes, np.uint8)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


if __name__ == "__main__":
    main()
