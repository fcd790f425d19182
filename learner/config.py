"""Settings of the learner and of supervised fine-tuning. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

WITHOUT_EFFECT_ON_RESULT = frozenset(
    {"micro_batch_tokens", "publish_dtype", "parity_sequences", "parity_versions", "num_cpus", "num_gpus"}
)
"""Fields of `LearnerConfig` that may differ when a run is resumed."""


class LearnerConfig(BaseModel):
    """The optimizer, its memory budget and the checks on every batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(
        1e-4, gt=0, allow_inf_nan=False, description="AdamW's step size after the warm-up."
    )
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's two averaging factors.")
    eps: float = Field(1e-8, gt=0, description="AdamW's denominator offset.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled decay, per unit of learning rate.")
    max_grad_norm: float = Field(
        1.0, gt=0, description="Global gradient norm above which gradients are scaled down."
    )
    warmup_steps: int = Field(10, ge=0, description="Steps over which the learning rate rises linearly.")
    micro_batch_tokens: int = Field(
        8192, ge=1, description="Token positions of one forward pass; bounds memory, not the result."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Dtype of the computation (autocast); parameters and optimizer stay float32."
    )
    publish_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Dtype of the published weights: the rollout engines' own."
    )
    max_importance_ratio: float = Field(
        2.0, ge=1, description="Upper bound of a token's ratio pi / mu (policy over sampler)."
    )
    parity_sequences: int = Field(
        64,
        ge=0,
        description="Sequences a step re-computed under the weights they were sampled with; 0: none.",
    )
    parity_versions: int = Field(
        4, ge=1, description="Newest published versions kept in memory for that, the current one included."
    )
    num_cpus: float = Field(1.0, ge=0, description="CPU cores the learner reserves; its torch threads.")
    num_gpus: float = Field(0.0, ge=0, description="GPUs the learner reserves; 0: it computes on the CPU.")


class SftConfig(BaseModel):
    """The countdown base model, trained from scratch on generated demonstrations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_demonstrations: int = Field(150_000, ge=1, description="Demonstrations generated.")
    corruption: float = Field(0.2, ge=0, le=1, description="Fraction of demonstrations with a wrong target.")
    seed: int = Field(0, ge=0, description="Seed of demonstrations, initial weights and batches.")
    steps: int = Field(1000, ge=1, description="Optimizer steps.")
    schedule_steps: int = Field(
        1500, ge=1, description="Steps at which the cosine would reach its floor of 5 %."
    )
    batch_size: int = Field(128, ge=1, description="Demonstrations a step.")
    learning_rate: float = Field(2e-3, gt=0, description="AdamW's peak step size.")
    warmup_steps: int = Field(100, ge=0, description="Steps over which the learning rate rises linearly.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled decay, per unit of learning rate.")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's two averaging factors.")
    max_grad_norm: float = Field(
        1.0, gt=0, description="Global gradient norm above which gradients are scaled down."
    )
    hidden_size: int = Field(96, ge=1, description="Width of the residual stream.")
    num_layers: int = Field(3, ge=1, description="Transformer blocks.")
    num_heads: int = Field(
        3, ge=1, description="Attention heads; vLLM's CPU attention needs 32 channels or more a head."
    )
    intermediate_size: int = Field(256, ge=1, description="Width of the feed-forward layer.")
