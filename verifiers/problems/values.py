"""A value of a row by the name that a setting gives, or the one line that says why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verifiers.problems.fields import Missing, look_up
from verifiers.problems.fields import names as names_of
from verifiers.wording import short

Fields = Mapping[str, Any]
MAX_SHOWN_CHARS = 200


def take(fields: Fields, path: str, setting: str) -> Any:
    """What the row has there; ValueError that names the setting where it has nothing."""
    try:
        return look_up(fields, path)
    except Missing:
        raise missing(fields, (path,), setting) from None


def missing(fields: Fields, names: tuple[str, ...], setting: str) -> ValueError:
    """The error for a row that has none of these fields."""
    wanted = " or ".join(map(repr, names))
    return ValueError(f"field {wanted} is missing; it has {names_of(fields)}: set problems.{setting}")


def filled_text(value: Any, name: str) -> str:
    """The value, which must be a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"field {name!r} is {short(value, MAX_SHOWN_CHARS)}: make it a text that is not empty{_path_to(value, name)}"
        )
    return value


def _path_to(value: Any, name: str) -> str:
    """For messages: how to name a text that the value holds."""
    keys = value if isinstance(value, Mapping) else range(len(value)) if isinstance(value, list) else ()
    inner = next((key for key in keys if isinstance(value[key], str) and value[key]), None)
    return "" if inner is None else f", or name one that it holds, {f'{name}.{inner}'!r}"
