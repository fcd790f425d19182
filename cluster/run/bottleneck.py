"""What limits a run now: which of its stages the others wait for, and what to set."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.fleet.rollouts import RolloutFleet
from cluster.run.progress import Progress

BUSY_LEARNER_WAITS = 0.1
"""A learner that waits less than this share of its time is the slowest stage."""
FULL_ENGINE = 0.5
"""Filled to this share or more, engines are at work; half full they decode nearly as many tokens a second."""

MUCH_RECOMPUTED = 0.5
"""Three quarters as many tokens again cost `benchmarks.ragged` 11 % of its tokens/s."""
HELD = 0.9
"""An engine whose KV cache holds a smaller share of max_num_seqs is short of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """How the run's time was spent over the newest steps; shares from 0 to 1."""

    wait_share: float
    """Of the time in which the learner waited for a batch."""
    verify_share: float
    """Of the time in which all of a batch's samples were there, and a verdict was not."""
    fill: float
    """Sequences that engines decode at a time over rollout.max_num_seqs, mean over the engines."""
    capacity: float
    """Sequences of the usual length that an engine can hold at a time, mean over the engines."""
    max_num_seqs: int
    recomputed: float
    """Tokens that engines computed again since updates dropped their KV, over those they sampled."""
    has_room: bool
    """Every engine may be given more groups, but for the bound on staleness."""


def limited_by(progress: Progress, rollouts: RolloutFleet, max_staleness: int) -> str | None:
    """What limits the run; None before there is a step."""
    shares = progress.shares()
    if shares is None:
        return None
    wait_share, verify_share = shares
    seen = Stages(
        wait_share=wait_share,
        verify_share=verify_share,
        fill=rollouts.fill,
        capacity=rollouts.capacity,
        max_num_seqs=rollouts.max_num_seqs,
        recomputed=rollouts.recomputed,
        has_room=rollouts.has_room,
    )
    return describe(seen, max_staleness=max_staleness)


def describe(seen: Stages, *, max_staleness: int) -> str:
    """What limits the run, and the remedy, as `bonfire status` shows it."""
    waits = f"the learner waits {seen.wait_share:.0%} of the time"
    if seen.wait_share < BUSY_LEARNER_WAITS:
        return f"learning ({waits}): more learner.ranks or learner.num_cpus would help"
    if seen.verify_share > seen.wait_share / 2:
        return f"verifying ({waits}, for verdicts {seen.verify_share:.0%}): more verifier.workers would help"
    filled = f"engines are filled to {seen.fill:.0%}"
    if seen.has_room and seen.fill * seen.max_num_seqs < FULL_ENGINE * seen.capacity:
        return (
            f"staleness ({waits}, {filled} and may begin no group): a higher train.max_staleness = {max_staleness} "
            "would help"
        )
    if seen.capacity < HELD * seen.max_num_seqs:
        return (
            f"sampling ({waits}, engines have KV for {seen.capacity:.0f} sequences of rollout.max_num_seqs = "
            f"{seen.max_num_seqs}): a larger rollout.kv_cache_mib would help"
        )
    if seen.recomputed > MUCH_RECOMPUTED:
        return (
            f"sampling ({waits}, updates make engines compute {seen.recomputed:.0%} as many tokens again as they sample): "
            "rollout.kv_after_update = 'keep' or more rollout.workers would help"
        )
    return f"sampling ({waits}, {filled}): more rollout.workers would help"
