"""How samples are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors.engine_config import EngineArguments
from verifiers.number_config import Finite, Reserved, Seconds, Temperature
from verifiers.resources_config import CustomResources, Dtype, dtype_by_device

KvAfterUpdate = Literal["recompute", "keep"]

DECIDED_OF_TEMPLATES = {
    *(
        "conversation",
        "messages",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
    ),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    *("tokenizer_kwargs", "processor_kwargs", "tools", "documents"),
}
"""Names that the rendering of a template takes for itself."""


def startup_s_by_device(settings: Mapping[str, Any]) -> float:
    """180 on the CPU, 900 with num_gpus > 0"""
    return 900.0 if settings.get("num_gpus", 0) > 0 else 180.0


class ChatConfig(BaseModel):
    """How a prompt becomes a conversation, for models that have a chat template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Put the prompt into the tokenizer's chat template, as a user's turn. auto: where it has one.",
    )
    system_prompt: str | None = Field(
        None,
        min_length=1,
        description="System turn before the user's; None: what the template says without one.",
    )
    arguments: dict[str, str | int | Finite | bool] = Field(
        {}, description="Variables of the chat template, such as { enable_thinking = false }."
    )

    @model_validator(mode="after")
    def _check(self) -> ChatConfig:
        faults = [
            f"rollout.chat.arguments.{name} is not yours to set: it says how a template is rendered, and is no variable "
            "of one; remove it"
            for name in sorted(DECIDED_OF_TEMPLATES & self.arguments.keys())
        ]
        faults += [
            f"rollout.chat.{name} = {value!r} has no effect with rollout.chat.template = 'never': remove it"
            for name, value in self.only_with_template.items()
            if self.template == "never"
        ]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def only_with_template(self) -> dict[str, object]:
        """What is set and has no effect without a chat template."""
        settings = {"system_prompt": self.system_prompt, "arguments": self.arguments}
        return {name: value for name, value in settings.items() if value}


class RolloutConfig(BaseModel):
    """Rollout workers and the engine each of them holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(1, ge=1, description="Rollout workers to start with (one vLLM engine each).")
    samples_per_prompt: int = Field(32, ge=1, description="n: samples drawn of each prompt; at least N.")
    temperature: Temperature = Field(
        1.0,
        description="Sampling temperature, in training and in evaluation. No truncation (top-p, top-k).",
    )
    max_tokens: int = Field(256, ge=1, description="Longest completion, in tokens, stop token included.")
    max_model_len: int = Field(1024, ge=2, description="Longest prompt plus completion, in tokens.")
    max_num_seqs: int = Field(256, ge=1, description="Sequences an engine decodes at a time.")
    max_queued_groups: int = Field(
        0,
        ge=0,
        description="Most groups leased to one worker at a time; 0: as many as have sequences for a full engine, and as "
        "many again that wait.",
    )
    divide_groups: bool = Field(
        True,
        description="Let several workers sample one group where that evens out what their engines have to do; its prompt is "
        "computed by each of them. false: a group is sampled by one worker.",
    )
    kv_cache_mib: int = Field(
        256, ge=16, description="KV cache of each engine, all its parts together, in MiB."
    )
    prefix_caching: bool = Field(True, description="Share the prompt's KV among the samples of a group.")
    kv_after_update: KvAfterUpdate = Field(
        "recompute",
        description="What sequences in flight go on with after an update: recompute = their prefix is computed again, so "
        "that each later token is exactly the new policy's; keep = the KV that the older weights made, at no cost.",
    )
    engine: EngineArguments = Field({})
    chat: ChatConfig = ChatConfig()
    tensor_parallel: int = Field(
        1,
        ge=1,
        description="Processes, on one node, among which an engine divides each of its layers, for a model that does not fit "
        "one GPU; a divisor of the model's attention heads and the width of its feed-forward layers.",
    )
    adapter_rank: int | None = Field(
        None,
        ge=1,
        description="Rank of the adapters that engines get in place of whole weights; None: learner.lora.rank, with "
        "learner.lora.publish = 'adapter', else there are none.",
    )
    num_cpus: Reserved = Field(1.0, ge=0, description="CPU cores a worker reserves; its OpenMP threads.")
    num_gpus: Reserved = Field(
        0.0,
        ge=0,
        le=1,
        description="GPUs a worker reserves for each of tensor_parallel; 0: the CPU engine. Less than 1: that share of a "
        "GPU's memory, beside another worker.",
    )
    dtype: Dtype = Field(
        default_factory=dtype_by_device, description="Dtype of the engine's weights and activations."
    )
    resources: CustomResources = Field({})
    startup_timeout_s: Seconds = Field(
        default_factory=startup_s_by_device,
        gt=0,
        description="Seconds an engine may take to come up, from when its worker has its resources; on a GPU it compiles "
        "kernels and captures graphs.",
    )
    group_timeout_s: Seconds = Field(
        600.0, gt=1, description="Seconds one group may take in an engine before its worker counts as stuck."
    )
    heartbeat_timeout_s: Seconds = Field(
        60.0, gt=1, description="Seconds without a sign of life after which a worker is replaced."
    )
    suspect_after_s: Seconds = Field(
        3.0,
        gt=0,
        description="Seconds that a sign of life, due every second, may be late before others are given a worker's "
        "groups, and another is started where there is room. It goes on if it answers within heartbeat_timeout_s.",
    )
    drain_timeout_s: Seconds = Field(
        60.0,
        ge=0,
        description="Seconds a worker that is to leave may take to finish its groups; others sample the rest anew.",
    )

    @model_validator(mode="after")
    def _refuse_parts_that_share_a_gpu(self) -> RolloutConfig:
        if self.tensor_parallel > 1 and 0 < self.num_gpus < 1:
            raise ValueError(
                f"num_gpus = {self.num_gpus:g} with tensor_parallel = {self.tensor_parallel}: each part wants a GPU of its "
                "own; set num_gpus = 1, or tensor_parallel = 1"
            )
        return self

    @property
    def gpus_of_worker(self) -> float:
        """All parts of its engine together."""
        return self.num_gpus * self.tensor_parallel

    def room(
        self, *, num_samples: int, num_leases: int, num_unfinished: int, capacity: float, smallest: int
    ) -> int:
        """How many sequences, of groups of `num_samples`, a worker would take that has so many leases, and so many unfinished
        sequences of them.

        So that there are always enough to fill its engine, of which it can hold `capacity` sequences at a time, and as
        many again that wait; in whole pieces of the `smallest` size, and two of them at least. Leases would not tell: the
        last sequence of one may run for long after the others.
        """
        if self.max_queued_groups:
            return num_samples * max(0, self.max_queued_groups - num_leases)
        num_missing = 2 * min(capacity, self.max_num_seqs) - num_unfinished
        return smallest * max(math.ceil(num_missing / smallest), 2 - num_leases, 0)
