"""Settings of the problems."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from verifiers.number_config import Finite
from verifiers.section_config import DependentSettings

Weight = Annotated[Finite, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]
Paths = Annotated[
    tuple[Name, ...],
    Field(min_length=1),
    BeforeValidator(lambda path: (path,) if isinstance(path, str) else path),
]
MAX_PUZZLES = 1_000_000
"""They are made anew at every start, in memory, in a minute or two."""

_GENERATOR = (
    "num_train",
    "num_test",
    "seed",
    "num_operands",
    "max_number",
    "min_target",
    "max_target",
    "operator_weights",
    "notation",
)
_FILES = ("train_path", "test_path")
_HUB = ("dataset", "subset", "revision", "train_split", "test_split")
_ROWS = (
    "format",
    "prompt_field",
    "id_field",
    "difficulty_field",
    "demonstration_field",
    "truth_fields",
    "prompt_template",
    "test_fraction",
    "shuffle_seed",
    "max_train",
    "max_test",
    "max_invalid_rows",
)
WITHOUT_EFFECT = {
    "countdown": (*_FILES, *_HUB, *_ROWS),
    "files": (*_GENERATOR, *_HUB),
    "hub": (*_GENERATOR, *_FILES),
}
"""Settings that each source does not read."""


class ProblemsConfig(DependentSettings):
    """Where problems come from: the countdown generator, files, or a data set of the Hugging Face hub.

    A setting of another source would have no effect, so it is an error. A dump leaves those settings
    out, so that a resolved configuration can be read back.
    """

    source: Literal["countdown", "files", "hub"] = Field(
        "countdown",
        description="countdown: generated arithmetic puzzles; files: JSON lines, JSON or Parquet; hub: a data set "
        "of the Hugging Face hub.",
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

    notation: Literal["expression", "steps"] = Field(
        "expression",
        description="How a demonstration is written: `( 5 - 2 ) * 7`, for the verifier countdown, or `5 - 2 = 3 3 * 7 = "
        "21`, for countdown_steps (countdown).",
    )

    train_path: Paths | None = Field(
        None,
        description="File of the training problems, or a list of files; * ? [] and ** stand for several. .jsonl, "
        ".jsonl.gz, .json (a list of objects, or one object) or .parquet (files).",
    )
    test_path: Paths | None = Field(None, description="The same for the held-out problems (files).")

    dataset: Name | None = Field(
        None, description="Id of the data set, such as openai/gsm8k, or a directory laid out like one (hub)."
    )
    subset: Name | None = Field(None, description="The data set's configuration, if it has several (hub).")
    revision: Name | None = Field(
        None, description="Commit, tag or branch; name a commit if a run is to repeat (hub)."
    )
    train_split: Name | None = Field(None, description="Split of the training problems (hub).")
    test_split: Name | None = Field(None, description="Split of the held-out problems (hub).")

    format: Literal[
        "rows", "math", "gsm8k", "humaneval", "mbpp", "apps", "livecodebench", "code_contests", "countdown"
    ] = Field(
        "rows",
        description="What a row means: one of the published formats, or rows, where the settings below say it "
        "(files, hub).",
    )
    prompt_field: Name | None = Field(
        None,
        description="Field of a row that holds the prompt; None: the format's own, `prompt` in rows (files, hub).",
    )
    id_field: Name | None = Field(
        None,
        description="Field that identifies a row; None: the format's own, and where there is none, the file's "
        "name and the line (files, hub).",
    )
    difficulty_field: Name | None = Field(
        None,
        description="Field that classes a row's difficulty, used only to break metrics down; None: the format's "
        "own (files, hub).",
    )
    demonstration_field: Name | None = Field(
        None,
        description="Field of a training row that holds an expert's completion, for [sft] and the objectives "
        "that imitate one; the verifier does not see it. None: the format's own (files, hub).",
    )
    truth_fields: dict[Name, Name] = Field(
        {},
        description="What the verifier is told, and the field it is in, such as { answer = 'final' }. Empty: what "
        "the format takes; in rows, every field that no other setting names (files, hub).",
    )
    prompt_template: str | None = Field(
        None,
        description="Text of the prompt: {prompt} stands for the prompt field, {name} for the row's field of that "
        "name; None: the format's own (files, hub).",
    )
    test_fraction: Finite | None = Field(
        None,
        gt=0,
        lt=1,
        description="Hold out about this fraction of the training problems, by a hash of the prompt field, instead "
        "of naming held-out ones (files, hub).",
    )
    shuffle_seed: int | None = Field(
        None, description="Seed of the order; None: the order of the files or of the split (files, hub)."
    )
    max_train: int | None = Field(
        None, ge=1, description="Take only this many training problems, the first in order (files, hub)."
    )
    max_test: int | None = Field(None, ge=1, description="The same for held-out problems (files, hub).")
    max_invalid_rows: int = Field(
        0,
        ge=0,
        description="Rows of a split that may be left out because no problem can be made of them; a notice says "
        "how many were, and one more is an error (files, hub).",
    )

    @property
    def held_out_settings(self) -> dict[str, Any]:
        """What is set, as it was written, and concerns held-out problems alone."""
        settings = {name: getattr(self, name) for name in ("test_path", "test_split", "max_test")}
        return {name: as_written(value) for name, value in settings.items() if value is not None}

    @model_validator(mode="before")
    @classmethod
    def _name_the_source(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and settings.get("source") == "jsonl":
            raise ValueError("problems.source = 'jsonl' is called 'files', which reads JSON and Parquet too")
        return settings

    @model_validator(mode="after")
    def _check(self) -> ProblemsConfig:
        faults = [
            f"problems.{name} = {as_written(getattr(self, name))!r} has no effect with "
            f"problems.source = {self.source!r}: remove it"
            for name in self._without_effect()
            if name in self.model_fields_set
        ]
        if self.min_target > self.max_target:
            faults.append(
                f"problems.min_target = {self.min_target} exceeds "
                f"problems.max_target = {self.max_target}: lower it"
            )
        if self.source == "countdown":
            faults += self._faults_of_counts()
        if not any(self.operator_weights):
            faults.append(
                f"problems.operator_weights = {list(self.operator_weights)} allows no operator: "
                "make one of them positive"
            )
        if self.source != "countdown":
            faults += self._faults_of_splits()
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _faults_of_counts(self) -> list[str]:
        # Numbers in any order, and a target: no two puzzles have the same.
        multisets = math.comb(self.max_number + self.num_operands - 1, self.num_operands)
        there = multisets * max(0, self.max_target - self.min_target + 1)
        why = (
            f"there are at most {there:,} with these numbers and targets; lower it, or raise problems.max_number"
            if there <= MAX_PUZZLES
            else f"{MAX_PUZZLES:,} are generated at most; lower it, or write them into a file and set problems.source = 'files'"
        )
        return [
            f"problems.{name} = {getattr(self, name)} is more puzzles than can be had: {why}"
            for name in ("num_train", "num_test")
            if getattr(self, name) > min(there, MAX_PUZZLES)
        ]

    def _faults_of_splits(self) -> list[str]:
        kind = "path" if self.source == "files" else "split"
        train, test = getattr(self, f"train_{kind}"), getattr(self, f"test_{kind}")
        faults = []
        if self.source == "hub" and self.dataset is None:
            faults.append("problems.source = 'hub' names no data set: set problems.dataset")
        if train is None and test is None:
            what = "file" if self.source == "files" else "split"
            faults.append(
                f"problems.source = {self.source!r} names no {what}: "
                f"set problems.train_{kind}, problems.test_{kind} or both"
            )
        if self.test_fraction is not None and test is not None:
            faults.append(
                f"problems.test_fraction = {self.test_fraction} has no effect beside "
                f"problems.test_{kind} = {as_written(test)!r}: remove one of the two"
            )
        if self.test_fraction is not None and train is None:
            faults.append(
                f"problems.test_fraction = {self.test_fraction} has nothing to hold out from: set problems.train_{kind}"
            )
        if self.max_train is not None and train is None:
            faults.append(
                f"problems.max_train = {self.max_train} has no effect without problems.train_{kind}: remove it"
            )
        if self.max_test is not None and test is None and self.test_fraction is None:
            faults.append(
                f"problems.max_test = {self.max_test} has no effect without problems.test_{kind} or "
                "problems.test_fraction: remove it"
            )
        return faults

    def _without_effect(self) -> tuple[str, ...]:
        return WITHOUT_EFFECT[self.source]


def as_written(value: Any) -> Any:
    """A path as the user wrote it: one alone is no list."""
    if not isinstance(value, tuple):
        return value
    return value[0] if len(value) == 1 else list(value)
