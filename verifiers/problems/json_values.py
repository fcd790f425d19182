"""What a row may hold that JSON cannot: exact decimals, dates, bytes, half characters."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_TIMES = (datetime.date, datetime.time)  # a datetime is a date


def storable(value: Any) -> Any:
    """The value as JSON has it: a Decimal as its exact digits, dates and times as ISO 8601.

    Raises ValueError, without the field's name, for what has no text of its own, such as bytes or a picture.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, _TIMES):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): storable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [storable(inner) for inner in value]
    raise ValueError(
        f"holds a value of type {type(value).__name__}, which is no text, number, list or object: leave it out"
    )


def is_plain(value: Any) -> bool:
    """Whether a verifier may want it where nobody named it: no date, no bytes, nothing that holds one."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | bool | int | float | Decimal)


def half_character(value: Any) -> str | None:
    r"""The first half of a surrogate pair in any text within, written as `\ud83d`: no tokenizer and no file takes it."""
    if isinstance(value, str):
        if value.isascii():
            return None
        found = next((letter for letter in value if "\ud800" <= letter <= "\udfff"), None)
        return None if found is None else f"\\u{ord(found):04x}"
    if isinstance(value, Mapping):
        return half_character([*value, *value.values()])
    if isinstance(value, list | tuple):
        return next((half for inner in value if (half := half_character(inner))), None)
    return None
