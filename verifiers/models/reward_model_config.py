"""Settings of the reward-model verifier. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from verifiers.section_config import DependentSettings

Output = Literal["probability", "logit"]


class RewardModelConfig(DependentSettings):
    """The `reward_model` verifier: a sequence classifier of transformers scores each candidate."""

    model: str = Field(
        min_length=1,
        description="Directory or hub id of a sequence classifier (AutoModelForSequenceClassification), safetensors only.",
    )
    revision: str | None = Field(
        None, min_length=1, description="Commit, tag or branch of a hub id; none: its main branch."
    )
    input: Literal["auto", "text", "chat", "pair"] = Field(
        "auto",
        description="What the model is shown: text = the template; chat = a user's and an assistant's turn by the "
        "tokenizer's chat template; pair = prompt and completion as a pair of sequences; auto = what a model made by "
        "`bonfire train-verifier` was trained on, else chat where there is a chat template, else text.",
    )
    template: str = Field(
        "{prompt}{completion}",
        description="input = text: what the model is shown; all but {prompt} and {completion} is literal.",
    )
    label: int | str | None = Field(
        None,
        description="Name or index of the label whose score counts; needed for two labels or more, and only there.",
    )
    output: Output = Field(
        "probability",
        description="The score: probability of the label, from 0 to 1, or its logit = log(p / (1 - p)), unbounded. "
        "They rank alike; where the score is the reward, candidates that are refused or time out get 0.",
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens of prompt and candidate above which the candidate is refused, never cut; "
        "none: what model and tokenizer allow.",
    )
    batch_tokens: int = Field(
        8192, ge=1, description="Token positions of one forward pass, padding included; bounds memory."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: the GPU where verifier.num_gpus reserves one, else the CPU."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Weights and activations of the model; scores are computed in float64 from its logits.",
    )

    @model_validator(mode="after")
    def _check(self) -> RewardModelConfig:
        if "template" in self.model_fields_set & self._without_effect():
            raise ValueError(
                f"template = {self.template!r} has no effect with input = {self.input!r}: remove it, "
                "or set input = 'text'"
            )
        if "{completion}" not in self.template:
            raise ValueError(
                f"template = {self.template!r} leaves the candidate out: put {{completion}} in it"
            )
        return self

    def _without_effect(self) -> set[str]:
        return set() if self.input == "text" else {"template"}
