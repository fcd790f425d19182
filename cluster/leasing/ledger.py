"""Who has which group: every group of the run is trained exactly once, whatever dies.

A group is a place in the run's order of prompts: group g asks problem `order(g // P)[g % P]`, where
`order(e)` is the seeded permutation of the P problems in epoch e; where that problem is set aside, the next one in the
order that is not. It goes

    pending ──lease──▶ leased ──receive, commit──▶ buffered ──(begin)──train──▶ trained
       ▲                  │                            │
       └─────release──────┴───────────discard──────────┘

and no group is in two places. Its samples may be leased in pieces to several workers: it is leased as soon as one piece
is, and goes on when all are received. A buffered group is begun when the learner passes over it while the rest of its
batch is still to come: it is trained with the next batch. A piece is held by a worker until its samples are received,
then by the controller until the group is judged. A worker that dies loses its own pieces alone. One that has fallen
silent may still deliver a piece as long as nobody else has leased a sample of it. What is on record is what a checkpoint
needs: everything that is not trained is pending again after a restart, since its samples died with the run or may be
stale.

Whatever happens to a group costs O(log n), whoever asks for a worker's leases pays for those alone, and how many groups
are leased or buffered under each version is counted along: with a thousand workers these are asked for every group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from actors.types import Piece
from cluster.leasing.leased_group import CONTROLLER, LeasedGroup, LeaseRecord
from cluster.leasing.lowest_first import LowestFirst


class Ledger:
    """Pure bookkeeping; the caller brings the clock. All methods raise KeyError on an unknown group."""

    def __init__(self, *, num_problems: int, num_groups: int, seed: int, num_samples: int = 1) -> None:
        """`num_samples`: of each group; who gives no leases need not know."""
        self.num_problems = num_problems
        self.num_groups = num_groups
        self.num_samples = num_samples
        self.seed = seed
        self.leased: dict[int, LeasedGroup] = {}
        self.buffered: dict[int, int] = {}
        """Group to the version its lease was given under."""
        self.begun: dict[int, int] = {}
        """Likewise; no longer in `buffered`."""
        self.num_leased_by_version: Counter[int] = Counter()
        self.num_buffered_by_version: Counter[int] = Counter()
        self.num_rest = 0
        """Samples of leased groups that are to be leased."""
        self._held: dict[str, dict[Piece, LeaseRecord]] = {}
        """Pieces that each holder has, in the order in which it got them."""
        self._doubted: dict[int, list[LeaseRecord]] = {}
        """By group: leases of silent workers on pending samples, which may come after all."""
        self._rests = LowestFirst()
        """Leased groups of which samples are to be leased."""
        self._returned = LowestFirst()
        """Pending groups that were leased before."""
        self._next = 0
        self._trained_below = 0
        self._trained_above: set[int] = set()
        self._orders: dict[int, np.ndarray] = {}
        self.set_aside: set[int] = set()
        """Problems that no group leased from now on asks, by index; never all of them."""
        self._substitutes: dict[int, int] = {}
        """Of groups whose own problem was set aside: the problem that they ask instead."""

    def problem_index(self, group: int) -> int:
        """Which problem group `group` asks since it was leased; a pending one, if the problem is not set aside by then."""
        order, position = self._place(group)
        return int(self._substitutes.get(group, order[position]))

    def first_problems(self, num_groups: int) -> list[int]:
        """Indices of the problems that the first groups ask where none is set aside, each once, in their order."""
        order, _ = self._place(0)
        return [int(index) for index in order[:num_groups]]

    def trained_problems(self) -> set[int]:
        """Indices of all problems that a trained group asked."""
        return {self.problem_index(group) for group in (*range(self._trained_below), *self._trained_above)}

    @property
    def earliest_returned(self) -> int | None:
        """The earliest pending group that was leased before; None where there is none."""
        return self._returned.first

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

    @property
    def next_piece(self) -> tuple[Piece, int | None] | None:
        """What is leased next, at most: the rest of the earliest group that has been begun, and the version under which it
        was; else the earliest pending group, and None. None when there is neither.
        """
        begun = self._rests.first
        if begun is not None:
            group = self.leased[begun]
            return Piece(begun, *group.rest[0]), group.version
        pending = self._returned.first
        if pending is None:
            pending = self._next
        return (Piece(pending, 0, self.num_samples), None) if pending < self.num_groups else None

    def lease(self, worker: str, *, version: int, now_s: float, most: int | None = None) -> Piece | None:
        """`next_piece`, or its first `most` samples, now leased to `worker`; None when nothing is to be leased."""
        found = self.next_piece
        if found is None:
            return None
        piece, begun_under = found
        if begun_under is None:
            self._replace_problem(piece.group)
        if most is not None:
            piece = piece._replace(stop=min(piece.stop, piece.start + most))
        self._take(LeaseRecord(piece, worker, version, now_s))
        doubted = self._doubted.pop(piece.group, [])
        still = [one for one in doubted if one.piece.stop <= piece.start or piece.stop <= one.piece.start]
        if still:
            self._doubted[piece.group] = still
        return piece

    def receive(self, piece: Piece, worker: str, *, version: int | None = None) -> bool:
        """The controller now holds the piece's samples. False, and nothing changes, unless `worker` held
        the lease: so a result that comes twice, or late from a worker given up for dead, is not counted.

        `version`: the oldest that sampled it, which is older than its lease's where a worker that was silent began it
        under an earlier lease.
        """
        record = self._held.get(worker, {}).get(piece) or self._take_doubted(piece, worker)
        if record is None:
            return False
        self._let_go(record)
        record.worker = CONTROLLER
        record.version = record.version if version is None else min(record.version, version)
        self._held.setdefault(CONTROLLER, {})[piece] = record
        self._date(piece.group, record.version)
        return True

    def is_received(self, group: int) -> bool:
        """Whether the controller has all samples of a leased group."""
        return self.leased[group].is_received

    def doubt(self, worker: str) -> None:
        """The worker has fallen silent: its pieces are pending again, and it may deliver them as long as they are."""
        for record in self.leases_of(worker):
            self.give_back(record.piece)
            self._doubted.setdefault(record.piece.group, []).append(record)

    def commit(self, group: int) -> bool:
        """Accept the verdicts of a received group. False, and nothing changes, for any other."""
        leased = self.leased.get(group)
        if leased is None or not leased.is_received:
            return False
        self._close(group)
        self.buffered[group] = leased.version
        self.num_buffered_by_version[leased.version] += 1
        return True

    def release(self, groups: Iterable[int]) -> None:
        """Leased groups of which no sample is wanted, whoever has them, are pending again, in their old place."""
        for group in groups:
            self._close(group)
            self._returned.add(group)

    def give_back(self, piece: Piece) -> None:
        """A leased or received piece that will not come, or is of no use, is pending again; so is its group if nothing
        else of it is with anybody.
        """
        group = self.leased[piece.group]
        record = group.pieces[piece.start]
        if len(group.pieces) == 1:
            self.release([piece.group])
            return
        self._let_go(record)
        group.give_back(piece)
        self.num_rest += piece.num_samples
        self._rests.add(piece.group)

    def discard(self, group: int) -> None:
        """A buffered group that must not be trained (too stale) is pending again."""
        self._take_from_buffer(group)
        self._returned.add(group)

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
        for record in self.leases_of(worker):
            self.give_back(record.piece)
        left = {
            group: [one for one in records if one.worker != worker]
            for group, records in self._doubted.items()
        }
        self._doubted = {group: records for group, records in left.items() if records}

    def leases_of(self, worker: str) -> list[LeaseRecord]:
        return list(self._held.get(worker, {}).values())

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
    def from_json(
        cls, record: Mapping[str, Any], *, num_groups: int | None = None, num_samples: int = 1
    ) -> Ledger:
        """Restore; `num_groups` prolongs or shortens the run (not below what is trained)."""
        ledger = cls(
            num_problems=record["num_problems"],
            num_groups=record["num_groups"] if num_groups is None else num_groups,
            num_samples=num_samples,
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
        ledger._returned = LowestFirst(
            g for g in range(ledger._trained_below, first_unseen) if not ledger._is_trained(g)
        )
        return ledger

    def _place(self, group: int) -> tuple[np.ndarray, int]:
        """The order of problems in the group's epoch, and where in it the group is."""
        epoch, position = divmod(group, self.num_problems)
        if epoch not in self._orders:
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.num_problems)
        return self._orders[epoch], position

    def _replace_problem(self, group: int) -> None:
        """Have a group that is begun anew ask another problem if its own is set aside; samples of that are of no use."""
        if self.problem_index(group) in self.set_aside:
            order, position = self._place(group)
            following = (
                int(order[(position + step) % self.num_problems]) for step in range(self.num_problems)
            )
            self._substitutes[group] = next(index for index in following if index not in self.set_aside)
            self._doubted.pop(group, None)

    def _take(self, record: LeaseRecord) -> None:
        """Pending samples are with the record's worker."""
        number = record.piece.group
        group = self.leased.get(number)
        if group is None:
            if number == self._next:
                self._next += 1
            self._returned.discard(number)
            group = LeasedGroup(record.version, record.since_s, rest=[(0, self.num_samples)])
            self.leased[number] = group
            self.num_leased_by_version[record.version] += 1
            self.num_rest += self.num_samples
        self._date(number, record.version)
        group.take(record)
        self.num_rest -= record.piece.num_samples
        if group.rest:
            self._rests.add(number)
        else:
            self._rests.discard(number)
        self._held.setdefault(record.worker, {})[record.piece] = record

    def _let_go(self, record: LeaseRecord) -> None:
        """The record's worker has the piece no more."""
        held = self._held[record.worker]
        del held[record.piece]
        if not held:
            del self._held[record.worker]

    def _close(self, number: int) -> None:
        """The group is leased no more."""
        group = self.leased.pop(number)
        for record in group.pieces.values():
            self._let_go(record)
        self.num_rest -= sum(stop - start for start, stop in group.rest)
        self._rests.discard(number)
        _subtract(self.num_leased_by_version, group.version)

    def _date(self, number: int, version: int) -> None:
        """A piece of a leased group is of this version."""
        group = self.leased[number]
        if version < group.version:
            _subtract(self.num_leased_by_version, group.version)
            self.num_leased_by_version[version] += 1
            group.version = version

    def _take_doubted(self, piece: Piece, worker: str) -> LeaseRecord | None:
        """Give a silent worker back the lease that it had on a piece, if all of it is pending still."""
        for record in self._doubted.get(piece.group, ()):
            if record.worker == worker and record.piece == piece:
                self._doubted[piece.group].remove(record)
                self._take(record)
                return record
        return None

    def _take_from_buffer(self, group: int) -> int:
        version = self.buffered.pop(group)
        _subtract(self.num_buffered_by_version, version)
        return version

    def _is_trained(self, group: int) -> bool:
        return group < self._trained_below or group in self._trained_above


def _subtract(counts: Counter[int], version: int) -> None:
    """One less; a version with none is no longer counted."""
    counts[version] -= 1
    if not counts[version]:
        del counts[version]
