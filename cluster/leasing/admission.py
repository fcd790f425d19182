"""Staleness is bounded when a lease is given, not when its group is trained. Pure functions.

A group is trained `lag` versions after the version it was sampled under. Sampling starts under the
version the engine serves when the lease is given (updates in flight only make it fresher), so it
is enough to know which version will consume it: batches are cut in the order of leases, hence the
group behind `outstanding` others is consumed `outstanding // groups_per_step` versions later than
the next batch. Synchronous training is `max_staleness = 0`.
"""

from __future__ import annotations

from collections.abc import Mapping


def may_lease(
    *, next_version: int, served_version: int, outstanding: int, groups_per_step: int, max_staleness: int
) -> bool:
    """Whether one more group, sampled under `served_version` or newer, would be consumed in time.

    `next_version` is the version that consumes the next batch to be cut: the learner's own, or one
    more while it is training on a batch. `outstanding` counts leased and buffered groups.
    """
    consumed_at = next_version + outstanding // groups_per_step
    return consumed_at - served_version <= max_staleness


def cut_batch(
    *,
    version: int,
    leased: Mapping[int, int],
    buffered: Mapping[int, int],
    groups_per_step: int,
    max_staleness: int,
) -> list[int] | None:
    """The groups the learner at `version` trains next, or None while it must wait.

    `leased` and `buffered` map a group to the version of its lease. Oldest leases go first, but a
    finished group may overtake an unfinished one only as long as every group left behind can still
    be trained in time: those leased under u or before must fit into the batches up to version
    u + max_staleness. A batch waits rather than leave a slow group to expire: otherwise long
    completions would be trained less often than short ones.
    """
    if len(buffered) < groups_per_step:
        return None
    batch = sorted(buffered, key=lambda group: (buffered[group], group))[:groups_per_step]
    taken = set(batch)
    left = sorted([*leased.values(), *(lease for group, lease in buffered.items() if group not in taken)])
    for position, lease in enumerate(left):
        if position + 1 > max(0, lease + max_staleness - version) * groups_per_step:
            return None
    return batch


def too_stale(
    *, version: int, buffered: Mapping[int, int], groups_per_step: int, max_staleness: int
) -> list[int]:
    """Buffered groups that the learner at `version` may no longer train, or could not train all in time.

    Empty as long as every group keeps its lease: those of a silent worker are overtaken, and may come all the same.
    """
    stale = []
    num_kept = 0
    for group in sorted(buffered, key=lambda group: (buffered[group], group)):
        num_batches = buffered[group] + max_staleness - version + 1
        if num_kept < num_batches * groups_per_step:
            num_kept += 1
        else:
            stale.append(group)
    return stale
