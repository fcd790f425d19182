"""What an evaluation samples and reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from verifiers.number_config import Temperature

DEFAULT_KS = (1, 4, 8, 16, 32)


def ks_within(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """(1, 4, 8, 16, 32), those of them that samples_per_problem reaches"""
    return tuple(k for k in DEFAULT_KS if k <= settings["samples_per_problem"])


class EvalConfig(BaseModel):
    """Held-out evaluation, after training and by `bonfire eval`."""

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

    @model_validator(mode="after")
    def _ks_fit(self) -> EvalConfig:
        if not self.ks or min(self.ks) < 1 or max(self.ks) > self.samples_per_problem:
            raise ValueError(
                f"ks = {list(self.ks)} must lie in 1..samples_per_problem = {self.samples_per_problem}: "
                "pass@k cannot be estimated from fewer than k samples"
            )
        return self

    @model_validator(mode="after")
    def _temperatures_differ(self) -> EvalConfig:
        names = [f"{temperature:g}" for temperature in self.temperatures]  # they name the files of samples
        if len(set(names)) < len(names):
            raise ValueError(
                f"temperatures = [{', '.join(names)}] names one of them twice: give each only once"
            )
        return self
