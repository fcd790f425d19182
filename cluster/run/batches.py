"""Judged groups until they are trained: which of them the learner gets next, and what of a batch it may begin with while
the rest is still sampled. They are references: the samples are elsewhere, and may be lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config.schema import TrainConfig
from cluster.fleet.stored import JudgedGroup
from cluster.leasing import admission
from cluster.leasing.ledger import Ledger


@dataclass(slots=True)
class _Waiting:
    """A group, and when it came and was judged, in seconds of `time.perf_counter`."""

    received_s: float
    judged_s: float = 0.0
    judged: JudgedGroup | None = None


class Batches:
    """The groups of a run that the controller has, from their receipt on; the ledger says which state each is in.

    A batch has `groups_per_step` groups. Parts of it are given before it is complete, each of about the
    `parts_per_step`-th part of it.
    """

    def __init__(self, train: TrainConfig, ledger: Ledger) -> None:
        self._ledger = ledger
        self.groups_per_step = train.groups_per_step
        self._bounds = {"groups_per_step": train.groups_per_step, "max_staleness": train.max_staleness}
        self._part_size = -(-train.groups_per_step // train.parts_per_step)
        self._is_synchronous = train.max_staleness == 0
        self._waiting: dict[int, _Waiting] = {}
        self.changed = asyncio.Event()
        """Set when there may be another part, a batch, or a reason to look; whoever waits for it clears it first."""

    def receive(self, number: int) -> None:
        """All of the group's samples have come; they are judged now."""
        self._waiting[number] = _Waiting(time.perf_counter())

    def add(self, group: JudgedGroup) -> None:
        """The group, received before, is judged."""
        waiting = self._waiting[group.stored.facts.group]
        waiting.judged, waiting.judged_s = group, time.perf_counter()
        self.changed.set()

    def forget(self, numbers: Sequence[int]) -> None:
        """Groups that are trained, or leased again."""
        for number in numbers:
            self._waiting.pop(number, None)

    def discard_stale(self, version: int) -> int:
        """Give back to the ledger what the learner at `version` may train no more; returns how many groups."""
        stale = admission.too_stale(self._ledger, version=version, **self._bounds)
        for number in stale:
            self._ledger.discard(number)
        self.forget(stale)
        return len(stale)

    def discard_lost(self, object_id: str) -> list[JudgedGroup]:
        """Give back to the ledger the groups whose samples were in an object that is gone, but for those begun, which the
        learner has passed over: it has what it needs of them. Returns them.
        """
        lost = [
            group
            for number in self._ledger.buffered
            for group in self.groups([number])
            if group.stored.is_in(object_id)
        ]
        for group in lost:
            self._ledger.discard(group.stored.facts.group)
            self.forget([group.stored.facts.group])
        return lost

    def next_part(self, version: int) -> list[int] | None:
        """Groups with which the learner at `version` may begin its next step now, by number; `begin` when it has."""
        return admission.next_part(self._ledger, version=version, size=self._part_size, **self._bounds)

    def begin(self, part: Sequence[int]) -> None:
        """The learner has passed over a part: it is in the next batch."""
        self._ledger.begin(part)

    def cut(self, version: int) -> list[int] | None:
        """The numbers of the groups of the step after `version`, ascending, once all are there."""
        batch = admission.cut_batch(self._ledger, version=version, **self._bounds)
        return None if batch is None else sorted(batch)

    def rest(self, batch: Sequence[int]) -> list[list[int]]:
        """What the learner has not begun with of a batch, in parts of which the last ends the step.

        With synchronous training they are the same whenever the batch's groups came, so that sums of gradients are
        repeated to the last bit; else there is one.
        """
        rest = [number for number in batch if number not in self._ledger.begun]
        size = self._part_size if self._is_synchronous else len(rest)
        return [rest[start : start + size] for start in range(0, len(rest), size)]

    def groups(self, numbers: Sequence[int]) -> list[JudgedGroup]:
        """Those that are judged, by number."""
        judged = [self._waiting[number].judged for number in numbers]
        assert all(group is not None for group in judged)
        return judged  # type: ignore[return-value]

    def judging_s(self, batch: Sequence[int]) -> float:
        """Seconds in which all samples of a batch were there, and a verdict was not."""
        waiting = [self._waiting[number] for number in batch]
        return max(one.judged_s for one in waiting) - max(one.received_s for one in waiting)
