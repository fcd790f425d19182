"""Settings of the judge verifier. Imports no torch and no vLLM."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from verifiers.number_config import Temperature

PROMPT_TEMPLATE = """\
Below are a problem and a proposed solution. Find out whether the solution is correct.

Problem:
{prompt}

Proposed solution:
{completion}

Check the solution step by step. Redo every calculation, look for steps that do not follow, and compare the \
final answer with what was asked. A solution with a wrong or missing final answer is incorrect. \
End with one line that says "Verdict: correct" or "Verdict: incorrect"."""

GPUS_VARIABLE = "BONFIRE_VERIFIER_GPUS"
"""In a verifier worker's environment: what part of a GPU is its own, which CUDA_VISIBLE_DEVICES does not say."""


class JudgeConfig(BaseModel):
    """The `judge` verifier: a language model reads each candidate and says, several times, whether it is correct."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        min_length=1, description="Directory or hub id of a causal language model, safetensors only."
    )
    votes: int = Field(
        4, ge=1, description="Times each candidate is judged; the score is the share of votes for it."
    )
    temperature: Temperature = Field(0.7, description="Sampling temperature of the judge. No truncation.")
    max_tokens: int = Field(1024, ge=1, description="Longest judgement, in tokens.")
    max_model_len: int = Field(
        4096,
        ge=2,
        description="Longest prompt plus judgement, in tokens. A candidate that leaves less than max_tokens is refused.",
    )
    prompt_template: str = Field(
        PROMPT_TEMPLATE,
        description="What the judge is asked, as a user's turn where it has a chat template; all but {prompt} and "
        "{completion} is literal.",
    )
    accept: str = Field(
        r"(?i)verdict:\W*correct\b",
        min_length=1,
        description="Regular expression (Python's) that marks a vote for the candidate. The last match of accept and "
        "reject in a judgement counts.",
    )
    reject: str = Field(
        r"(?i)verdict:\W*incorrect\b",
        min_length=1,
        description="Regular expression that marks a vote against the candidate.",
    )
    max_num_seqs: int = Field(256, ge=1, description="Judgements the engine decodes at a time.")
    kv_cache_mib: int = Field(1024, ge=16, description="KV cache of the engine, in MiB.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Engine's weights and activations.")

    @model_validator(mode="after")
    def _check(self) -> JudgeConfig:
        faults = []
        if "{completion}" not in self.prompt_template:
            faults.append(
                f"prompt_template = {self.prompt_template!r} leaves the candidate out: put {{completion}} in it"
            )
        for setting in ("accept", "reject"):
            pattern = getattr(self, setting)
            try:
                re.compile(pattern)
            except re.error as error:
                faults.append(f"{setting} = {pattern!r} is no regular expression ({error}): correct it")
        if self.max_tokens >= self.max_model_len:
            faults.append(
                f"max_tokens = {self.max_tokens} leaves no room for a prompt within max_model_len = "
                f"{self.max_model_len}: lower it"
            )
        if faults:
            raise ValueError("\n".join(faults))
        return self
