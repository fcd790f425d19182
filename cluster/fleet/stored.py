"""Groups by reference: what the controller holds of samples that lie in the object stores of the cluster.

The controller owns the objects, since they are return values of its calls: they outlive the worker that sampled them. They
go with the node on which they lie; then the groups are sampled again. An object below 100 KB Ray keeps in its owner's
memory instead, as bytes that nobody reads there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import ray
from ray import ObjectRef

from actors.types import GroupFacts, Judgement, SampleGroup, samples_to_batch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredGroup:
    """Samples of one group, in a row of a stored batch (SAMPLE_SCHEMA). The batch stays as long as one of its groups is
    referred to.
    """

    facts: GroupFacts
    batch: ObjectRef
    row: int
    since_s: float = field(default_factory=time.monotonic)
    """When it was there, by the monotonic clock."""

    @property
    def object_id(self) -> str:
        """Of its batch, as Ray's errors name it."""
        return self.batch.hex()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgedGroup:
    """A group by reference, and its verdicts."""

    stored: StoredGroup
    judgement: Judgement


class SamplesLost(Exception):
    """A batch of samples is gone with the node that had it; the worker that was to read it is as it was."""

    def __init__(self, object_id: str) -> None:
        super().__init__(f"stored samples {object_id} are lost")
        self.object_id = object_id


def store(groups: Sequence[SampleGroup]) -> list[StoredGroup]:
    """Groups that this process has, as one object of its node's store."""
    batch = ray.put(samples_to_batch(groups))
    return [StoredGroup(facts=GroupFacts.of(group), batch=batch, row=row) for row, group in enumerate(groups)]


def distinct_batches(groups: Sequence[StoredGroup]) -> tuple[list[ObjectRef], list[int]]:
    """Each batch once, and which of them has each group."""
    places: dict[ObjectRef, int] = {}
    of_groups = [places.setdefault(group.batch, len(places)) for group in groups]
    return list(places), of_groups
