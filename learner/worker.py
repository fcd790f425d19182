"""The learner as a Ray actor: all of it, or one rank of a gang.

It only ever *returns* values. The caller owns them, weights included: a bucket the learner had put
into the store itself would die with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from actors.arrow_forms import scored_from_judgements
from actors.heap import made_to_stay, no_collection, return_large_blocks
from actors.types import ScoredGroup
from actors.weights.manifest import WeightManifest
from learner.config import LearnerConfig
from learner.objectives.config import ObjectiveConfig
from learner.types import Packing

PATIENCE_S = 5.0
"""Until a file of another machine is there on a shared file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerFacts:
    """What a learner tells of itself once it is up."""

    pid: int
    node_id: str
    manifest: WeightManifest
    packing: Packing


class Rank:
    """A process that trains a model: alone, or with others, which it then finds before it makes its learner.

    Rank 0 opens a store, all `join` it, and from then on every call is made on all of them.
    """

    def __init__(self, config: LearnerConfig, rank: int, make: Callable[..., Any]) -> None:
        """`make`: the learner, given its gang."""
        import torch

        return_large_blocks()
        torch.set_num_threads(max(1, int(config.num_cpus)))
        self._config = config
        self._rank = rank
        self._make = make
        self._store: Any = None
        self._learner: Any = None
        if config.ranks == 1:
            with no_collection():
                self._learner = make()

    def open_store(self, timeout_s: float) -> tuple[str, int]:
        """Address and port at which the ranks meet."""
        from learner.gang import open_store

        address = ray.util.get_node_ip_address()
        self._store = open_store(address, self._config.ranks, timeout_s)
        return address, self._store.port

    def join(self, store_address: str, store_port: int, timeout_s: float) -> None:
        """Become a rank of the gang; `timeout_s` bounds each of its collectives from now on."""
        from learner.gang import connect_store, join

        if self._store is None:
            self._store = connect_store(store_address, store_port, self._config.ranks, timeout_s)
        gang = join(
            self._store,
            rank=self._rank,
            size=self._config.ranks,
            address=ray.util.get_node_ip_address(),
            device="cuda" if self._config.num_gpus > 0 else "cpu",
            timeout_s=timeout_s,
        )
        with no_collection():
            self._learner = self._make(gang=gang)

    def ping(self) -> None:
        """Answers while another thread of the actor trains."""

    def sees(self, path: str, words: str) -> str | None:
        """None where the file is there, with these words; the address of this node where it is not, or not soon."""
        given_up_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < given_up_s:
            with suppress(OSError):
                if Path(path).read_text() == words:
                    return None
            time.sleep(0.1)
        return ray.util.get_node_ip_address()

    def save(self, directory: str) -> None:
        self._learner.save(directory)


@ray.remote(max_restarts=0)
class LearnerWorker(Rank):
    """Calls that hand out weights return `1 + len(manifest.bucket_sizes)` values: facts, then buckets.

    Call them with `.options(num_returns=...)`, so that each bucket is an object of its own. Of a gang, ranks other than 0
    return facts and no bucket.
    """

    def __init__(
        self,
        model: str,
        config: LearnerConfig,
        objective: ObjectiveConfig,
        temperature: float,
        seed: int,
        version: int = 0,
        rank: int = 0,
        engines_keep_kv: bool = False,
        base_scores: str | None = None,
    ) -> None:
        with made_to_stay():
            from learner.learner import Learner

        self._fetched: dict[int, ScoredGroup] = {}
        make = partial(
            Learner,
            model,
            config,
            objective,
            temperature,
            seed,
            version,
            engines_keep_kv=engines_keep_kv,
            base_scores=base_scores,
        )
        super().__init__(config, rank, make)

    def ready(self) -> LearnerFacts:
        return LearnerFacts(
            pid=os.getpid(),
            node_id=ray.get_runtime_context().get_node_id(),
            manifest=self._learner.manifest,
            packing=self._learner.packing,
        )

    def fetch(self, judgements: pa.RecordBatch, *batches: pa.RecordBatch) -> None:
        """Have groups at hand for the passes that follow, in place of those that were fetched before.

        `judgements`: verdicts (JUDGEMENT_SCHEMA) on rows of `batches`, which Ray has brought to this node before the call
        starts. From here on this process keeps them there, whatever becomes of the node they came from.
        """
        self._fetched = {group.samples.group: group for group in scored_from_judgements(judgements, batches)}

    def begin_step(self, numbers: list[int], num_groups: int) -> None:
        """Pass over fetched groups, some of the `num_groups` of the next step."""
        self._learner.begin_step(self._take(numbers), num_groups)

    def train_step(self, numbers: list[int]) -> tuple[Any, ...]:
        """(StepResult, *buckets of the new version), of these fetched groups and those the step was begun with."""
        result = self._learner.train_step(self._take(numbers))
        return result, *self._learner.published.buckets

    def write_trajectories(self, path: str) -> None:
        """The groups of the newest step as a file. Raises OSError."""
        self._learner.write_trajectories(path)

    def publish(self) -> tuple[Any, ...]:
        """({"version", "fingerprint"}, *buckets of the current version)."""
        published = self._learner.published
        return {"version": published.version, "fingerprint": published.fingerprint}, *published.buckets

    def load(self, directory: str) -> int:
        """Resume; returns the version."""
        self._learner.load(directory)
        return self._learner.version

    def _take(self, numbers: list[int]) -> list[ScoredGroup]:
        return [self._fetched.pop(number) for number in numbers]
