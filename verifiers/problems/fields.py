"""Fields of a row by name, nested ones by a dotted path: `reward_model.ground_truth`, `messages.0.content`.

A name that the row has as it stands comes first, dots and all; so does a longer name before a shorter one. A whole
number stands for a place in a list, from 0 on, or from -1 back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_NAMES = 30
"""In a message: some tables have hundreds of columns."""
_PLACE = re.compile(r"-?\d{1,9}")


class Missing(LookupError):
    """The row has no such field."""


def look_up(fields: Any, path: str) -> Any:
    """What stands at the path. Raises Missing."""
    for holder, key in _steps(fields, path):
        return holder[key]
    raise Missing(path)


def without(fields: Mapping[str, Any], paths: set[str]) -> dict[str, Any]:
    """The row with nothing at the paths: a field is gone, a member of a list is None. The row itself stays as it is."""
    left: Any = dict(fields)
    for path in paths:
        left = _without(left, path)
    return dict(left)


def names(fields: Mapping[str, Any]) -> str:
    """For messages: what there is, with what is nested one level below."""
    found = [
        f"{name}.{inner}" if inner else name
        for name, value in fields.items()
        for inner in (value if isinstance(value, Mapping) and value else ("",))
    ]
    more = f" and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
    return (", ".join(map(repr, found[:MAX_NAMES])) or "no field") + more


def _steps(value: Any, path: str) -> Iterator[tuple[Any, Any]]:
    """Every reading of the path as a container and a key that it has, the preferred one first."""
    for head, rest in _splits(path):
        key = _key(value, head)
        if key is None:
            continue
        if not rest:
            yield value, key
        else:
            yield from _steps(value[key], rest)


def _splits(path: str) -> Iterator[tuple[str, str]]:
    """`a.b.c`, then `a.b` and `c`, then `a` and `b.c`."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length]), ".".join(parts[length:])


def _key(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return name if name in value else None
    if isinstance(value, list | tuple) and _PLACE.fullmatch(name):
        place = int(name)
        return place if -len(value) <= place < len(value) else None
    return None


def _without(value: Any, path: str) -> Any:
    for head, rest in _splits(path):
        key = _key(value, head)
        if key is None or (rest and next(_steps(value[key], rest), None) is None):
            continue
        if isinstance(value, Mapping):
            kept = {name: inner for name, inner in value.items() if name != key}
            return {**value, key: _without(value[key], rest)} if rest else kept
        changed = list(value)
        changed[key] = _without(changed[key], rest) if rest else None
        return changed
    return value
