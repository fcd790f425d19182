"""Settings of the problems."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from verifiers.section_config import DependentSettings

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_COUNTDOWN_FIELDS = (
    "num_train",
    "num_test",
    "seed",
    "num_operands",
    "max_number",
    "min_target",
    "max_target",
    "operator_weights",
)
_JSONL_FIELDS = (
    "train_path",
    "test_path",
    "prompt_field",
    "id_field",
    "difficulty_field",
    "demonstration_field",
    "prompt_template",
)
_WITHOUT_EFFECT = {"countdown": _JSONL_FIELDS, "jsonl": _COUNTDOWN_FIELDS}


class ProblemsConfig(DependentSettings):
    """Where problems come from: the countdown generator, or JSON-lines files of the user's own.

    A setting of the other source would have no effect, so it is an error. A dump leaves those
    settings out, so that a resolved configuration can be read back.
    """

    source: Literal["countdown", "jsonl"] = Field(
        "countdown", description="countdown: generated arithmetic puzzles; jsonl: one JSON object a line."
    )

    num_train: int = Field(1000, ge=1, description="Training problems to generate (countdown).")
    num_test: int = Field(400, ge=1, description="Held-out problems to generate (countdown).")
    seed: int = Field(
        7, description="Seed of the generator; train and test draw from separate streams (countdown)."
    )
    num_operands: int = Field(4, ge=2, le=8, description="Numbers in a puzzle (countdown).")
    max_number: int = Field(
        15, ge=1, le=999, description="Numbers are drawn from 1 to this, inclusive (countdown)."
    )
    min_target: int = Field(10, ge=1, description="Smallest target, inclusive (countdown).")
    max_target: int = Field(99, ge=1, description="Largest target, inclusive (countdown).")
    operator_weights: tuple[Weight, Weight, Weight, Weight] = Field(
        (1.0, 1.0, 2.0, 2.0),
        description="Relative odds of + - * / at each step, among those that apply there (countdown).",
    )

    train_path: str | None = Field(None, description="JSON-lines file of the training problems (jsonl).")
    test_path: str | None = Field(None, description="JSON-lines file of the held-out problems (jsonl).")
    prompt_field: str = Field(
        "prompt", min_length=1, description="Field of a row that holds the prompt (jsonl)."
    )
    id_field: str | None = Field(
        None,
        description="Field that identifies a row; without it, the file's name and line number do (jsonl).",
    )
    difficulty_field: str | None = Field(
        None, description="Field that classes a row's difficulty, used only to break metrics down (jsonl)."
    )
    demonstration_field: str | None = Field(
        None,
        description="Field of a training row that holds an expert's completion, for the objectives that imitate "
        "one; the verifier does not see it (jsonl).",
    )
    prompt_template: str = Field(
        "{prompt}",
        description="Text of the prompt: {prompt} stands for the prompt field, all else is literal (jsonl).",
    )

    @model_validator(mode="after")
    def _check(self) -> ProblemsConfig:
        faults = [
            f"problems.{name} = {getattr(self, name)!r} has no effect with "
            f"problems.source = {self.source!r}: remove it"
            for name in self._without_effect()
            if name in self.model_fields_set
        ]
        if self.min_target > self.max_target:
            faults.append(
                f"problems.min_target = {self.min_target} exceeds "
                f"problems.max_target = {self.max_target}: lower it"
            )
        if not any(self.operator_weights):
            faults.append(
                f"problems.operator_weights = {list(self.operator_weights)} allows no operator: "
                "make one of them positive"
            )
        if self.source == "jsonl" and self.train_path is None and self.test_path is None:
            faults.append(
                "problems.source = 'jsonl' names no file: set problems.train_path, problems.test_path or both"
            )
        if "{prompt}" not in self.prompt_template:
            faults.append(
                f"problems.prompt_template = {self.prompt_template!r} leaves the prompt out: "
                "put {prompt} in it"
            )
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _without_effect(self) -> tuple[str, ...]:
        return _WITHOUT_EFFECT[self.source]
