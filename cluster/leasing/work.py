"""What engines are given: groups of one kind, whose numbers and rules are their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actors.types import Lease
from cluster.leasing.ledger import Ledger


def at_once() -> float:
    """The clock of a group begins with its lease: none of another kind goes before it."""
    return float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """`may_lease(version)`: whether an engine that serves the version may be given one more; `make_lease(group)`: what
    a group of the ledger asks.
    """

    ledger: Ledger
    num_samples: int
    """Of a group."""
    may_lease: Callable[[int], bool]
    make_lease: Callable[[int], Lease]
    due_since_s: Callable[[], float] = at_once
    """Since when, by the monotonic clock, an engine should have finished one of its groups, had it been well; infinite
    while other work goes before this one.
    """

    def num_sequences_of(self, worker: str) -> int:
        """Of all groups that the worker has, finished ones of them included."""
        return self.ledger.num_leases_of(worker) * self.num_samples
