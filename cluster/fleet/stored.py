"""Groups by reference: what the controller holds of samples that lie in the object stores of the cluster.

The controller owns the objects, since they are return values of its calls: they outlive the worker that sampled them. They
go with the node on which they lie; then the groups are sampled again. An object below 100 KB Ray keeps in its owner's
memory instead, as bytes that nobody reads there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import ray
from ray import ObjectRef

from actors.arrow_forms import Place, samples_of_row, samples_to_batch
from actors.types import GroupFacts, Judgement, SampleGroup, joined


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredPiece:
    """Samples of a group, or some of them, in a row of a stored batch (SAMPLE_SCHEMA). The batch stays as long as one of its
    pieces is referred to.
    """

    facts: GroupFacts
    batch: ObjectRef
    row: int
    since_s: float = field(default_factory=time.monotonic)
    """When it was there, by the monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredGroup:
    """All samples of one group, which may be in several batches."""

    facts: GroupFacts
    pieces: tuple[StoredPiece, ...]
    """In the order of their samples."""

    @classmethod
    def of(cls, pieces: Iterable[StoredPiece]) -> StoredGroup:
        ordered = tuple(sorted(pieces, key=lambda one: one.facts.piece))
        return cls(facts=GroupFacts.joined([one.facts for one in ordered]), pieces=ordered)

    @property
    def since_s(self) -> float:
        """When its first piece was there."""
        return min(piece.since_s for piece in self.pieces)

    def is_in(self, object_id: str | None) -> bool:
        """Whether some of it is in this object, as Ray's errors name it."""
        return any(piece.batch.hex() == object_id for piece in self.pieces)


class Assembly:
    """Pieces that have been received, until all of their group are."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[StoredPiece]] = {}

    def add(self, piece: StoredPiece) -> None:
        self._pieces.setdefault(piece.facts.group, []).append(piece)

    def take(self, group: int) -> StoredGroup:
        """The group of all that has been added of it."""
        return StoredGroup.of(self._pieces.pop(group))


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
    return [
        StoredGroup.of([StoredPiece(facts=GroupFacts.of(group), batch=batch, row=row)])
        for row, group in enumerate(groups)
    ]


def read(group: StoredGroup) -> SampleGroup:
    """Its samples, brought into this process. Raises ObjectLostError."""
    return joined([samples_of_row(ray.get(piece.batch), piece.row) for piece in group.pieces])


def distinct_batches(groups: Sequence[StoredGroup]) -> tuple[list[ObjectRef], list[tuple[Place, ...]]]:
    """Each batch once, and the places in them of each group's pieces."""
    numbers: dict[ObjectRef, int] = {}
    places = [
        tuple((numbers.setdefault(piece.batch, len(numbers)), piece.row) for piece in group.pieces)
        for group in groups
    ]
    return list(numbers), places
