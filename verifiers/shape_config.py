"""Settings of the verifiers that look at a candidate's shape only."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class FormatConfig(BaseModel):
    """The `format` verifier: a pattern that a candidate must match."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: str = Field(
        r"(?s).*\S.*", description="Regular expression (Python's) that the whole candidate must match."
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"pattern = {pattern!r} is no regular expression ({error}): correct it"
            ) from error
        return pattern


class LengthConfig(BaseModel):
    """The `length` verifier: 1 up to `free_chars`, falling in a straight line to 0 at `zero_chars`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    free_chars: int = Field(0, ge=0, description="Characters up to which a candidate is worth 1.")
    zero_chars: int = Field(10_000, ge=1, description="Characters from which on a candidate is worth 0.")

    @model_validator(mode="after")
    def _in_order(self) -> LengthConfig:
        if self.free_chars >= self.zero_chars:
            raise ValueError(
                f"free_chars = {self.free_chars} is not below zero_chars = {self.zero_chars}: lower it"
            )
        return self
