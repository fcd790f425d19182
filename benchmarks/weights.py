"""From the optimizer's step to an engine that serves it, on one node, against a memcpy of the same bytes.

    .venv/bin/python -m benchmarks.weights runs/smollm2 > benchmarks/results/weights.json

A learner and a rollout worker as in a run, the engine sampling long sequences meanwhile (`--idle`: none). Each round trains
one small batch. `serving_s` counts from the end of the optimizer's step to the first step of sampling with the new weights,
`confirmed_s` to the engine's reply, which has their fingerprint. The stages, one after the other (`STAGES`), are medians each:
the learner lays the weights out and fingerprints them, Ray puts them into the object store, delivers them, the engine
makes them ready beside sampling, waits for the step in progress to end, is paused, and fingerprints what it holds. The
memcpy is that of numpy, warm, in one thread, between the rounds. `--parts 3` divides the engine among three processes,
`--lora adapter` trains adapters and publishes them alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from actors.engine import UpdateTimes
from actors.types import Lease, Piece
from benchmarks.demo_run import NAMESPACE, machine
from benchmarks.random_samples import judged_by, random_samples
from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.fleet import ray_cluster

WARM_UP = 2
IN_FLIGHT = 32
VOCABULARY = 1000
STAGES = ("publish_s", "store_s", "deliver_s", "stage_s", "wait_s", "paused_s", "fingerprint_s", "reply_s")


def make_config(model: str, dtype: str, *, parts: int, publish: str | None) -> RunConfig:
    lora = {} if publish is None else {"lora": {"publish": publish}}
    return parse_config(
        {
            "model": model,
            "problems": {"source": "countdown"},
            "verifier": {"reward": "countdown"},
            "rollout": {
                "samples_per_prompt": IN_FLIGHT,
                "max_tokens": 400,
                "max_model_len": 512,
                "max_num_seqs": IN_FLIGHT,
                "dtype": dtype,
                "tensor_parallel": parts,
                "chat": {"template": "never"},
            },
            "learner": {"dtype": dtype, **lora},
            "objective": {"name": "rloo"},
            "train": {"steps": 1, "max_staleness": 1},
        }
    )


def batch(number: int) -> list[Any]:
    """One judged group, by reference."""
    from cluster.fleet.stored import JudgedGroup, store

    samples = random_samples(number, samples=2, prompt=8, completion=8, vocabulary=VOCABULARY)
    judgement = judged_by(np.array([0.0, 1.0]))
    return [JudgedGroup(stored=stored, judgement=judgement) for stored in store([samples])]


def stages(
    facts: dict[str, float], returned_s: float, times: UpdateTimes, replied_s: float
) -> dict[str, float]:
    stepped_s = facts["stepped_at_s"]
    ends_s = [
        stepped_s + facts["publish_s"],
        returned_s,
        times.began_s,
        times.staged_s,
        times.served_s - times.pause_s,
        times.served_s,
        times.confirmed_s,
        replied_s,
    ]
    lengths = [end - start for start, end in pairwise([stepped_s, *ends_s])]
    return {
        "serving_s": times.served_s - stepped_s,
        "confirmed_s": replied_s - stepped_s,
        **dict(zip(STAGES, lengths, strict=True)),
    }


async def measure(config: RunConfig, rounds: int, *, idle: bool) -> dict[str, Any]:
    import ray

    from actors.environment import engine_environment
    from actors.worker import RolloutWorker
    from cluster.fleet.learning import LearnerHandle

    worker: Any = RolloutWorker.options(  # type: ignore[attr-defined]
        num_cpus=1, runtime_env={"env_vars": engine_environment(config.rollout)}
    ).remote("rollout-0", config.model, config.rollout)
    learner = LearnerHandle(config)
    published, _ = await asyncio.gather(
        learner.start(None, Path(tempfile.gettempdir())), worker.ready.remote()
    )
    size = sum(published.manifest.bucket_sizes)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    memcpy_s: list[float] = []
    seen: list[dict[str, float]] = []
    for number in range(rounds + WARM_UP):
        started = time.perf_counter()
        np.copyto(target, source)
        memcpy_s.append(time.perf_counter() - started)
        if not idle:
            lease = Lease(
                piece=Piece(number, 0, IN_FLIGHT),
                problem_id="p",
                prompt_token_ids=tuple(range(3, 20)),
                seed=number * IN_FLIGHT,
            )
            worker.submit.remote([lease])
        await worker.collect.remote(0.5)[0]
        await learner.fetch(batch(number))
        step, published = await learner.train_step([number])
        returned_s = time.time()
        confirmed = await worker.update_weights.remote(
            published.version, published.manifest, *published.buckets
        )
        replied_s = time.time()
        assert confirmed["fingerprint"] == published.fingerprint
        seen.append(stages(step.facts, returned_s, confirmed["times"], replied_s))
        print(config.rollout.dtype, json.dumps(seen[-1]), file=sys.stderr, flush=True)
    learner.stop()
    ray.kill(worker)
    medians = {name: statistics.median(one[name] for one in seen[WARM_UP:]) for name in seen[0]}
    copy_s = statistics.median(memcpy_s[WARM_UP:])
    return {
        "bytes": size,
        "memcpy_s": copy_s,
        **medians,
        "serving_over_memcpy": medians["serving_s"] / copy_s,
        "paused_over_memcpy": medians["paused_s"] / copy_s,
        "rounds": seen,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a directory, e.g. runs/smollm2")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--idle", action="store_true", help="the engine samples nothing meanwhile")
    parser.add_argument("--parts", type=int, default=1, help="processes of the engine")
    parser.add_argument("--lora", choices=["merged", "adapter"], help="train adapters, and publish them so")
    arguments = parser.parse_args()
    configs = {
        dtype: make_config(arguments.model, dtype, parts=arguments.parts, publish=arguments.lora)
        for dtype in arguments.dtypes
    }
    ray_cluster.start_ray(next(iter(configs.values())), address=None, namespace=NAMESPACE)
    result: dict[str, Any] = {"machine": machine(), "sampling": not arguments.idle}
    result |= {"parts": arguments.parts, "lora": arguments.lora}
    for dtype, config in configs.items():
        result[dtype] = asyncio.run(measure(config, arguments.rounds, idle=arguments.idle))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
