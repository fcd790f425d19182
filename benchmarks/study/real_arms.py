"""The arms of the study on a real model, and what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.study.design import KS, Arm, Outline
from benchmarks.study.real_measure import RealPolicy

RATES = (1e-5, 3e-5)


def _arm(name: str, label: str, metric: str, k: int, settings: Mapping[str, object], **tuning: Any) -> Arm:
    about: dict[str, Any] = {"learning_rates": RATES, **tuning}
    return Arm(name=name, label=label, tuned_on=(metric, k), settings=settings, **about)


ARMS = {
    arm.name: arm
    for arm in (
        _arm(
            "sft",
            "SFT on demonstrations",
            "pass",
            1,
            {"objective.name": "sft", "rollout.samples_per_prompt": 1},
        ),
        _arm("rloo", "standard RL (RLOO)", "pass", 1, {"objective.name": "rloo"}),
        _arm("bon8", "bon, N = 8", "pass", 8, {"objective.name": "bon", "objective.num_select": 8}),
        _arm(
            "majority",
            "majority of 8",
            "majority",
            8,
            {"objective.name": "majority", "objective.num_select": 8},
        ),
        _arm(
            "schedule",
            "bon, N from 8 to 1",
            "pass",
            8,
            {"objective.name": "bon", "objective.num_select": "{ from = 8, to = 1, over = 30 }"},
            learning_rates=(),
            rate_of="bon8",
        ),
        _arm(
            "votes",
            "majority, N from 1 to 8",
            "majority",
            8,
            {"objective.name": "majority", "objective.num_select": "{ from = 1, to = 8, over = 20 }"},
        ),
        # What of a difference from `rloo` is the objective's, and what the learning rate's.
        _arm(
            "rloo_slow",
            "RLOO at bon's rate",
            "pass",
            1,
            {"objective.name": "rloo"},
            learning_rates=(),
            rate_of="bon8",
        ),
    )
}


OUTLINE = Outline(
    name="study-real",
    arms=ARMS,
    policy=RealPolicy,
    metrics=(
        *((metric, k) for metric in ("pass", "bon", "majority") for k in KS),
        ("above_chance", 8),
        ("strategies", 2),
        ("slips", 2),
    ),
    comparisons=(
        ("pass", 1, "bon8", "rloo"),
        ("pass", 8, "bon8", "rloo"),
        ("pass", 32, "bon8", "rloo"),
        ("pass", 1, "bon8", "rloo_slow"),
        ("pass", 8, "bon8", "rloo_slow"),
        ("pass", 32, "bon8", "rloo_slow"),
        ("pass", 8, "bon8", "sft"),
        ("pass", 8, "schedule", "bon8"),
        ("pass", 1, "schedule", "rloo"),
        ("pass", 1, "schedule", "rloo_slow"),
        ("pass", 8, "schedule", "rloo_slow"),
        ("pass", 32, "schedule", "rloo_slow"),
        ("bon", 8, "bon8", "rloo"),
        ("bon", 32, "bon8", "rloo"),
        ("bon", 8, "bon8", "sft"),
        ("majority", 8, "majority", "rloo"),
        ("majority", 8, "majority", "rloo_slow"),
        ("majority", 8, "votes", "rloo"),
        ("majority", 8, "votes", "rloo_slow"),
        ("majority", 8, "votes", "majority"),
        ("majority", 8, "votes", "sft"),
        ("majority", 32, "majority", "rloo"),
        ("majority", 32, "votes", "rloo"),
        ("strategies", 2, "bon8", "rloo"),
        ("slips", 2, "bon8", "rloo"),
    ),
)
