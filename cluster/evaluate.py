"""Best-of-N evaluation: sample every problem n times with the same workers that training uses."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from actors.manifest import WeightManifest
from actors.types import Lease, SampleGroup, ScoredGroup, scored_to_batch
from cluster.calls import Halt, WorkerLost
from cluster.config import RunConfig
from cluster.ledger import Ledger
from cluster.rollouts import Published, RolloutFleet
from cluster.verifying import VerifierFleet
from verifiers.types import Problem

NOTHING_PUBLISHED = Published(
    version=0, fingerprint=None, manifest=WeightManifest(entries=(), bucket_sizes=()), buckets=()
)


async def evaluate(
    model: str,
    config: RunConfig,
    problems: Sequence[Problem],
    prompts: Sequence[tuple[int, ...]],
    *,
    on_progress: Callable[[int, int], None],
) -> list[ScoredGroup]:
    """One scored group of `evaluation.samples_per_problem` samples for each problem, in their order.

    `on_progress(done, total)` counts groups. Needs a Ray cluster. Raises Halt when workers keep failing.
    """
    assert config.evaluation is not None
    num_samples, seed = config.evaluation.samples_per_problem, config.evaluation.seed
    rollout = config.rollout.model_copy(update={"samples_per_prompt": num_samples})
    ledger = Ledger(num_problems=len(problems), num_groups=len(problems), seed=seed)
    scored: dict[int, ScoredGroup] = {}
    finished = asyncio.Event()
    failures = 0
    unjudged: Counter[int] = Counter()

    def fail(message: str) -> None:
        nonlocal failures
        failures += 1
        if failures >= config.train.max_consecutive_failures:
            raise Halt(f"evaluation of {model}: {failures} failures in a row; the last: {message}")

    def receive(groups: list[SampleGroup]) -> None:
        for group in groups:
            if ledger.receive(group.group, group.worker):
                verifying.put(group)

    def accept(group: ScoredGroup) -> None:
        nonlocal failures
        if ledger.commit(group.samples.group):
            failures = 0
            scored[group.samples.group] = group
            on_progress(len(scored), len(problems))
            if len(scored) == len(problems):
                finished.set()

    def give_back(group: SampleGroup, error: str) -> None:
        ledger.release([group.group])
        unjudged[group.group] += 1
        if unjudged[group.group] >= config.train.max_consecutive_failures:
            raise Halt(f"verifier {config.verifier.name!r} fails on problem {group.problem_id}: {error}")
        fail(f"verifier {config.verifier.name!r} on problem {group.problem_id}: {error}")

    def note_lost(role: str, error: WorkerLost) -> None:
        fail(str(error))

    def make_lease(group: int) -> Lease:
        index = ledger.problem_index(group)
        return Lease(
            group=group,
            problem_id=problems[index].id,
            prompt_token_ids=prompts[index],
            seed=(seed << 32) + index * num_samples,
        )

    verifying = VerifierFleet(
        config=config.verifier,
        problems={problem.id: problem for problem in problems},
        on_scored=accept,
        on_unjudged=give_back,
        on_lost=note_lost,
    )
    rollouts = RolloutFleet(
        config=rollout,
        model=model,
        model_version=NOTHING_PUBLISHED.version,
        ledger=ledger,
        synchronous=False,
        groups_per_step=len(problems),
        update_timeout_s=config.train.step_timeout_s,
        may_lease=lambda version: True,
        make_lease=make_lease,
        on_groups=receive,
        on_lost=note_lost,
    )
    rollouts.announce(NOTHING_PUBLISHED)
    tasks = [*verifying.start(), *rollouts.start()]
    waiting = asyncio.create_task(finished.wait())
    try:
        done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        waiting.cancel()
        await rollouts.stop()
        await verifying.stop()
    by_problem = {ledger.problem_index(group): scored[group] for group in scored}
    return [by_problem[index] for index in range(len(problems))]


def write_samples(groups: Sequence[ScoredGroup], path: Path) -> None:
    """Every sample with its verdict, a row per problem, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with pq.ParquetWriter(partial, scored_to_batch(groups[:1]).schema, compression="zstd") as writer:
        for start in range(0, len(groups), 64):
            writer.write_batch(scored_to_batch(groups[start : start + 64]))
    os.replace(partial, path)


def rewards_of(groups: Sequence[ScoredGroup]) -> np.ndarray:
    """float64 [P, n]."""
    return np.stack([group.rewards for group in groups])


class Throughput:
    """Groups done so far as a share, a rate and a time left, for a progress line."""

    def __init__(self, samples_per_group: int) -> None:
        self._samples_per_group = samples_per_group
        self._first_s: float | None = None

    def describe(self, done: int, total: int) -> str:
        now = time.monotonic()
        if self._first_s is None:
            self._first_s = now
        elapsed = now - self._first_s
        if done < 2 or elapsed <= 0:
            return f"{done}/{total} problems"
        rate = (done - 1) / elapsed
        left = (total - done) / rate
        return (
            f"{done}/{total} problems, {rate * self._samples_per_group:,.0f} sequences/s, {left:.0f} s left"
        )
