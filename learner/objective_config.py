"""Settings of the training objective. Imports no torch: every role reads its own config."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Baseline = Literal["none", "loo", "loo1"]


class ObjectiveConfig(BaseModel):
    """Which expectation the learner ascends, and the baseline that reduces its variance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["bon", "rloo"] = Field(
        default="bon",
        description="row of learner.objectives.OBJECTIVES: bon = reward of the best of num_select samples, "
        "rloo = reward of a single sample",
    )
    num_select: int = Field(
        default=16,
        ge=1,
        description="bon: number of samples among which the verifier selects at inference; "
        "at most the number of samples drawn per prompt",
    )
    baseline: Baseline = Field(
        default="loo1",
        description="bon: what is subtracted, the Best-of-k value of the other samples with k = num_select (loo) "
        "or k = num_select - 1 (loo1), or nothing (none); none of them biases the gradient",
    )
    baseline_k: int | None = Field(
        default=None,
        ge=1,
        description="bon: any other k for the baseline, in place of `baseline`; "
        "below the number of samples drawn per prompt",
    )

    @property
    def num_samples_needed(self) -> int:
        """The fewest samples per prompt from which this objective's gradient can be estimated."""
        if self.name == "rloo":
            return 2
        if self.baseline_k is not None:
            return max(self.num_select, self.baseline_k + 1)
        return {
            "none": self.num_select,
            "loo": self.num_select + 1,
            "loo1": max(self.num_select, 2),
        }[self.baseline]

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> Self:
        for field in sorted(self._without_effect() & self.model_fields_set):
            value = getattr(self, field)
            if value is None:
                continue
            if self.name != "bon":
                raise ValueError(
                    f"{field} = {value!r} has no effect on the objective {self.name!r}: remove it or set name = 'bon'"
                )
            raise ValueError(
                f"{field} = {value!r} has no effect when baseline_k = {self.baseline_k} is set: remove one of the two"
            )
        return self

    @model_serializer(mode="wrap")
    def _omit_settings_without_effect(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is written reads back: a resolved config never trips the check above."""
        without_effect = self._without_effect()
        return {field: value for field, value in serialize(self).items() if field not in without_effect}

    def _without_effect(self) -> set[str]:
        if self.name != "bon":
            return {"num_select", "baseline", "baseline_k"}
        return {"baseline"} if self.baseline_k is not None else set()
