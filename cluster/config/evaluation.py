"""What an evaluation samples and reports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from verifiers.number_config import Temperature

DEFAULT_KS = (1, 4, 8, 16, 32)
DURING_SAMPLES = 16
CRITERIA = ("pass", "best_of", "majority")
"""Of k samples each: pass@16."""


def ks_within(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """(1, 4, 8, 16, 32), those of them that samples_per_problem reaches"""
    return tuple(k for k in DEFAULT_KS if k <= settings["samples_per_problem"])


def samples_during(settings: Mapping[str, Any]) -> int:
    """16, or samples_per_problem where that is less"""
    return min(DURING_SAMPLES, settings["samples_per_problem"])


def k_of(criterion: str) -> int | None:
    """The k of "pass@16", "best_of@16" or "majority@16"; None of "reward". Raises ValueError for anything else."""
    if criterion == "reward":
        return None
    found = re.fullmatch(rf"({'|'.join(CRITERIA)})@([1-9]\d*)", criterion)
    if found is None:
        names = ", ".join(f"'{name}@K'" for name in CRITERIA)
        raise ValueError(
            f"= {criterion!r} is none of {names} and 'reward': give one of them, such as 'pass@16'"
        )
    return int(found[2])


class EvalConfig(BaseModel):
    """Held-out evaluation: while it trains, after training, and by `bonfire eval`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples_per_problem: int = Field(64, ge=1, description="n: samples drawn of each held-out problem.")
    temperatures: tuple[Temperature, ...] = Field(
        (), description="Sampling temperatures, each model at each; none: rollout.temperature alone."
    )
    ks: tuple[int, ...] = Field(
        default_factory=ks_within,
        description="k of pass@k, Best-of-k and majority@k, each at most samples_per_problem.",
    )
    seed: int = Field(1, ge=0, lt=2**31, description="Seed of the samples and the bootstrap.")
    every: int = Field(
        0,
        ge=0,
        description="Steps from one evaluation while it trains to the next, before the first step and after the last one "
        "too; 0: none.",
    )
    during_problems: int = Field(
        64, ge=1, description="Held-out problems of each of them: the same ones, chosen by the seed."
    )
    during_samples: int = Field(
        default_factory=samples_during,
        ge=1,
        description="Samples of each problem while it trains; at most samples_per_problem.",
    )

    @model_validator(mode="after")
    def _ks_fit(self) -> EvalConfig:
        if not self.ks or min(self.ks) < 1 or max(self.ks) > self.samples_per_problem:
            raise ValueError(
                f"ks = {list(self.ks)} must lie in 1..samples_per_problem = {self.samples_per_problem}: "
                "pass@k cannot be estimated from fewer than k samples"
            )
        return self

    @model_validator(mode="after")
    def _fewer_during(self) -> EvalConfig:
        if (
            self.during_samples > self.samples_per_problem
        ):  # a problem's seeds would be those of the next one too
            raise ValueError(
                f"during_samples = {self.during_samples} exceeds samples_per_problem = {self.samples_per_problem}: lower "
                "the first or raise the second"
            )
        return self

    def seed_of(self, index: int) -> int:
        """Of the first sample of the problem at that place of the split, by which that of all others is one more.

        By the problem alone: a call that goes on draws what an uninterrupted one would have drawn.
        """
        return (self.seed << 32) + index * self.samples_per_problem

    @model_validator(mode="after")
    def _temperatures_differ(self) -> EvalConfig:
        names = [f"{temperature:g}" for temperature in self.temperatures]  # they name the files of samples
        if len(set(names)) < len(names):
            raise ValueError(
                f"temperatures = [{', '.join(names)}] names one of them twice: give each only once"
            )
        return self
