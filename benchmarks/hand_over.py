"""Groups a second from rollout workers through verifiers to the learner, and what of it the controller's process does.

    python -m benchmarks.hand_over [--rollouts 2] [--samples 16] [--tokens 512]

Real are the actors, Ray's object store, the fleet of verifiers with its child processes, and how the learner fetches groups.
Engine, policy and ledger are none: a rollout worker hands out the same random tokens under new numbers as soon as it is
asked, and the learner drops what it has fetched. Seconds and CPU seconds are those of this process, which is in the
controller's place, on one node, after the first tenth of the groups.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any, cast

from benchmarks.demo_run import NAMESPACE, machine
from benchmarks.random_samples import random_samples
from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.fleet import ray_cluster

GROUPS_PER_COLLECT = 4
GROUPS_PER_STEP = 16
IN_FLIGHT = 64
"""Groups that are sampled and not yet fetched, at most, of all workers together."""


def make_actors(num_rollouts: int, samples: int, tokens: int) -> tuple[list[Any], Any]:
    """Rollout workers without an engine, and a learner without a policy."""
    import ray

    @ray.remote(num_cpus=0)
    class Rollout:
        def __init__(self, name: str, number: int) -> None:
            import dataclasses

            made = random_samples(number, samples=samples, prompt=128, completion=tokens, vocabulary=30_000)
            self._group = dataclasses.replace(
                made, workers=(name,) * samples, problem_id="p", texts=("word " * tokens,) * samples
            )
            self._next = number * 10**9

        @ray.method(num_returns=2)
        def collect(self, num_groups: int) -> Any:
            import dataclasses

            from actors.arrow_forms import samples_to_batch
            from actors.types import GroupFacts

            groups = [dataclasses.replace(self._group, group=self._next + i) for i in range(num_groups)]
            self._next += num_groups
            return [GroupFacts.of(group) for group in groups], samples_to_batch(groups)

    @ray.remote(num_cpus=0)
    class Learner:
        def fetch(self, judgements: Any, *batches: Any) -> int:
            from actors.arrow_forms import scored_from_judgements

            return sum(len(group.samples.token_ids) for group in scored_from_judgements(judgements, batches))

    rollout, learner = cast(Any, Rollout), cast(Any, Learner)
    return [rollout.remote(f"rollout-{number}", number) for number in range(num_rollouts)], learner.remote()


async def measure(config: RunConfig, rollouts: list[Any], learner: Any, num_groups: int) -> dict[str, float]:
    """Rates over all groups but the first tenth."""
    from cluster.fleet.learning import LearnerHandle
    from cluster.fleet.stored import JudgedGroup, StoredGroup, StoredPiece
    from cluster.fleet.verifying import VerifierFleet
    from verifiers.types import Problem

    handle = LearnerHandle(config)
    handle._ranks.actors = [learner]
    judged: asyncio.Queue[JudgedGroup] = asyncio.Queue()
    room = asyncio.Semaphore(IN_FLIGHT // GROUPS_PER_COLLECT)
    problem = Problem(id="p", prompt="", truth={"numbers": [1, 2], "target": 3})

    def fail(*what: Any) -> None:
        raise RuntimeError(f"this is not to happen here: {what}")

    verifying = VerifierFleet(
        config=config.verifier,
        problems={"p": problem},
        on_judged=judged.put_nowait,
        on_unjudged=fail,
        on_gone=fail,
        on_lost=fail,
    )

    async def roll_out(worker: Any) -> None:
        while True:
            await room.acquire()
            about, batch = worker.collect.remote(GROUPS_PER_COLLECT)
            for row, facts in enumerate(await about):
                verifying.put(StoredGroup.of([StoredPiece(facts=facts, batch=batch, row=row)]))

    verifying.start()
    while not verifying.working:
        await asyncio.sleep(0.1)
    tasks = [asyncio.create_task(roll_out(worker)) for worker in rollouts]
    num_fetched = 0
    begun: tuple[int, float, float] | None = None
    while num_fetched < num_groups:
        await handle.fetch([await judged.get() for _ in range(GROUPS_PER_STEP)])
        num_fetched += GROUPS_PER_STEP
        for _ in range(GROUPS_PER_STEP // GROUPS_PER_COLLECT):
            room.release()
        if begun is None and num_fetched >= num_groups / 10:
            begun = num_fetched, time.perf_counter(), time.process_time()
    assert begun is not None
    counted, seconds, cpu_s = (
        now - then
        for now, then in zip((num_fetched, time.perf_counter(), time.process_time()), begun, strict=True)
    )
    for task in tasks:
        task.cancel()
    await verifying.stop()
    return {
        "groups_per_s": counted / seconds,
        "controller_cpu_ms_per_group": 1e3 * cpu_s / counted,
        "controller_cpu_share": cpu_s / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=2)
    parser.add_argument("--verifiers", type=int, default=1)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--groups", type=int, default=2000)
    arguments = parser.parse_args()
    config = parse_config(
        {
            "model": "none",
            "problems": {"source": "countdown"},
            "verifier": {"reward": "countdown", "workers": arguments.verifiers, "num_cpus": 0},
            "rollout": {"num_cpus": 0},
            "learner": {"num_cpus": 0},
        }
    )
    ray_cluster.start_ray(config, address=None, namespace=NAMESPACE, publishes=False)
    rollouts, learner = make_actors(arguments.rollouts, arguments.samples, arguments.tokens)
    seen = asyncio.run(measure(config, rollouts, learner, arguments.groups))
    print(json.dumps({"machine": machine(), **vars(arguments), **seen}, indent=1))


if __name__ == "__main__":
    main()
