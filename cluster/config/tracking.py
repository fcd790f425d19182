"""Which experiment trackers are told of a run, and how much."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from verifiers.number_config import Seconds

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class TrackingConfig(BaseModel):
    """Trackers that show the run while it trains; each is an optional package of its own (docs/tracking.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: tuple[TrackerName, ...] = Field(
        (),
        description="Trackers: 'tensorboard', 'wandb', 'mlflow', 'trackio'; where they keep it, their own environment "
        "variables say.",
    )
    project: str | None = Field(
        None,
        min_length=1,
        description="Project (W&B, Trackio) or experiment (MLflow); None: what WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME "
        "says, else bonfire.",
    )
    name: str | None = Field(
        None, min_length=1, description="The run's name there; None: that of its directory."
    )
    examples_every: int = Field(
        10, ge=0, description="Steps from one table of example groups to the next; 0: no tables."
    )
    num_examples: int = Field(4, ge=1, description="Groups in a table.")
    samples_per_example: int = Field(
        8,
        ge=1,
        description="Samples of a group in a table: the picked one, then those of the largest weight, either sign.",
    )
    flush_s: Seconds = Field(
        15.0,
        ge=0,
        description="Seconds that the end of a run waits, at most, for trackers that have not taken everything yet.",
    )

    @field_validator("to")
    @classmethod
    def _differ(cls, to: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        if len(set(to)) < len(to):
            raise ValueError(f"= {list(to)} names a tracker twice: give each only once")
        return to
