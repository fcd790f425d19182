"""Staleness is bounded when a lease is given, not when its group is trained. Pure functions.

A group is trained `lag` versions after the version it was sampled under. Sampling starts under the
version the engine serves when the lease is given (updates in flight only make it fresher), so it
is enough to know which version will consume it: batches are cut in the order of leases, hence the
group behind `outstanding` others is consumed `outstanding // groups_per_step` versions later than
the next batch. Synchronous training is `max_staleness = 0`.
"""

from __future__ import annotations

import heapq
import math

from cluster.leasing.ledger import Ledger


def num_admitted(
    *, next_version: int, served_version: int, outstanding: int, groups_per_step: int, max_staleness: int
) -> int:
    """How many more groups, sampled under `served_version` or newer, would be consumed in time; at least 0.

    `next_version` is the version that consumes the next batch to be cut: the learner's own, or one
    more while it is training on a batch. `outstanding` counts leased and buffered groups.

    A further piece of a group that is leased already needs no admission under the group's version or a newer one, since
    the group keeps its place. Where one more group is admitted under an older version, so is the piece: all others that are
    outstanding would be consumed in time if they came before it.
    """
    num_steps = served_version + max_staleness - next_version + 1
    return max(0, num_steps * groups_per_step - outstanding)


def cut_batch(
    ledger: Ledger,
    *,
    version: int,
    groups_per_step: int,
    max_staleness: int,
) -> list[int] | None:
    """The groups the learner at `version` trains next, those begun among them, or None while it must wait.

    Oldest leases go first, but a finished group may overtake an unfinished one only as long as every group left behind
    can still be trained in time: those leased under u or before must fit into the batches up to version
    u + max_staleness. A batch waits rather than leave a slow group to expire: otherwise long completions would be
    trained less often than short ones.

    Takes time in the number of versions, and O(n log n) once for each batch.
    """
    rest = _oldest(
        ledger,
        groups_per_step - len(ledger.begun),
        places_left=0,
        version=version,
        groups_per_step=groups_per_step,
        max_staleness=max_staleness,
    )
    return None if rest is None else [*ledger.begun, *rest]


def next_part(
    ledger: Ledger,
    *,
    version: int,
    groups_per_step: int,
    max_staleness: int,
    size: int,
) -> list[int] | None:
    """`size` groups over which the learner may pass while the rest of its batch is still to come; None: nothing yet.

    By the rule of `cut_batch`: the batch that they will be in can still have all groups that have to be in it. A later
    lease cannot change that: `may_lease` places it behind all that are outstanding. With synchronous training parts are
    those of the batch's order, so that sums of gradients are repeated to the last bit.
    """
    places_left = groups_per_step - len(ledger.begun) - size
    if places_left <= 0:
        return None
    part = _oldest(
        ledger,
        size,
        places_left=places_left,
        version=version,
        groups_per_step=groups_per_step,
        max_staleness=max_staleness,
    )
    if part is None or (max_staleness == 0 and _first_to_come(ledger) < max(part)):
        return None
    return part


def _first_to_come(ledger: Ledger) -> float:
    """The lowest number of a group that is being sampled or judged, or is to be sampled again; infinite without one."""
    returned = ledger.earliest_returned
    return min([*ledger.leased, *([] if returned is None else [returned])], default=math.inf)


def _oldest(
    ledger: Ledger,
    count: int,
    *,
    places_left: int,
    version: int,
    groups_per_step: int,
    max_staleness: int,
) -> list[int] | None:
    """The buffered groups with the oldest leases, in their order, if so many can be taken into the next batch, where
    `places_left` are left then.
    """
    buffered, num_buffered = ledger.buffered, ledger.num_buffered_by_version
    if len(buffered) < count:
        return None
    num_to_take = count
    num_left = 0
    for lease in sorted({*ledger.num_leased_by_version, *num_buffered}):
        num_finished = num_buffered.get(lease, 0)
        num_taken = min(num_to_take, num_finished)
        num_to_take -= num_taken
        here = ledger.num_leased_by_version.get(lease, 0) + num_finished - num_taken
        num_left += here
        if here and num_left > places_left + max(0, lease + max_staleness - version) * groups_per_step:
            return None
    return heapq.nsmallest(count, buffered, key=lambda group: (buffered[group], group))


def too_stale(ledger: Ledger, *, version: int, groups_per_step: int, max_staleness: int) -> list[int]:
    """Buffered groups that the learner at `version` may no longer train, or could not train all in time.

    Empty as long as every group keeps its lease: those of a silent worker are overtaken, and may come all the same.
    """
    buffered, num_buffered = ledger.buffered, ledger.num_buffered_by_version
    num_kept = 0
    num_begun = len(ledger.begun)
    num_kept_of: dict[int, int] = {}
    for lease in sorted(num_buffered):
        room = max(0, (lease + max_staleness - version + 1) * groups_per_step - num_begun - num_kept)
        num_kept_of[lease] = min(num_buffered[lease], room)
        num_kept += num_kept_of[lease]
    if num_kept == len(buffered):
        return []
    stale = []
    for group in sorted(buffered, key=lambda group: (buffered[group], group)):
        if num_kept_of[buffered[group]]:
            num_kept_of[buffered[group]] -= 1
        else:
            stale.append(group)
    return stale
