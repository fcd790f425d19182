"""The rollout worker: a Ray actor around one engine.

It takes leases (`submit`) and hands back finished pieces of groups (`collect`, a long poll that is also its
sign of life). It only ever *returns* values, whose owner is the caller: an object it had put into the store
itself would die with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from actors.arrow_forms import samples_to_batch
from actors.config import RolloutConfig
from actors.engine import Engine, EngineLoad
from actors.heap import no_collection
from actors.tokens import decode, load_tokenizer, stop_token_ids
from actors.types import GroupFacts, Lease, Piece, SampleGroup
from actors.weights.manifest import WeightManifest

SWITCH_INTERVAL_S = 0.0005
FILL_WINDOW_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """What a rollout worker tells of itself with every reply; times in seconds since its start."""

    version: int
    groups_in_flight: int
    """Groups, or pieces of them."""
    num_leased: int
    """Sequences since its start, whatever became of them."""
    num_unfinished: int
    """Sequences that are sampled, or wait for it."""
    capacity: float
    """Sequences like those of the last FILL_WINDOW_S seconds or more whose KV the engine can hold at a time; at most
    rollout.max_num_seqs.
    """
    num_sequences: int
    num_tokens: int
    num_reprefilled_tokens: int
    """Computed again because an update had dropped their KV."""
    busy_s: float
    idle_s: float
    updating_s: float
    running_s: float
    """Summed over sequences: how long each was being decoded."""
    fill: float
    """Sequences decoded at a time over rollout.max_num_seqs, over the last FILL_WINDOW_S seconds or more."""
    resident_bytes: int
    load: EngineLoad


@ray.remote(max_restarts=0)
class RolloutWorker:
    def __init__(self, name: str, model: str, config: RolloutConfig) -> None:
        # The stepping thread holds the GIL; at Python's default of 5 ms each message waits its turn twice.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._name = name
        self._model = model
        self._config = config
        self._is_up = False
        self._in_flight: dict[Piece, Future[list[Any]]] = {}
        self._finished: list[Lease] = []
        self._news = asyncio.Event()
        self._num_leased = 0
        self._num_sequences = 0
        self._num_tokens = 0
        self._fill = 0.0
        self._capacity = float(config.max_num_seqs)
        self._window_from = time.monotonic(), 0.0, 0.0

    async def place(self) -> dict[str, Any]:
        """Pid and node, as soon as this process is up."""
        node_id, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        return {"pid": os.getpid(), "node_id": node_id, "address": address}

    async def ready(self) -> dict[str, Any]:
        """Version and fingerprint, once the engine is up; the first call, before all others, builds it.

        Not the constructor: Ray answers nothing before its end, so that an engine that starts could not be
        told from a worker for which no node has room.
        """
        if not self._is_up:
            with no_collection():
                self._tokenizer = load_tokenizer(self._model)
            stop = stop_token_ids(self._model, self._tokenizer, self._config.chat)
            self._engine = Engine(self._model, self._config, stop_token_ids=stop)
            self._is_up = True
        fingerprint = await asyncio.wrap_future(self._engine.fingerprint())
        return {"version": self._engine.version, "fingerprint": fingerprint}

    async def submit(self, leases: Sequence[Lease]) -> None:
        """Start sampling; returns at once. A lease already in flight is not started twice."""
        loop = asyncio.get_running_loop()
        self._num_leased += sum(lease.piece.num_samples for lease in leases)
        fresh = [lease for lease in leases if lease.piece not in self._in_flight]
        for lease, future in zip(fresh, self._engine.sample(fresh), strict=True):
            self._in_flight[lease.piece] = future
            future.add_done_callback(
                lambda _, lease=lease: loop.call_soon_threadsafe(self._note_finished, lease)  # type: ignore[misc]
            )

    @ray.method(num_returns=2)
    async def collect(
        self, max_wait_s: float
    ) -> tuple[tuple[list[GroupFacts], RolloutFacts], pa.RecordBatch]:
        """Pieces finished since the last call, waiting at most `max_wait_s` for the first.

        Two objects: their facts and the worker's own; and the pieces, a row each in the same order (SAMPLE_SCHEMA),
        which stay on this node until somebody asks for them. Raises RuntimeError once the engine has failed.
        """
        self._engine.raise_if_failed()
        if not self._finished:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max_wait_s):
                    await self._news.wait()
        self._news.clear()
        finished, self._finished = self._finished, []
        groups = [self._to_group(lease, self._in_flight.pop(lease.piece).result()) for lease in finished]
        self._num_sequences += sum(group.num_samples for group in groups)
        self._num_tokens += sum(len(group.token_ids) for group in groups)
        facts = [
            GroupFacts.of(group, lease.piece.start) for lease, group in zip(finished, groups, strict=True)
        ]
        return (facts, self._facts()), samples_to_batch(groups)

    async def pull(self, *buckets: np.ndarray) -> None:
        """Ray has brought the buckets to this node before it calls: that is all."""

    async def update_weights(
        self, version: int, manifest: WeightManifest, *buckets: np.ndarray
    ) -> dict[str, Any]:
        """Load a published version. Ray has pulled the buckets to this node before the call starts."""
        fingerprint = await asyncio.wrap_future(self._engine.update_weights(version, manifest, buckets))
        return {"version": version, "fingerprint": fingerprint, "times": self._engine.last_update}

    def _note_finished(self, lease: Lease) -> None:
        self._finished.append(lease)
        self._news.set()

    def _facts(self) -> RolloutFacts:
        clock = self._engine.clock
        since_s, running_s, cache_s = self._window_from
        window_s = time.monotonic() - since_s
        if window_s >= FILL_WINDOW_S:
            most = self._config.max_num_seqs
            running_s, cache_s = clock.running_s - running_s, clock.cache_s - cache_s
            self._fill = running_s / (window_s * most)
            # Of what it holds, whatever its layers keep of a sequence, half grown and sharing prompts as they are.
            self._capacity = min(most, running_s / cache_s) if cache_s > 0 else most
            self._window_from = time.monotonic(), clock.running_s, clock.cache_s
        return RolloutFacts(
            version=self._engine.version,
            groups_in_flight=len(self._in_flight),
            num_leased=self._num_leased,
            num_unfinished=self._engine.num_unfinished,
            capacity=self._capacity,
            num_sequences=self._num_sequences,
            num_tokens=self._num_tokens,
            num_reprefilled_tokens=self._engine.num_reprefilled_tokens,
            busy_s=clock.busy_s,
            idle_s=clock.idle_s,
            updating_s=clock.updating_s,
            running_s=clock.running_s,
            fill=self._fill,
            resident_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            load=self._engine.load,
        )

    def _to_group(self, lease: Lease, completions: Sequence[Any]) -> SampleGroup:
        token_ids = [list(completion.token_ids) for completion in completions]
        offsets = np.zeros(len(token_ids) + 1, np.int32)
        np.cumsum([len(ids) for ids in token_ids], out=offsets[1:])
        versions = np.full(offsets[-1], -1, np.int32)
        for start, completion in zip(offsets, completions, strict=False):
            for span in completion.weight_versions:
                versions[start + span.start : start + span.end] = int(span.version)
        return SampleGroup(
            group=lease.piece.group,
            problem_id=lease.problem_id,
            workers=(self._name,) * len(completions),
            seed=lease.seed + lease.piece.start,
            prompt_token_ids=np.array(lease.prompt_token_ids, np.int32),
            offsets=offsets,
            token_ids=np.concatenate(token_ids).astype(np.int32),
            logprobs=np.concatenate([completion.logprobs.logprobs for completion in completions]).astype(
                np.float32
            ),
            versions=versions,
            texts=tuple(decode(self._tokenizer, token_ids)),
            finish_reasons=tuple(completion.finish_reason for completion in completions),
        )
