"""What engines are given: groups of one kind, whose numbers and rules are their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actors.types import Lease, Piece
from cluster.leasing.ledger import Ledger


def at_once() -> float:
    """The clock of a group begins with its lease: none of another kind goes before it."""
    return float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """`num_admitted(version)`: how many more groups an engine that serves the version may begin; `make_lease(piece)`: what
    a piece of a group of the ledger asks.
    """

    ledger: Ledger
    num_admitted: Callable[[int], int]
    make_lease: Callable[[Piece], Lease]
    due_since_s: Callable[[], float] = at_once
    """Since when, by the monotonic clock, an engine should have finished one of its groups, had it been well; infinite
    while other work goes before this one.
    """

    def num_to_lease(self, version: int) -> int:
        """Samples that are pending of groups that have been begun or may be, under this version."""
        num_groups = min(self.num_admitted(version), self.ledger.counts["pending"])
        return self.ledger.num_rest + num_groups * self.ledger.num_samples

    def num_sequences_of(self, worker: str) -> int:
        """Leased to it and not received yet."""
        return sum(record.piece.num_samples for record in self.ledger.leases_of(worker))
