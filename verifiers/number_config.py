"""Kinds of numbers in settings: each is finite, and within what can be meant."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field

MAX_SECONDS = 1e6
"""Eleven days. The system's own waits take no more than 24."""
MAX_NUMBER = 1e9
"""So that products of some numbers are finite in float32. A limit that is never to be reached is this."""
SMALLEST_SHARE = 0.0001
"""Of a CPU or GPU: Ray counts in ten-thousandths."""
MAX_AMOUNT = 1e5


def _at_most(limit: float) -> AfterValidator:
    """No `le` of a Field: a setting's own would take its place, or it that of the setting's."""

    def check(number: float) -> float:
        if abs(number) > limit:
            raise ValueError(f"= {number!r} is out of all bounds: give at most {limit:g}")
        return number

    return AfterValidator(check)


def _can_be_reserved(amount: float) -> float:
    if 0 < amount < SMALLEST_SHARE:
        raise ValueError(
            f"= {amount!r} is less than {SMALLEST_SHARE}, the smallest share that Ray reserves: raise it, or set 0"
        )
    if amount > 1 and amount != math.floor(amount):
        raise ValueError(
            f"= {amount!r}: Ray reserves whole ones above 1: set {math.floor(amount)} or {math.ceil(amount)}"
        )
    return amount


_FINITE = Field(allow_inf_nan=False)
Finite = Annotated[float, _FINITE, _at_most(MAX_NUMBER)]
Seconds = Annotated[float, _FINITE, _at_most(MAX_SECONDS)]
Reserved = Annotated[float, _FINITE, _at_most(MAX_AMOUNT), AfterValidator(_can_be_reserved)]
"""CPUs or GPUs of a worker."""
Temperature = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]
"""Below 0.01 vLLM samples at 0.01."""
StepSize = Annotated[float, _FINITE, _at_most(10)]
Decay = Annotated[float, _FINITE, _at_most(1000)]
"""Of weights, per unit of learning rate."""
Averaging = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""AdamW's factors."""


def not_finite(value: Any, path: str = "") -> str | None:
    """Where in a table of free form a number is NaN or infinite, which neither TOML's readers nor JSON's agree on."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} = {value!r}"
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = (not_finite(one, f"{path}.{key}" if path else str(key)) for key, one in inner)
    return next((text for text in found if text is not None), None)
