"""Settings of `bonfire train-verifier`. Imports no torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from verifiers.number_config import Decay, Finite, StepSize

VerifierLoss = Literal["pointwise", "pairwise"]


class VerifierTrainingConfig(BaseModel):
    """A verifier learned from samples and their rewards: what it reads, how it is trained and tested."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: VerifierLoss = Field(
        "pointwise",
        description="pointwise = cross-entropy of each candidate, sigmoid(logit) is P(correct); pairwise = "
        "Bradley-Terry over a problem's (correct, wrong) pairs, ranks within a problem and is no probability.",
    )
    label_threshold: Finite | None = Field(
        None,
        description="Reward above which a candidate counts as correct; None: rewards must be 0 or 1.",
    )
    template: str | None = Field(
        None,
        description="Input text; all but {prompt} and {completion} is literal. None: '{prompt}{completion}', or with a "
        "space between where the tokenizer needs one, and the end-of-sequence token behind.",
    )
    max_length: int | None = Field(
        None,
        ge=2,
        description="Tokens of the longest input; a longer candidate is refused: not trained on, and in the "
        "test never chosen. None: the model's positions.",
    )
    validation_share: Finite = Field(
        0.1, gt=0, lt=1, description="Share of the problems that choose the best step."
    )
    test_share: Finite = Field(0.2, gt=0, lt=1, description="Share of the problems held out for the report.")
    ks: tuple[int, ...] = Field(
        (1, 2, 4, 8, 16, 32),
        description="Values of k of the Best-of-k report; those above the samples of a held-out problem are left out.",
    )
    steps: int = Field(500, ge=1, description="Optimizer steps.")
    problems_per_step: int = Field(32, ge=1, description="Problems in one step's batch.")
    samples_per_problem: int = Field(
        16,
        ge=2,
        description="Distinct candidates of a problem, at most, in a step's batch and in the validation.",
    )
    learning_rate: StepSize = Field(3e-4, gt=0, description="AdamW's peak step size.")
    warmup_steps: int = Field(50, ge=0, description="Steps over which the learning rate rises linearly.")
    weight_decay: Decay = Field(0.01, ge=0, description="AdamW's decoupled decay, per unit of learning rate.")
    max_grad_norm: Finite = Field(
        1.0, gt=0, description="Global gradient norm above which gradients are scaled down."
    )
    validate_every: int = Field(
        50, ge=1, description="Steps between validations; the last step always has one."
    )
    micro_batch_tokens: int = Field(
        16384,
        ge=1,
        description="Token positions, padding included, of one forward pass; a problem's candidates stay together.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; auto: on a GPU if there is one."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Dtype of the training's computation (autocast); parameters stay float32."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of split, batches and intervals.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.ks or min(self.ks) < 1 or list(self.ks) != sorted(set(self.ks)):
            raise ValueError(f"ks = {list(self.ks)}: give positive whole numbers in ascending order")
        if self.template is not None and not (
            "{prompt}" in self.template and "{completion}" in self.template
        ):
            raise ValueError(
                f"template = {self.template!r} leaves a part out: put {{prompt}} and {{completion}} in it"
            )
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share = {self.validation_share} and test_share = {self.test_share} leave no problems "
                "to train on: lower them"
            )
        return self
