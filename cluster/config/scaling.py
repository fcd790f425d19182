"""When the controller may change the numbers of workers by itself, and within which bounds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from verifiers.number_config import Finite, Seconds


class ScalingConfig(BaseModel):
    """The policy that adds and removes workers while the run trains; without the section there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_rollout: int = Field(1, ge=1, description="Fewest rollout workers, also by `bonfire scale`.")
    max_rollout: int = Field(ge=1, description="Most rollout workers, also by `bonfire scale`.")
    min_verifier: int = Field(1, ge=1, description="Fewest verifier workers, also by `bonfire scale`.")
    max_verifier: int = Field(ge=1, description="Most verifier workers, also by `bonfire scale`.")
    every_s: Seconds = Field(
        10.0,
        ge=1,
        description="Seconds between two looks; each is at the time since the last.",
    )
    patience: int = Field(3, ge=1, description="Looks in a row that must ask for the same before it is done.")
    cooldown_s: Seconds = Field(
        60.0,
        ge=0,
        description="Seconds after a change, also by `bonfire scale`, in which nothing is looked at.",
    )
    starved_above: Finite = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of its time, 0 to 1, that the learner must wait for batches before workers are added.",
    )
    queue_above: Finite = Field(
        4.0,
        gt=0,
        description="Groups waiting for a verdict, per verifier worker, above which the verifiers hold the learner "
        "up and not the engines.",
    )
    busy_below: Finite = Field(
        0.7,
        gt=0,
        lt=1,
        description="Share of their time, 0 to 1, that the other workers of a role would at most be busy if one of "
        "them is to be removed.",
    )

    @model_validator(mode="after")
    def _check(self) -> ScalingConfig:
        faults = [
            f"scaling.min_{role} = {low} exceeds scaling.max_{role} = {high}: lower the first or raise the second"
            for role in ("rollout", "verifier")
            if (low := self.bounds(role)[0]) > (high := self.bounds(role)[1])
        ]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def bounds(self, role: str) -> tuple[int, int]:
        """Fewest and most workers of a role, `rollout` or `verifier`."""
        bounds = {
            "rollout": (self.min_rollout, self.max_rollout),
            "verifier": (self.min_verifier, self.max_verifier),
        }
        return bounds[role]
