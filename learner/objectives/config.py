"""Settings of the training objective. Imports no torch: every role reads its own config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from verifiers.number_config import Finite
from verifiers.section_config import DependentSettings

Baseline = Literal["none", "loo", "loo1"]
Tilt = Literal["tie_smoothed", "paper"]
TiltMatch = Literal["kl", "moment"]
ScoreTransform = Literal["none", "rank_vs_base"]

_OF_RANKS = ("score_transform", "base_samples")
_OF_SUBSETS = ("num_select", "baseline", "baseline_k")
SETTINGS: dict[str, tuple[str, ...]] = {
    "bon": (*_OF_SUBSETS, *_OF_RANKS),
    "pass_at_k": _OF_SUBSETS,
    "max_at_k": (*_OF_SUBSETS, *_OF_RANKS),
    "majority": ("num_select", *_OF_RANKS),
    "bon_rlb": ("num_select", "max_weight"),
    "bon_rlbp": ("num_select",),
    "maxrl": (),
    "rloo": _OF_RANKS,
    "grpo": _OF_RANKS,
    "grpo_passk": ("divide_by_std", *_OF_RANKS),
    "pass_at_k_training": ("num_select",),
    "rft": (),
    "sft": (),
    "bon_sft": ("num_select", "tilt", "tilt_match", "sample_weight"),
}
"""Objective -> the settings that have an effect on it, besides `name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumSelectSchedule:
    """num_select that goes from one number to another: `{ from = 16, to = 1, over = 200 }`."""

    start: int
    end: int
    over: int  # steps until `end` is reached, where it stays

    def __str__(self) -> str:
        return f"{self.start} to {self.end} over {self.over} steps"

    def at(self, step: int) -> int:
        """The number nearest to the straight line; `step` counts from 0."""
        return round(self.start + (self.end - self.start) * min(step, self.over) / self.over)


_SCHEDULE_KEYS = ("from", "to", "over")


def _read_num_select(value: Any) -> int | NumSelectSchedule:
    if isinstance(value, NumSelectSchedule):
        return value
    if not isinstance(value, Mapping):
        return _positive(value, "")
    if set(value) != set(_SCHEDULE_KEYS):
        raise ValueError(f"= {dict(value)!r} is no schedule: give {{ from = 16, to = 1, over = 200 }}")
    start, end, over = (_positive(value[key], f"{key} = ") for key in _SCHEDULE_KEYS)
    if start == end:
        raise ValueError(f"= {dict(value)!r} never changes: give the number {start}")
    return NumSelectSchedule(start=start, end=end, over=over)


def _positive(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"= {where}{value!r} is not a positive integer: give 1 or more")
    return value


def _write_num_select(value: int | NumSelectSchedule) -> int | dict[str, int]:
    if isinstance(value, int):
        return value
    return dict(zip(_SCHEDULE_KEYS, (value.start, value.end, value.over), strict=True))


NumSelect = Annotated[
    int | NumSelectSchedule, PlainValidator(_read_num_select), PlainSerializer(_write_num_select)
]


class ObjectiveConfig(DependentSettings):
    """Which expectation the learner ascends, and how it is estimated."""

    name: Literal[
        "bon",
        "pass_at_k",
        "max_at_k",
        "majority",
        "bon_rlb",
        "bon_rlbp",
        "maxrl",
        "rloo",
        "grpo",
        "grpo_passk",
        "pass_at_k_training",
        "rft",
        "sft",
        "bon_sft",
    ] = Field(
        default="bon",
        description="what is maximised, for example bon = reward of the best of num_select samples, "
        "rloo = reward of a single sample; see `bonfire objectives`",
    )
    num_select: NumSelect = Field(
        default=16,
        description="bon, bon_rlb, bon_rlbp, bon_sft: number of samples among which the verifier selects at "
        "inference; pass_at_k, max_at_k, majority, pass_at_k_training: k. At most the number of samples drawn per "
        "prompt, but for bon_rlb, bon_rlbp and bon_sft. { from = 16, to = 1, over = 200 } goes from 16 to 1 in a "
        "straight line over the first 200 steps, and stays there",
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
    score_transform: ScoreTransform = Field(
        default="none",
        description="rank_vs_base, for objectives that take any reward: the reward of a sample is the rank of its score "
        "among those of base_samples samples of the run's model for the same problem, so that a win rate is maximised",
    )
    base_samples: int = Field(
        default=32,
        ge=1,
        description="score_transform = 'rank_vs_base': samples of the run's model that are drawn of each problem before "
        "the training, once; unbiased for any number, ranks are finer with more",
    )

    @property
    def fixed_num_select(self) -> int:
        """num_select of a config without a schedule, as `at` makes them."""
        assert isinstance(self.num_select, int)
        return self.num_select

    @property
    def num_selected(self) -> int:
        """N of a step's objective: 1 for those that select nothing."""
        return self.fixed_num_select if self.has_effect("num_select") else 1

    @property
    def largest_num_select(self) -> int:
        """The largest num_select of any step."""
        schedule = self.num_select
        return schedule if isinstance(schedule, int) else max(schedule.start, schedule.end)

    def at(self, step: int) -> ObjectiveConfig:
        """The objective of one step, counted from 0: with the num_select of that step."""
        if isinstance(self.num_select, int):
            return self
        return self.model_copy(update={"num_select": self.num_select.at(step)})

    @property
    def num_samples_needed(self) -> int:
        """The fewest samples per prompt from which this objective's gradient can be estimated, in every step."""
        num_select = self.largest_num_select
        if self.name in ("rft", "sft"):
            return 1
        if self.name == "majority":
            return max(num_select, 2)
        if self.name == "pass_at_k_training":
            return num_select + 1
        if not self.has_effect("baseline_k"):
            return 2
        if self.baseline_k is not None:
            return max(num_select, self.baseline_k + 1)
        return {"none": num_select, "loo": num_select + 1, "loo1": max(num_select, 2)}[self.baseline]

    @property
    def needs_answers(self) -> bool:
        """Whether verdicts must name the answers that vote."""
        return self.name == "majority"

    @property
    def needs_base_scores(self) -> bool:
        """Whether scores of the run's model must be at hand for every problem that is asked."""
        return self.score_transform == "rank_vs_base"

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
            if value is None or (field, value) == ("score_transform", "none"):
                continue
            if not self.has_effect(field):
                other = next(name for name, settings in SETTINGS.items() if field in settings)
                raise ValueError(
                    f"{field} = {value!r} has no effect on the objective {self.name!r}: remove it or set name = {other!r}"
                )
            if field == "base_samples":
                raise ValueError(
                    f"base_samples = {value!r} has no effect without score_transform = 'rank_vs_base': set that, or remove it"
                )
            raise ValueError(
                f"{field} = {value!r} has no effect when baseline_k = {self.baseline_k} is set: remove one of the two"
            )
        return self

    def _without_effect(self) -> set[str]:
        without_effect = set(type(self).model_fields) - {"name", *SETTINGS[self.name]}
        if not self.needs_base_scores:  # written, "none" would be news to checkpoints of older versions
            without_effect |= {"score_transform", "base_samples"}
        return without_effect | ({"baseline"} if self.baseline_k is not None else set())
