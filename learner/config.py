"""Settings of the learner. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from verifiers.number_config import Averaging, Decay, Finite, Reserved, Seconds, StepSize
from verifiers.resources_config import CustomResources, Dtype, dtype_by_device
from verifiers.section_config import DependentSettings

Importance = Literal["token", "sequence", "ppo_clip", "none"]
Schedule = Literal["constant", "linear", "cosine"]

WITHOUT_EFFECT_ON_RESULT = frozenset(
    {
        "micro_batch_tokens",
        "share_prompts",
        "recompute",
        "publish_dtype",
        "parity_share",
        "parity_versions",
        "ranks",
        "num_cpus",
        "num_gpus",
        "resources",
        "startup_timeout_s",
    }
)
"""Fields of `LearnerConfig` that may differ when a run is resumed: at most they change how sums are rounded."""

_OF_DECAY = frozenset({"schedule_steps", "schedule_floor"})
_CLIP = frozenset({"clip_low", "clip_high"})
_WITHOUT_EFFECT: dict[Importance, frozenset[str]] = {
    "token": _CLIP,
    "sequence": _CLIP,
    "ppo_clip": frozenset({"max_importance_ratio"}),
    "none": _CLIP | {"max_importance_ratio"},
}

ALL_LINEAR = "all-linear"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


MAX_RANK_APART = 512
"""Of vLLM's own path for adapters."""


class LoraConfig(BaseModel):
    """Low-rank adapters in place of training all weights: W + (alpha / rank) B A, of which A and B are trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(
        16, ge=1, description="Rows of A and columns of B: what an update of a weight can be, and its memory."
    )
    alpha: Finite = Field(
        32.0,
        gt=0,
        le=100_000,
        description="B A is multiplied by alpha / rank, so that rank can change and learning_rate stay.",
    )
    target: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (ALL_LINEAR,),
        min_length=1,
        description='Names of the linear layers that get adapters, as in ["q_proj", "v_proj"]; "all-linear": all but the '
        "output head. Anything else stays as it is.",
    )
    publish: Literal["merged", "adapter"] = Field(
        "merged",
        description="What engines get: merged = whole weights, adapted, exactly those the learner computes with; adapter = "
        "A and B alone, some hundredths of the bytes, which vLLM applies by its own path for adapters.",
    )
    dropout: Finite = Field(
        0.0,
        ge=0,
        lt=1,
        description="0 is the only value: dropped inputs would give tokens other log-probs than they were sampled with.",
    )

    @model_serializer(mode="wrap")
    def _leave_out_what_is_usual(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Checkpoints of before there was a choice know nothing of `publish`."""
        written: dict[str, Any] = serialize(self)
        if self.publish == "merged":
            written.pop("publish", None)
        return written

    @model_validator(mode="after")
    def _refuse_what_is_no_policy(self) -> Self:
        if self.dropout:
            raise ValueError(
                f"dropout = {self.dropout:g}: engines sample without it, so the learner would train another policy than "
                "they sample from, and the parity check would stop the run: set it to 0, and lower rank or raise "
                "learner.weight_decay against overfitting"
            )
        if self.publish == "adapter" and self.rank > MAX_RANK_APART:
            raise ValueError(
                f"rank = {self.rank} is more than the {MAX_RANK_APART} that vLLM has room for: lower it, or set publish = 'merged'"
            )
        if len(set(self.target)) < len(self.target):
            raise ValueError(f"target = {list(self.target)} names a layer twice: leave one out")
        if ALL_LINEAR in self.target and len(self.target) > 1:
            raise ValueError(
                f"target = {list(self.target)}: {ALL_LINEAR!r} is all of them: leave it out, or the names"
            )
        return self


class LearnerConfig(DependentSettings):
    """The optimizer, its memory budget and the checks on every batch.

    What is None follows from other sections: `RunConfig` fills it in.
    """

    learning_rate: StepSize = Field(
        1e-6,
        gt=0,
        description="AdamW's step size after the warm-up. The default suits pretrained models, all of whose weights "
        "are trained; one made from scratch by [sft] wants some 1e-4.",
    )
    schedule: Schedule = Field(
        "constant",
        description="What the learning rate does after the warm-up: stay, or decay from the first step on.",
    )
    schedule_steps: int | None = Field(
        None,
        ge=1,
        description="linear, cosine: steps after which the decay has reached its floor, where it stays; None: "
        "train.steps. A run that is resumed keeps those it began with, also where train.steps is raised.",
    )
    schedule_floor: Finite = Field(
        0.1, ge=0, le=1, description="linear, cosine: share of learning_rate that is left in the end."
    )
    warmup_steps: int = Field(10, ge=0, description="Steps over which the learning rate rises linearly.")
    betas: tuple[Averaging, Averaging] = Field((0.9, 0.95), description="AdamW's two averaging factors.")
    eps: Finite = Field(1e-8, ge=1e-12, description="AdamW's denominator offset.")
    weight_decay: Decay = Field(0.0, ge=0, description="AdamW's decoupled decay, per unit of learning rate.")
    loss_normaliser: Finite | None = Field(
        None,
        ge=1e-6,
        description="Constant that the loss, a sum over tokens, is divided by, so that the norm of its gradient is of "
        "order one; None: rollout.max_tokens. Without clipping it changes nothing but what eps is compared with.",
    )
    max_grad_norm: Finite = Field(
        1.0,
        gt=0,
        description="Norm of the whole gradient, after loss_normaliser, above which it is scaled down. Meant for rare "
        "steps: see clipped_fraction.",
    )
    micro_batch_tokens: int = Field(
        8192, ge=1, description="Token positions of one forward pass; bounds memory, not the result."
    )
    recompute: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Compute each block once more in the backward pass instead of keeping what is inside: about a "
        "third more work, and a fraction of the memory. auto: a pass that would not fit otherwise.",
    )
    share_prompts: bool = Field(
        True,
        description="Compute the prompt of a group once for all its samples, where the model's layers allow it.",
    )
    weights_dtype: Dtype = Field(
        "float32",
        description="Dtype of the weights that are trained, of their gradients and of AdamW's averages: 16 bytes a "
        "parameter with float32, 8 with bfloat16, whose updates are rounded at random (docs/learner.md). With [learner.lora] "
        "that of the frozen weights, 4 bytes a parameter or 2; adapters are float32.",
    )
    lora: LoraConfig | None = Field(
        None, description="Train low-rank adapters, and leave the model's own weights as they are."
    )
    publish_dtype: Dtype | None = Field(
        None,
        description="Dtype of the published weights, which must be the engines' own; None: rollout.dtype.",
    )
    importance: Importance = Field(
        "token",
        description="How samples of an older policy are weighted: token = every token by its ratio pi / mu (policy "
        "over sampler), sequence = every sample by the product of its ratios, ppo_clip = by token, without a gradient "
        "where the ratio has left the clip range in the direction of the weight, none = not at all.",
    )
    max_importance_ratio: Finite = Field(
        2.0, ge=1, description="token, sequence: upper bound of the ratio pi / mu."
    )
    clip_low: Finite = Field(
        0.2, gt=0, le=1, description="ppo_clip: a negative weight counts while pi / mu >= 1 - clip_low."
    )
    clip_high: Finite = Field(
        0.2,
        gt=0,
        description="ppo_clip: a positive weight counts while pi / mu <= 1 + clip_high.",
    )
    kl_coefficient: Finite = Field(
        0.0,
        ge=0,
        description="Weight of the KL divergence to the run's model before training, in rewards per nat and sample; "
        "0: off, else one more forward pass, and one more copy of the weights in memory (none with [learner.lora]).",
    )
    parity_share: Finite = Field(
        0.05,
        ge=0,
        description="Positions that the parity check computes, as a share of those trained; tokens of the newest "
        "version in trained samples cost nothing and are compared besides.",
    )
    parity_versions: int | None = Field(
        None,
        ge=1,
        description="Newest published versions kept in memory for that, the current one included; None: "
        "train.max_staleness + 1, all that a sample may be of.",
    )
    ranks: int = Field(
        1,
        ge=1,
        description="Processes over which parameters, gradients and optimizer are sharded, and a batch divided.",
    )
    num_cpus: Reserved = Field(1.0, ge=0, description="CPU cores each rank reserves; its torch threads.")
    num_gpus: Reserved = Field(
        0.0,
        ge=0,
        description="Of a GPU each rank reserves; less than 1: a share of its memory too, 0: it computes on the CPU.",
    )
    dtype: Dtype = Field(
        default_factory=dtype_by_device,
        description="Dtype of the computation (autocast); parameters and optimizer are of weights_dtype.",
    )
    resources: CustomResources = Field({})
    startup_timeout_s: Seconds = Field(
        180.0,
        gt=0,
        description="Seconds until all ranks must have their resources, and then each phase of their start may take.",
    )

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> Self:
        for field in sorted((self._without_effect() & self.model_fields_set) - {"lora"}):
            if field in _OF_DECAY:
                chooser, other = "schedule", "cosine"
            else:
                chooser = "importance"
                other = next(name for name, without in _WITHOUT_EFFECT.items() if field not in without)
            raise ValueError(
                f"{field} = {getattr(self, field)!r} has no effect with {chooser} = {getattr(self, chooser)!r}: "
                f"remove it or set {chooser} = {other!r}"
            )
        return self

    @model_validator(mode="after")
    def _refuse_to_compute_more_exactly_than_the_weights_are(self) -> Self:
        if self.weights_dtype == "bfloat16" and self.dtype != "bfloat16":
            raise ValueError(
                f"weights_dtype = 'bfloat16' with dtype = {self.dtype!r}: the weights are no more exact than that; "
                "set dtype = 'bfloat16', or weights_dtype = 'float32'"
            )
        return self

    @model_validator(mode="after")
    def _give_each_rank_a_gpu(self) -> Self:
        if self.num_gpus > 1:
            raise ValueError(
                f"num_gpus = {self.num_gpus:g}: a rank computes on one GPU; set num_gpus = 1 and "
                f"ranks = {self.ranks * int(self.num_gpus)}"
            )
        if self.ranks > 1 and 0 < self.num_gpus < 1:
            raise ValueError(
                f"num_gpus = {self.num_gpus:g} with ranks = {self.ranks}: NCCL wants a GPU of its own for each rank; "
                "set num_gpus = 1, or ranks = 1"
            )
        return self

    @property
    def rank_apart(self) -> int | None:
        """Of the adapters that engines get alone; None: they get whole weights."""
        return self.lora.rank if self.lora is not None and self.lora.publish == "adapter" else None

    @property
    def decays(self) -> bool:
        """Whether the learning rate falls in the course of the run."""
        return self.schedule != "constant"

    def _without_effect(self) -> frozenset[str]:
        without = _WITHOUT_EFFECT[self.importance] | (frozenset() if self.decays else _OF_DECAY)
        # Checkpoints without adapters know nothing of the setting.
        return without | {"lora"} if self.lora is None else without
