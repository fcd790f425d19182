"""What a study found, and which learning rates that chooses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.design import Arm, Outline, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a study found, failures included."""

    policies: list[Policy]
    tuning: list[Policy]
    failures: dict[str, str]
    """Job name -> message."""


def outcome_of(results: Path, outline: Outline, failures: Mapping[str, str]) -> Outcome:
    """What the result files of a study show; of each tuned arm only the learning rate that was chosen, as in `run`."""
    everything = [outline.read_policy(path) for path in sorted(results.glob("*.json"))]

    def is_tried(policy: Policy) -> bool:
        arm = outline.arms.get(policy.arm)
        return policy.split == "tuning" and arm is not None and policy.learning_rate in arm.learning_rates

    tuning = of_one_base([policy for policy in everything if is_tried(policy)])
    chosen = choose_learning_rates(tuning, outline.arms)

    def is_chosen(policy: Policy) -> bool:
        arm = outline.arms.get(policy.arm)
        return arm is None or policy.learning_rate == chosen.get(arm.tuned_as, policy.learning_rate)

    policies = [policy for policy in everything if policy.split == "test" and is_chosen(policy)]
    return Outcome(policies=policies, tuning=tuning, failures=dict(failures))


def read_outcome(directory: Path, outline: Outline) -> Outcome:
    """What the study in `directory` found, from its result files; failures as `run` last reported them."""
    failures = json.loads((directory / "study.json").read_text())["failures"]
    return outcome_of(directory / "results", outline, failures)


def of_one_base(tuning: Sequence[Policy]) -> list[Policy]:
    """Of each arm the tuned policies of that base of which most of them are: another base may be better or worse by more
    than rates differ.
    """
    most = {
        arm: Counter(policy.base for policy in tuning if policy.arm == arm).most_common(1)[0][0]
        for arm in {policy.arm for policy in tuning}
    }
    return [policy for policy in tuning if policy.base == most[policy.arm]]


def choose_learning_rates(tuning: Sequence[Policy], arms: Mapping[str, Arm]) -> dict[str, float]:
    """By tuned arm, the rate that is best on the arm's own estimand, of those tried on one base."""
    best: dict[str, tuple[float, float]] = {}
    for policy in of_one_base(tuning):
        metric, k = arms[policy.arm].tuned_on
        value = float(policy.values(metric, k).mean())
        best[policy.arm] = max(best.get(policy.arm, (-1.0, 0.0)), (value, policy.learning_rate))
    return {arm: rate for arm, (_, rate) in best.items()}
