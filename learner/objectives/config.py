"""Settings of the training objective. Imports no torch: every role reads its own config."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from verifiers.number_config import Finite
from verifiers.section_config import DependentSettings

Baseline = Literal["none", "loo", "loo1"]
Tilt = Literal["tie_smoothed", "paper"]
TiltMatch = Literal["kl", "moment"]

_OF_SUBSETS = ("num_select", "baseline", "baseline_k")
SETTINGS: dict[str, tuple[str, ...]] = {
    "bon": _OF_SUBSETS,
    "pass_at_k": _OF_SUBSETS,
    "max_at_k": _OF_SUBSETS,
    "bon_rlb": ("num_select", "max_weight"),
    "bon_rlbp": ("num_select",),
    "maxrl": (),
    "rloo": (),
    "grpo": (),
    "grpo_passk": ("divide_by_std",),
    "rft": (),
    "sft": (),
    "bon_sft": ("num_select", "tilt", "tilt_match", "sample_weight"),
}
"""Objective -> the settings that have an effect on it, besides `name`."""


class ObjectiveConfig(DependentSettings):
    """Which expectation the learner ascends, and how it is estimated."""

    name: Literal[
        "bon",
        "pass_at_k",
        "max_at_k",
        "bon_rlb",
        "bon_rlbp",
        "maxrl",
        "rloo",
        "grpo",
        "grpo_passk",
        "rft",
        "sft",
        "bon_sft",
    ] = Field(
        default="bon",
        description="what is maximised, for example bon = reward of the best of num_select samples, "
        "rloo = reward of a single sample; see `bonfire objectives`",
    )
    num_select: int = Field(
        default=16,
        ge=1,
        description="bon, bon_rlb, bon_rlbp, bon_sft: number of samples among which the verifier selects at "
        "inference; pass_at_k, max_at_k: k. At most the number of samples drawn per prompt with bon, pass_at_k "
        "and max_at_k",
    )
    baseline: Baseline = Field(
        default="loo1",
        description="bon, pass_at_k, max_at_k: what is subtracted, the Best-of-k value of the other samples with "
        "k = num_select (loo) or k = num_select - 1 (loo1), or nothing (none); none of them biases the gradient",
    )
    baseline_k: int | None = Field(
        default=None,
        ge=1,
        description="bon, pass_at_k, max_at_k: any other k for the baseline, in place of `baseline`; "
        "below the number of samples drawn per prompt",
    )
    max_weight: Finite = Field(
        default=8.0,
        gt=0,
        description="bon_rlb: largest g+ and g-, the closed forms' weights of a success and of a failure; "
        "without it g- sets the size of the update wherever most samples fail",
    )
    divide_by_std: bool = Field(
        default=True,
        description="grpo_passk: divide by the group's standard deviation, as verl does by default; "
        "false: unbiased for the best reward of n samples",
    )
    tilt: Tilt = Field(
        default="tie_smoothed",
        description="bon_sft: what stands for the Best-of-N policy; tie_smoothed: ties broken at random, nearly "
        "unbiased; paper: as published, biased, and blunt where many scores are equal",
    )
    tilt_match: TiltMatch = Field(
        default="kl",
        description="bon_sft: the tilt's strength gives it Best-of-N's divergence from the policy (kl) or its mean "
        "rank (moment)",
    )
    sample_weight: Finite = Field(
        default=1.0,
        ge=0,
        description="bon_sft: multiplier of the samples' weights, whose absolute values add up to as much as "
        "num_select against 1 for the demonstration; 0 is sft",
    )

    @property
    def num_samples_needed(self) -> int:
        """The fewest samples per prompt from which this objective's gradient can be estimated."""
        if self.name in ("rft", "sft"):
            return 1
        if not self.has_effect("baseline_k"):
            return 2
        if self.baseline_k is not None:
            return max(self.num_select, self.baseline_k + 1)
        return {
            "none": self.num_select,
            "loo": self.num_select + 1,
            "loo1": max(self.num_select, 2),
        }[self.baseline]

    @property
    def needs_demonstrations(self) -> bool:
        """Whether every problem must bring an expert's completion."""
        return self.name in ("sft", "bon_sft")

    def has_effect(self, setting: str) -> bool:
        """Whether `setting` has an effect on this objective at all."""
        return setting in SETTINGS[self.name]

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> Self:
        for field in sorted(self._without_effect() & self.model_fields_set):
            value = getattr(self, field)
            if value is None:
                continue
            if not self.has_effect(field):
                other = next(name for name, settings in SETTINGS.items() if field in settings)
                raise ValueError(
                    f"{field} = {value!r} has no effect on the objective {self.name!r}: remove it or set name = {other!r}"
                )
            raise ValueError(
                f"{field} = {value!r} has no effect when baseline_k = {self.baseline_k} is set: remove one of the two"
            )
        return self

    def _without_effect(self) -> set[str]:
        without_effect = set(type(self).model_fields) - {"name", *SETTINGS[self.name]}
        return without_effect | ({"baseline"} if self.baseline_k is not None else set())
