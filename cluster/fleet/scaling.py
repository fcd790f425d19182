"""How many workers a run should have: a pure policy. The caller brings clock and counters.

| the learner waits     | groups waiting for a verdict | workers              | what is done  |
|-----------------------|------------------------------|----------------------|---------------|
| above `starved_above` | above `queue_above` a worker |                      | verifier + 1  |
| above `starved_above` | no more than that            |                      | rollout + 1   |
| below half of it      |                              | engines idle         | rollout - 1   |
|                       | fewer than one a worker      | verifiers idle       | verifier - 1  |

The first line that applies, and that the bounds allow, holds. "Idle" means that one worker fewer would do:
b being the share of the time that n workers are busy, b * n / (n - 1) <= `busy_below` < 1. That gap is what
keeps it from swinging: who was just removed is not missed, and who was just added is not idle. Engines are
idle when admission gives them no leases: the buffer is full up to the staleness bound, the learner is the
slower one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cluster.config.scaling import ScalingConfig

Role = Literal["rollout", "verifier"]
Reason = Literal["manual", "starved", "queue", "idle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the run has counted up to a moment, in seconds on one clock."""

    at_s: float
    waited_s: float
    """Learner's time without a batch."""
    queued_group_s: float
    """Groups waiting for a verdict, integrated over time."""
    judging_s: float
    """Time of verifier workers on their calls, summed over the workers."""
    engines: Mapping[str, tuple[float, float]]
    """By worker: seconds that its engine was at work, and that it had nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What happened between two moments; shares are of the time, 0 to 1."""

    seconds: float
    wait_share: float
    queue_per_verifier: float
    rollout_busy_share: float
    verifier_busy_share: float
    targets: Mapping[Role, int]
    starting: Mapping[Role, int]
    """Workers that are asked for and do not work yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One role's new number of workers, and why."""

    role: Role
    before: int
    after: int
    reason: Reason
    text: str

    @property
    def direction(self) -> str:
        return "up" if self.after > self.before else "down"

    def __str__(self) -> str:
        return f"{self.role} {self.before} -> {self.after}: {self.text}"


def window(
    before: Counters, after: Counters, *, targets: Mapping[Role, int], starting: Mapping[Role, int]
) -> Window:
    """The difference of two counts. Engines count that were there at both; without any, they were busy."""
    seconds = after.at_s - before.at_s
    num_verifiers = max(1, targets["verifier"] - starting["verifier"])
    both = before.engines.keys() & after.engines.keys()
    busy_s = sum(after.engines[name][0] - before.engines[name][0] for name in both)
    idle_s = sum(after.engines[name][1] - before.engines[name][1] for name in both)
    return Window(
        seconds=seconds,
        wait_share=(after.waited_s - before.waited_s) / seconds,
        queue_per_verifier=(after.queued_group_s - before.queued_group_s) / seconds / num_verifiers,
        rollout_busy_share=busy_s / (busy_s + idle_s) if busy_s + idle_s else 1.0,
        verifier_busy_share=(after.judging_s - before.judging_s) / seconds / num_verifiers,
        targets=dict(targets),
        starting=dict(starting),
    )


def propose(seen: Window, config: ScalingConfig) -> Decision | None:
    """What this window alone asks for, by the table above."""
    waited = f"the learner waited {seen.wait_share:.0%} of the last {seen.seconds:.0f} s"
    queue = f"{seen.queue_per_verifier:.1f} groups waited for each verifier worker"
    engines = f"engines were idle {1 - seen.rollout_busy_share:.0%} of it"
    verifiers = f"verifier workers were idle {1 - seen.verifier_busy_share:.0%} of it"
    is_starved = seen.wait_share > config.starved_above
    has_queue = seen.queue_per_verifier > config.queue_above
    rules: list[tuple[bool, Role, int, Reason, str]] = [
        (is_starved and has_queue, "verifier", 1, "queue", f"{waited}, {queue}"),
        (is_starved and not has_queue, "rollout", 1, "starved", f"{waited}, {queue}"),
        (
            seen.wait_share < config.starved_above / 2
            and _is_one_too_many(seen.rollout_busy_share, seen.targets["rollout"], config),
            "rollout",
            -1,
            "idle",
            f"{waited}, {engines}",
        ),
        (
            seen.queue_per_verifier < 1
            and _is_one_too_many(seen.verifier_busy_share, seen.targets["verifier"], config),
            "verifier",
            -1,
            "idle",
            f"{waited}, {queue}, {verifiers}",
        ),
    ]
    for applies, role, step, reason, text in rules:
        before = seen.targets[role]
        low, high = config.bounds(role)
        # Not more of what is still to come; and who is idle is known only when all are there.
        is_settled = not seen.starting[role] if step > 0 else not any(seen.starting.values())
        if applies and is_settled and low <= before + step <= high:
            return Decision(role=role, before=before, after=before + step, reason=reason, text=text)
    return None


def _is_one_too_many(busy_share: float, num_workers: int, config: ScalingConfig) -> bool:
    return num_workers > 1 and busy_share * num_workers / (num_workers - 1) <= config.busy_below


class ScalingPolicy:
    """Decides when `patience` windows in a row ask for the same, and rests for `cooldown_s` afterwards."""

    def __init__(self, config: ScalingConfig) -> None:
        self._config = config
        self._asked: tuple[Role, str] | None = None
        self._times = 0
        self._rests_until_s = float("-inf")

    @property
    def every_s(self) -> float:
        """Seconds of a window."""
        return self._config.every_s

    def look(self, seen: Window, *, now_s: float) -> Decision | None:
        """What is to be done after this window, if anything."""
        if now_s < self._rests_until_s:
            return None
        proposal = propose(seen, self._config)
        asked = None if proposal is None else (proposal.role, proposal.direction)
        self._times = self._times + 1 if asked == self._asked else 1
        self._asked = asked
        if proposal is None or self._times < self._config.patience:
            return None
        self.rest(now_s)
        return proposal

    def rest(self, now_s: float) -> None:
        """The numbers have changed: look at nothing for a cooldown, and begin anew."""
        self._rests_until_s = now_s + self._config.cooldown_s
        self._asked, self._times = None, 0
