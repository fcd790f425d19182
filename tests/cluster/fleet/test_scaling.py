"""The policy follows what a run needs, within its bounds, and then stays where it is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.config.parse import parse_config
from cluster.config.scaling import ScalingConfig
from cluster.fleet.scaling import Counters, Decision, ScalingPolicy, Window, propose, window

CONFIG = ScalingConfig(max_rollout=8, max_verifier=6, every_s=10, patience=3, cooldown_s=60)


def seen(**changes: Any) -> Window:
    """A window in which everything is as it should be."""
    values: dict[str, Any] = {
        "seconds": 10.0,
        "wait_share": 0.05,
        "queue_per_verifier": 0.5,
        "rollout_busy_share": 0.95,
        "verifier_busy_share": 0.8,
        "targets": {"rollout": 2, "verifier": 2},
        "starting": {"rollout": 0, "verifier": 0},
    }
    return Window(**{**values, **changes})


# One window


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"wait_share": 0.61}, "rollout 2 -> 3"),
        ({"wait_share": 0.61, "queue_per_verifier": 9.0}, "verifier 2 -> 3"),
        ({"queue_per_verifier": 9.0}, None),  # a queue that keeps nobody waiting
        ({"rollout_busy_share": 0.3}, "rollout 2 -> 1"),
        ({"rollout_busy_share": 0.4}, None),  # the other one would be busy for 0.8
        ({"rollout_busy_share": 0.6, "targets": {"rollout": 8, "verifier": 2}}, "rollout 8 -> 7"),
        ({"rollout_busy_share": 0.3, "wait_share": 0.15}, None),  # between starved and not
        ({"verifier_busy_share": 0.1}, "verifier 2 -> 1"),
        ({"verifier_busy_share": 0.1, "queue_per_verifier": 2.0}, None),
        ({"wait_share": 0.61, "verifier_busy_share": 0.1}, "rollout 2 -> 3"),
        ({"wait_share": 0.61, "starting": {"rollout": 1, "verifier": 0}}, None),
        ({"wait_share": 0.61, "starting": {"rollout": 0, "verifier": 1}}, "rollout 2 -> 3"),
        ({"verifier_busy_share": 0.0, "starting": {"rollout": 1, "verifier": 0}}, None),  # engines start
        ({"rollout_busy_share": 0.0, "targets": {"rollout": 1, "verifier": 2}}, None),
        ({"wait_share": 0.61, "targets": {"rollout": 8, "verifier": 2}}, None),
        (
            {"wait_share": 0.61, "verifier_busy_share": 0.1, "targets": {"rollout": 8, "verifier": 2}},
            "verifier 2 -> 1",
        ),
        (
            {"wait_share": 0.61, "queue_per_verifier": 9.0, "targets": {"rollout": 2, "verifier": 6}},
            None,  # more rollout workers would only lengthen the queue
        ),
    ],
)
def test_what_a_window_asks_for(changes: dict[str, Any], expected: str | None) -> None:
    decision = propose(seen(**changes), CONFIG)
    assert (decision and str(decision).partition(":")[0]) == expected


def test_a_decision_says_what_it_was_made_by() -> None:
    (starved, queue, idle) = (
        propose(seen(wait_share=0.614), CONFIG),
        propose(seen(wait_share=0.3, queue_per_verifier=12.25), CONFIG),
        propose(seen(rollout_busy_share=0.2), CONFIG),
    )
    assert str(starved) == (
        "rollout 2 -> 3: the learner waited 61% of the last 10 s, 0.5 groups waited for each verifier worker"
    )
    assert str(queue) == (
        "verifier 2 -> 3: the learner waited 30% of the last 10 s, 12.2 groups waited for each verifier worker"
    )
    assert str(idle) == "rollout 2 -> 1: the learner waited 5% of the last 10 s, engines were idle 80% of it"
    assert starved and queue and idle
    assert (starved.reason, starved.direction) == ("starved", "up")
    assert (queue.reason, queue.direction) == ("queue", "up")
    assert (idle.reason, idle.direction) == ("idle", "down")


def test_a_window_is_the_difference_of_two_counts() -> None:
    before = Counters(
        at_s=100.0, waited_s=7.0, queued_group_s=50.0, judging_s=10.0,
        engines={"rollout-0": (10.0, 5.0), "rollout-1": (20.0, 0.0)},
    )  # fmt: skip
    after = Counters(
        at_s=120.0, waited_s=12.0, queued_group_s=130.0, judging_s=40.0,
        engines={"rollout-0": (16.0, 9.0), "rollout-2": (9.0, 9.0)},
    )  # fmt: skip
    made = window(
        before, after, targets={"rollout": 2, "verifier": 3}, starting={"rollout": 1, "verifier": 1}
    )
    assert made.seconds == 20.0 and made.wait_share == 0.25
    assert made.queue_per_verifier == 2.0  # 4 groups on average, for the 2 that work
    assert made.verifier_busy_share == 0.75
    assert made.rollout_busy_share == pytest.approx(
        0.6
    )  # of rollout-0 alone: the others were not there throughout


def test_engines_of_which_nothing_is_known_are_not_idle() -> None:
    before, after = (
        Counters(at_s=at_s, waited_s=0, queued_group_s=0, judging_s=0, engines={}) for at_s in (0.0, 10.0)
    )
    made = window(
        before, after, targets={"rollout": 2, "verifier": 2}, starting={"rollout": 0, "verifier": 0}
    )
    assert made.rollout_busy_share == 1.0


# Patience and rest


def decisions(policy: ScalingPolicy, windows: list[Window]) -> list[int]:
    """At which of these windows, one every 10 s, something is decided."""
    return [place for place, one in enumerate(windows) if policy.look(one, now_s=10.0 * place)]


def test_a_decision_takes_as_many_windows_in_a_row_as_patience_says() -> None:
    starved = seen(wait_share=0.9)
    assert decisions(ScalingPolicy(CONFIG), [starved] * 3) == [2]
    assert decisions(ScalingPolicy(CONFIG), [starved, starved, seen(), starved, starved]) == []
    idle = seen(rollout_busy_share=0.1)
    assert decisions(ScalingPolicy(CONFIG), [starved, starved, idle, idle, starved, starved]) == []


def test_after_a_decision_nothing_is_looked_at_for_a_cooldown() -> None:
    assert decisions(ScalingPolicy(CONFIG), [seen(wait_share=0.9)] * 22) == [2, 10, 18]


def test_a_change_by_command_holds_the_policy_back_for_a_cooldown() -> None:
    policy = ScalingPolicy(CONFIG)
    starved = seen(wait_share=0.9)
    assert not policy.look(starved, now_s=0.0) and not policy.look(starved, now_s=10.0)
    policy.rest(15.0)
    assert [now_s for now_s in range(20, 120, 10) if policy.look(starved, now_s=now_s)] == [100]


# In a loop with a run


class Plant:
    """A run whose learner trains `demand` groups a second at most; one worker makes, or judges, one a second."""

    def __init__(self, *, demand: float, verdicts: float, rollout: int, verifier: int, noise: float) -> None:
        self.demand, self.verdicts, self.noise = demand, verdicts, noise
        self.targets = {"rollout": rollout, "verifier": verifier}
        self.random = random.Random(0)

    def jitter(self) -> float:
        return self.random.uniform(1 - self.noise, 1 + self.noise)

    def window(self) -> Window:
        demand = self.demand * self.jitter()
        sampled = self.targets["rollout"] * self.jitter()
        judged = self.targets["verifier"] * self.verdicts * self.jitter()
        trained = min(demand, sampled, judged)
        return seen(
            wait_share=1 - trained / demand,
            queue_per_verifier=12.0 if judged < min(demand, sampled) else 0.3,
            rollout_busy_share=trained / sampled,
            verifier_busy_share=trained / judged,
            targets=dict(self.targets),
        )

    def run(self, policy: ScalingPolicy, num_windows: int) -> list[Decision]:
        made = []
        for place in range(num_windows):
            decision = policy.look(self.window(), now_s=10.0 * place)
            if decision:
                self.targets[decision.role] = decision.after
                made.append(decision)
        return made


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("rollout", [1, 4, 8])
@pytest.mark.parametrize("verifier", [1, 6])
@pytest.mark.parametrize(("demand", "verdicts"), [(0.5, 4.0), (3.0, 4.0), (5.0, 1.5), (7.0, 40.0)])
def test_it_comes_to_what_the_run_needs_and_stays_there(
    noise: float, rollout: int, verifier: int, demand: float, verdicts: float
) -> None:
    plant = Plant(demand=demand, verdicts=verdicts, rollout=rollout, verifier=verifier, noise=noise)
    policy = ScalingPolicy(CONFIG)
    plant.run(policy, 300)
    later = [(decision.role, decision.direction) for decision in plant.run(ScalingPolicy(CONFIG), 1000)]
    # A rare streak may still add a worker where one fewer is just enough; it never goes back and forth.
    assert len(later) == len(set(later)) <= (2 if noise else 0)
    assert not any((role, other) in later for role, way in later for other in ("up", "down") if other != way)
    # Enough, up to the share of its time that the learner may wait, and not twice as much.
    settled = plant.targets
    assert 0.8 * demand * (1 - noise) <= settled["rollout"] <= 2 * demand + 1
    assert settled["verifier"] * verdicts >= 0.8 * demand * (1 - noise)


def test_it_follows_a_step_of_the_learners_speed_up_and_down() -> None:
    plant = Plant(demand=2.0, verdicts=10.0, rollout=2, verifier=1, noise=0.02)
    policy = ScalingPolicy(CONFIG)
    assert plant.run(policy, 100) == []
    plant.demand = 6.0
    up = [str(decision).partition(":")[0] for decision in plant.run(ScalingPolicy(CONFIG), 100)]
    assert up == ["rollout 2 -> 3", "rollout 3 -> 4", "rollout 4 -> 5"]
    plant.demand = 1.0
    down = [str(decision).partition(":")[0] for decision in plant.run(ScalingPolicy(CONFIG), 200)]
    assert down == ["rollout 5 -> 4", "rollout 4 -> 3", "rollout 3 -> 2"]


def test_noise_alone_changes_nothing() -> None:
    """Each window at random starved, idle or neither."""
    rng = random.Random(1)
    windows = [
        seen(wait_share=rng.uniform(0.0, 0.3), rollout_busy_share=rng.uniform(0.3, 1.0)) for _ in range(300)
    ]
    careful = CONFIG.model_copy(update={"patience": 5})
    assert len(decisions(ScalingPolicy(careful), windows)) <= 2


def test_no_bound_is_ever_passed() -> None:
    rng = random.Random(2)
    config = ScalingConfig(
        min_rollout=2, max_rollout=4, min_verifier=1, max_verifier=3, patience=1, cooldown_s=0
    )
    policy, targets = ScalingPolicy(config), {"rollout": 3, "verifier": 2}
    visited: set[tuple[str, int]] = set()
    for place in range(3000):
        shares = {"wait_share": rng.random(), "rollout_busy_share": rng.random() ** 2}
        others = {"queue_per_verifier": rng.choice([0.1, 9.0]), "verifier_busy_share": rng.random() ** 3}
        decision = policy.look(seen(**shares, **others, targets=dict(targets)), now_s=float(place))
        if decision:
            targets[decision.role] = decision.after
            visited.add((decision.role, decision.after))
    assert visited == {
        (role, size) for role, sizes in (("rollout", (2, 3, 4)), ("verifier", (1, 2, 3))) for size in sizes
    }


# Settings


def test_bounds_that_leave_nothing_are_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"scaling.min_rollout = 5 exceeds scaling.max_rollout = 2: lower"
    ):
        ScalingConfig(min_rollout=5, max_rollout=2, max_verifier=1)


def test_a_run_begins_within_its_bounds() -> None:
    scaling = {"max_rollout": 4, "max_verifier": 2}
    with pytest.raises(
        ValueError, match=r"^config: verifier.workers = 3 is outside of scaling.min_verifier = 1 to"
    ):
        parse_config({"model": "m", "scaling": scaling, "verifier": {"workers": 3}})
    assert parse_config({"model": "m", "scaling": scaling, "verifier": {"workers": 2}}).scaling
    assert parse_config({"model": "m", "verifier": {"workers": 3}}).scaling is None
