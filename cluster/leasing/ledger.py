"""Who has which group: every group of the run is trained exactly once, whatever dies.

A group is a place in the run's order of prompts: group g asks problem `order(g // P)[g % P]`, where
`order(e)` is the seeded permutation of the P problems in epoch e; where that problem is set aside, the next one in the
order that is not. It goes

    pending ──lease──▶ leased ──receive, commit──▶ buffered ──(begin)──train──▶ trained
       ▲                  │                            │
       └─────release──────┴───────────discard──────────┘

and no group is in two places. A buffered group is begun when the learner passes over it while the rest of its batch is
still to come: it is trained with the next batch. A lease is held by a worker until its samples are received, then by
the controller until they are judged. A worker that has fallen silent may still deliver what it had as long as nobody else
has leased it. What is on record is what a checkpoint needs: everything that is not
trained is pending again after a restart, since its samples died with the run or may be stale.

Whatever happens to a group costs O(log n), whoever asks for a worker's leases pays for those alone, and how many groups
are leased or buffered under each version is counted along: with a thousand workers these are asked for every group.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

CONTROLLER = "controller"


@dataclass(slots=True)
class LeaseRecord:
    """Who samples a group, since when (seconds on the caller's clock), under which version or newer."""

    worker: str
    version: int
    since_s: float


class Ledger:
    """Pure bookkeeping; the caller brings the clock. All methods raise KeyError on an unknown group."""

    def __init__(self, *, num_problems: int, num_groups: int, seed: int) -> None:
        self.num_problems = num_problems
        self.num_groups = num_groups
        self.seed = seed
        self.leased: dict[int, LeaseRecord] = {}
        self.buffered: dict[int, int] = {}
        """Group to the version its lease was given under."""
        self.begun: dict[int, int] = {}
        """Likewise; no longer in `buffered`."""
        self.num_leased_by_version: Counter[int] = Counter()
        self.num_buffered_by_version: Counter[int] = Counter()
        self._held: dict[str, dict[int, None]] = {}
        """Groups leased to each holder, in the order in which it got them."""
        self._doubted: dict[int, LeaseRecord] = {}
        """Of pending groups: the lease of a silent worker, from which the samples may come after all."""
        self._returned: list[int] = []
        """A heap of pending groups that were leased before; those that came after all are in it still."""
        self._came_after_all: set[int] = set()
        self._next = 0
        self._trained_below = 0
        self._trained_above: set[int] = set()
        self._orders: dict[int, np.ndarray] = {}
        self.set_aside: set[int] = set()
        """Problems that no group leased from now on asks, by index; never all of them."""
        self._substitutes: dict[int, int] = {}
        """Of groups whose own problem was set aside: the problem that they ask instead."""

    def problem_index(self, group: int) -> int:
        """Which problem group `group` asks, or asked if it is trained."""
        epoch, position = divmod(group, self.num_problems)
        if epoch not in self._orders:
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.num_problems)
        order = self._orders[epoch]
        index = int(self._substitutes.get(group, order[position]))
        if index in self.set_aside and not self._is_trained(group):
            following = (
                int(order[(position + step) % self.num_problems]) for step in range(self.num_problems)
            )
            index = self._substitutes[group] = next(i for i in following if i not in self.set_aside)
        return index

    def trained_problems(self) -> set[int]:
        """Indices of all problems that a trained group asked."""
        return {self.problem_index(group) for group in (*range(self._trained_below), *self._trained_above)}

    @property
    def earliest_returned(self) -> int | None:
        """The earliest pending group that was leased before; None where there is none."""
        while self._returned and self._returned[0] in self._came_after_all:
            self._came_after_all.remove(heapq.heappop(self._returned))
        return self._returned[0] if self._returned else None

    @property
    def num_trained(self) -> int:
        return self._trained_below + len(self._trained_above)

    @property
    def num_outstanding(self) -> int:
        """Groups leased or buffered, begun or not: sampled, or being sampled, and not yet trained."""
        return len(self.leased) + len(self.buffered) + len(self.begun)

    @property
    def counts(self) -> dict[str, int]:
        """Groups by state; those begun are buffered."""
        counts = {
            "leased": len(self.leased),
            "buffered": len(self.buffered) + len(self.begun),
            "trained": self.num_trained,
        }
        return {**counts, "pending": self.num_groups - sum(counts.values())}

    def lease(self, worker: str, *, version: int, now_s: float) -> int | None:
        """The earliest pending group, now leased to `worker`; None when none is pending."""
        if self.earliest_returned is not None:
            group = heapq.heappop(self._returned)
            self._doubted.pop(group, None)
        elif self._next < self.num_groups:
            group, self._next = self._next, self._next + 1
        else:
            return None
        self._hold(group, LeaseRecord(worker, version, now_s))
        return group

    def receive(self, group: int, worker: str, *, version: int | None = None) -> bool:
        """The controller now holds the group's samples. False, and nothing changes, unless `worker` held
        the lease: so a result that comes twice, or late from a worker given up for dead, is not counted.

        `version`: the oldest that sampled it, which is older than its lease's where a worker that was silent began it
        under an earlier lease.
        """
        record = self.leased.get(group, self._doubted.get(group))
        if record is None or record.worker != worker:
            return False
        if self._doubted.pop(group, None):
            self._came_after_all.add(group)
        else:
            self._let_go(group)
        oldest = record.version if version is None else min(record.version, version)
        self._hold(group, LeaseRecord(CONTROLLER, oldest, record.since_s))
        return True

    def doubt(self, worker: str) -> None:
        """The worker has fallen silent: its groups are pending again, and it may deliver them as long as they are."""
        for group in self.leases_of(worker):
            record = self.leased[group]
            self.release([group])
            self._doubted[group] = record

    def commit(self, group: int) -> bool:
        """Accept the verdicts of a received group. False, and nothing changes, for any other."""
        record = self.leased.get(group)
        if record is None or record.worker != CONTROLLER:
            return False
        self._let_go(group)
        self.buffered[group] = record.version
        self.num_buffered_by_version[record.version] += 1
        return True

    def release(self, groups: Iterable[int]) -> None:
        """Leased groups that will not come back are pending again, in their old place."""
        for group in groups:
            self._let_go(group)
            self._return(group)

    def discard(self, group: int) -> None:
        """A buffered group that must not be trained (too stale) is pending again."""
        self._take_from_buffer(group)
        self._return(group)

    def begin(self, groups: Iterable[int]) -> None:
        """Buffered groups that the next batch has from now on."""
        for group in groups:
            self.begun[group] = self._take_from_buffer(group)

    def train(self, groups: Iterable[int]) -> None:
        """Buffered groups, begun or not, have been trained on, once and for all."""
        for group in groups:
            if self.begun.pop(group, None) is None:
                self._take_from_buffer(group)
            self._trained_above.add(group)
        while self._trained_below in self._trained_above:
            self._trained_above.remove(self._trained_below)
            self._trained_below += 1

    def forget(self, worker: str) -> None:
        """The worker is gone: what it had is pending again, and nothing of it will come."""
        self.release(self.leases_of(worker))
        self._doubted = {group: record for group, record in self._doubted.items() if record.worker != worker}

    def leases_of(self, worker: str) -> list[int]:
        return list(self._held.get(worker, ()))

    def num_leases_of(self, worker: str) -> int:
        return len(self._held.get(worker, ()))

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps; leased, buffered and begun groups are pending in it."""
        return {
            "num_problems": self.num_problems,
            "num_groups": self.num_groups,
            "seed": self.seed,
            "trained_below": self._trained_below,
            "trained_above": sorted(self._trained_above),
            "set_aside": sorted(self.set_aside),
            "substitutes": sorted([group, index] for group, index in self._substitutes.items()),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, num_groups: int | None = None) -> Ledger:
        """Restore; `num_groups` prolongs or shortens the run (not below what is trained)."""
        ledger = cls(
            num_problems=record["num_problems"],
            num_groups=record["num_groups"] if num_groups is None else num_groups,
            seed=record["seed"],
        )
        ledger._trained_below = record["trained_below"]
        ledger._trained_above = set(record["trained_above"])
        ledger.set_aside = set(record.get("set_aside", ()))
        ledger._substitutes = dict(record.get("substitutes", ()))
        first_unseen = max(ledger._trained_above, default=ledger._trained_below - 1) + 1
        if first_unseen > ledger.num_groups:
            raise ValueError(
                f"the checkpoint has trained group {first_unseen - 1}, the run now ends at group "
                f"{ledger.num_groups - 1}: raise train.steps"
            )
        ledger._next = first_unseen
        ledger._returned = [
            g for g in range(ledger._trained_below, first_unseen) if not ledger._is_trained(g)
        ]
        return ledger

    def _hold(self, group: int, record: LeaseRecord) -> None:
        self.leased[group] = record
        self._held.setdefault(record.worker, {})[group] = None
        self.num_leased_by_version[record.version] += 1

    def _let_go(self, group: int) -> LeaseRecord:
        record = self.leased.pop(group)
        held = self._held[record.worker]
        del held[group]
        if not held:
            del self._held[record.worker]
        _subtract(self.num_leased_by_version, record.version)
        return record

    def _take_from_buffer(self, group: int) -> int:
        version = self.buffered.pop(group)
        _subtract(self.num_buffered_by_version, version)
        return version

    def _return(self, group: int) -> None:
        if group in self._came_after_all:  # it is in the heap already
            self._came_after_all.remove(group)
        else:
            heapq.heappush(self._returned, group)

    def _is_trained(self, group: int) -> bool:
        return group < self._trained_below or group in self._trained_above


def _subtract(counts: Counter[int], version: int) -> None:
    """One less; a version with none is no longer counted."""
    counts[version] -= 1
    if not counts[version]:
        del counts[version]
