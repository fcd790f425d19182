"""Settings of the verifier `math`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class MathConfig(BaseModel):
    """How a mathematical answer is found in a completion, and how exactly decimals are compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    require_boxed: bool = Field(
        False,
        description="Only an answer in \\boxed{} counts; without one the candidate is a wrong_format.",
    )
    decimal_places: int = Field(
        6,
        ge=0,
        le=12,
        description=(
            "Decimal places to which two numbers are rounded before they are compared, where one of "
            "them is written as a decimal. Others are compared exactly."
        ),
    )
