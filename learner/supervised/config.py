"""Settings of supervised fine-tuning. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from learner.config import LearnerConfig, Schedule
from verifiers.number_config import Averaging, Decay, Finite, StepSize
from verifiers.section_config import DependentSettings

_FROM_SCRATCH = frozenset(
    {
        "num_demonstrations",
        "notation",
        "corruption",
        "schedule_steps",
        "hidden_size",
        "num_layers",
        "num_heads",
        "intermediate_size",
    }
)
_FINE_TUNING = frozenset(
    {
        "epochs",
        "schedule",
        "schedule_floor",
        "held_out_share",
        "held_out_max",
        "held_out_every",
        "checkpoint_every",
    }
)


def _steps(settings: Mapping[str, Any]) -> int | None:
    """1000 from scratch; with base_model as many as `epochs` take"""
    return None if settings.get("base_model") else 1000


def _batch_size(settings: Mapping[str, Any]) -> int:
    """128 from scratch, 32 with base_model"""
    return 32 if settings.get("base_model") else 128


def _learning_rate(settings: Mapping[str, Any]) -> float:
    """2e-3 from scratch, 2e-5 with base_model"""
    return 2e-5 if settings.get("base_model") else 2e-3


def _warmup_steps(settings: Mapping[str, Any]) -> int:
    """100 from scratch, 10 with base_model"""
    return 10 if settings.get("base_model") else 100


class SftConfig(DependentSettings):
    """Supervised fine-tuning on demonstrations, before the run: of a pretrained model, or the countdown model from scratch."""

    base_model: str | None = Field(
        None,
        min_length=1,
        description="Checkpoint directory or hub id that is fine-tuned on the demonstrations of the training problems. "
        "None: a countdown model is made from scratch, on generated demonstrations.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of batches; from scratch also of demonstrations and initial weights.",
    )
    epochs: Finite = Field(
        3.0,
        gt=0,
        description="Passes over the demonstrations, also in fractions, where steps are not given (base_model).",
    )
    steps: int | None = Field(default_factory=_steps, ge=1, description="Optimizer steps.")
    batch_size: int = Field(default_factory=_batch_size, ge=1, description="Demonstrations a step.")
    learning_rate: StepSize = Field(
        default_factory=_learning_rate, gt=0, description="AdamW's peak step size."
    )
    warmup_steps: int = Field(
        default_factory=_warmup_steps,
        ge=0,
        description="Steps over which the learning rate rises linearly.",
    )
    schedule: Schedule = Field(
        "cosine",
        description="What the learning rate does in the course of all steps: stay, or decay (base_model).",
    )
    schedule_floor: Finite = Field(
        0.1,
        ge=0,
        le=1,
        description="linear, cosine: share of learning_rate that is left in the end (base_model).",
    )
    weight_decay: Decay = Field(0.01, ge=0, description="AdamW's decoupled decay, per unit of learning rate.")
    betas: tuple[Averaging, Averaging] = Field((0.9, 0.98), description="AdamW's two averaging factors.")
    max_grad_norm: Finite = Field(
        1.0, gt=0, description="Global gradient norm above which gradients are scaled down."
    )
    held_out_share: Finite = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share of the demonstrations that is not trained on but measured, by a hash of their prompts; 0: none "
        "(base_model).",
    )
    held_out_max: int = Field(
        512,
        ge=1,
        description="Demonstrations that are held out at most, however many the share would be (base_model).",
    )
    held_out_every: int = Field(
        50,
        ge=1,
        description="Steps between measurements of the held-out loss, beside those at the start and the end "
        "(base_model).",
    )
    checkpoint_every: int = Field(
        100,
        ge=1,
        description="Steps between checkpoints, from which an interrupted call goes on (base_model).",
    )
    num_demonstrations: int = Field(150_000, ge=1, description="Demonstrations generated (from scratch).")
    notation: Literal["expression", "steps"] = Field(
        "expression", description="How they are written; see problems.notation (from scratch)."
    )
    corruption: Finite = Field(
        0.2, ge=0, le=1, description="Fraction of demonstrations with a wrong target (from scratch)."
    )
    schedule_steps: int = Field(
        1500, ge=1, description="Steps after which the cosine would reach its floor of 5 % (from scratch)."
    )
    hidden_size: int = Field(96, ge=1, description="Width of the residual stream (from scratch).")
    num_layers: int = Field(3, ge=1, description="Transformer blocks (from scratch).")
    num_heads: int = Field(
        3,
        ge=1,
        description="Attention heads; vLLM's CPU attention needs 32 channels or more a head (from scratch).",
    )
    intermediate_size: int = Field(256, ge=1, description="Width of the feed-forward layer (from scratch).")

    def num_rows(self, num_demonstrations: int) -> int:
        """Demonstrations learned from in all steps, each as often as it comes."""
        if self.steps is not None:
            return self.steps * self.batch_size
        return max(1, round(self.epochs * num_demonstrations))

    def learner_config(self, learner: LearnerConfig, num_steps: int) -> LearnerConfig:
        """What trains the base model: `learner` says on what, and in which precision, this section how."""
        decays = self.schedule != "constant"
        lora = learner.lora
        return learner.model_copy(
            update={
                # No engine is given anything: what is trained is what comes of it when it is merged.
                "lora": None if lora is None else lora.model_copy(update={"publish": "merged"}),
                "learning_rate": self.learning_rate,
                "schedule": self.schedule,
                "schedule_steps": num_steps if decays else None,
                "schedule_floor": self.schedule_floor,
                "warmup_steps": self.warmup_steps,
                "betas": self.betas,
                "weight_decay": self.weight_decay,
                "max_grad_norm": self.max_grad_norm,
                "kl_coefficient": 0.0,
            }
        )

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> Self:
        for field in sorted(self._without_effect() & self.model_fields_set):
            value = getattr(self, field)
            if field in _FROM_SCRATCH and self.base_model is not None:
                why = f"with base_model = {self.base_model!r}: remove one of the two"
            elif field in _FINE_TUNING and self.base_model is None:
                why = "on a countdown model from scratch: remove it, or set base_model"
            elif field == "epochs":
                why = f"beside steps = {self.steps}: remove one of the two"
            else:
                why = f"with schedule = {self.schedule!r}: remove it or set schedule = 'cosine'"
            raise ValueError(f"{field} = {value!r} has no effect {why}")
        return self

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} is not a multiple of num_heads = {self.num_heads}: change one of them"
            )
        return self

    def _without_effect(self) -> frozenset[str]:
        if self.base_model is None:
            return _FINE_TUNING
        without = _FROM_SCRATCH
        if self.steps is not None:
            without |= {"epochs"}
        if self.schedule == "constant":
            without |= {"schedule_floor"}
        return without
