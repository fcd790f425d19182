"""Scored groups until they are trained: which of them the learner gets next, and what of a batch it may begin with while
the rest is still sampled. Knows no Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from actors.types import ScoredGroup
from cluster.config.schema import TrainConfig
from cluster.leasing import admission
from cluster.leasing.ledger import Ledger


@dataclass(slots=True)
class _Waiting:
    """A group, and when it came and was judged, in seconds of `time.perf_counter`."""

    received_s: float
    judged_s: float = 0.0
    scored: ScoredGroup | None = None


class Batches:
    """The groups of a run that the controller has, from their receipt on; the ledger says which state each is in.

    A batch has `groups_per_step` groups. Parts of it are given before it is complete, each of about the
    `parts_per_step`-th part of it.
    """

    def __init__(self, train: TrainConfig, ledger: Ledger) -> None:
        self._ledger = ledger
        self._bounds = {"groups_per_step": train.groups_per_step, "max_staleness": train.max_staleness}
        self._part_size = -(-train.groups_per_step // train.parts_per_step)
        self._is_synchronous = train.max_staleness == 0
        self._waiting: dict[int, _Waiting] = {}
        self.changed = asyncio.Event()
        """Set when there may be another part, a batch, or a reason to look; whoever waits for it clears it first."""

    def receive(self, number: int) -> None:
        """The group's samples have come; they are judged now."""
        self._waiting[number] = _Waiting(time.perf_counter())

    def add(self, group: ScoredGroup) -> None:
        """The group, received before, is judged."""
        waiting = self._waiting[group.samples.group]
        waiting.scored, waiting.judged_s = group, time.perf_counter()
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

    def next_part(self, version: int) -> list[ScoredGroup] | None:
        """Groups with which the learner at `version` may begin its next step now; they are in it from now on."""
        part = admission.next_part(self._ledger, version=version, size=self._part_size, **self._bounds)
        if part is None:
            return None
        self._ledger.begin(part)
        return self._scored(part)

    def cut(self, version: int) -> list[int] | None:
        """The numbers of the groups of the step after `version`, ascending, once all are there."""
        batch = admission.cut_batch(self._ledger, version=version, **self._bounds)
        return None if batch is None else sorted(batch)

    def rest(self, batch: Sequence[int]) -> list[list[ScoredGroup]]:
        """What the learner has not begun with of a batch, in parts of which the last ends the step.

        With synchronous training they are the same whenever the batch's groups came, so that sums of gradients are
        repeated to the last bit; else there is one.
        """
        rest = [number for number in batch if number not in self._ledger.begun]
        size = self._part_size if self._is_synchronous else len(rest)
        return [self._scored(rest[start : start + size]) for start in range(0, len(rest), size)]

    def groups(self, batch: Sequence[int]) -> list[ScoredGroup]:
        """All of a batch."""
        return self._scored(batch)

    def judging_s(self, batch: Sequence[int]) -> float:
        """Seconds in which all samples of a batch were there, and a verdict was not."""
        waiting = [self._waiting[number] for number in batch]
        return max(one.judged_s for one in waiting) - max(one.received_s for one in waiting)

    def _scored(self, numbers: Sequence[int]) -> list[ScoredGroup]:
        scored = [self._waiting[number].scored for number in numbers]
        assert all(group is not None for group in scored)
        return scored  # type: ignore[return-value]
