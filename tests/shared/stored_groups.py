"""Groups by reference, for tests that begin with the groups themselves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ObjectLostError

from actors.arrow_forms import samples_to_batch
from actors.types import GroupFacts, Judgement, ScoredGroup
from cluster.fleet.stored import JudgedGroup, StoredGroup, StoredPiece, store


class Nowhere:
    """A reference to an object that nobody reads."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    def hex(self) -> str:
        return self._name


def judgement_of(group: ScoredGroup) -> Judgement:
    return Judgement(**{field.name: getattr(group, field.name) for field in fields(Judgement)})


def referred(group: ScoredGroup, batch: Any = None) -> JudgedGroup:
    """A group without its samples, which would be in row 0 of `batch`."""
    piece = StoredPiece(facts=GroupFacts.of(group.samples), batch=batch or Nowhere(), row=0)
    stored = StoredGroup.of([piece])
    return JudgedGroup(stored=stored, judgement=judgement_of(group))


def in_store(groups: Sequence[ScoredGroup]) -> list[JudgedGroup]:
    """Groups whose samples are one object of this process's Ray cluster."""
    stored = store([group.samples for group in groups])
    return [
        JudgedGroup(stored=one, judgement=judgement_of(group))
        for one, group in zip(stored, groups, strict=True)
    ]


def moved(group: StoredGroup, batch: Any) -> StoredGroup:
    """The undivided group with its samples in the same row of another batch."""
    (piece,) = group.pieces
    return StoredGroup.of([replace(piece, batch=batch)])


@ray.remote(num_cpus=0, max_restarts=0)
class Owner:
    """Puts a batch into the store by itself, as no worker of ours does: it is lost with this process."""

    def put(self, batch: pa.RecordBatch) -> list[Any]:
        return [ray.put(batch)]

    def read(self, batch: pa.RecordBatch) -> None:
        """Returns if the batch is there."""


def lost_from_store(groups: Sequence[ScoredGroup]) -> list[JudgedGroup]:
    """Groups whose samples were one object of this process's Ray cluster, and are gone."""
    owner, reader = (Owner.remote() for _ in range(2))  # type: ignore[attr-defined]
    (batch,) = ray.get(owner.put.remote(samples_to_batch([group.samples for group in groups])), timeout=60)
    ray.kill(owner)
    deadline_s = time.monotonic() + 60
    with contextlib.suppress(ObjectLostError):
        while time.monotonic() < deadline_s:  # its store hears of the death a little later
            ray.get(reader.read.remote(batch), timeout=60)
            time.sleep(0.1)
    ray.kill(reader)
    return [JudgedGroup(stored=moved(one.stored, batch), judgement=one.judgement) for one in in_store(groups)]
