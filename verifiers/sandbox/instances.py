"""Instances of the classes that a problem's own code defines: both sides have the class, so they travel by value.

Runs inside the sandbox, on either side: standard library only. Of the candidate's program the class may be another
one of the same name; what arrives in the checker is an instance of the problem's own, with plain attributes, so that
its `__eq__` and its methods are the problem's too.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

from verifiers.sandbox.values import Refer, Resolve, ValueRefusedError, decode, encode


class Instances:
    """The classes by name; asked anew each time, because a program may define one later or again."""

    def __init__(self, names: list[str], lookup: Callable[[], Mapping[str, Any]]) -> None:
        self._names = names
        self._lookup = lookup

    def class_of(self, name: str) -> type | None:
        found = self._lookup().get(name) if name in self._names else None
        return found if isinstance(found, type) else None

    def encode(self, value: Any, refer: Refer, depth: int) -> dict[str, Any] | None:
        """What stands for an instance of one of the classes; None for anything else."""
        kind = type(value)
        if self.class_of(kind.__name__) is not kind:
            return None
        if isinstance(value, enum.Enum):
            return {"m": [kind.__name__, value.name]}
        return {"o": [kind.__name__, {n: encode(v, refer, depth + 1) for n, v in attributes(value).items()}]}

    def decode(self, tag: str, body: Any, resolve: Resolve, depth: int) -> Any:
        """Raises ValueRefusedError for what is no instance of one of the classes."""
        name, content = body
        kind = self.class_of(name)
        if kind is None:
            raise ValueRefusedError(f"an instance of {name!r}, which the problem does not define")
        if tag == "m":
            return kind[content]  # type: ignore[index]
        values = {n: decode(v, resolve, depth + 1) for n, v in content.items()}
        instance: Any = object.__new__(kind)
        put(instance, values)
        return instance


def attributes(instance: Any) -> dict[str, Any]:
    """What an instance holds, in its dictionary and in slots."""
    held = dict(getattr(instance, "__dict__", {}))
    for kind in type(instance).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(instance, name):
                held[name] = getattr(instance, name)
    return held


def put(instance: Any, values: Mapping[str, Any]) -> None:
    """Set attributes, also of a frozen class. Raises ValueRefusedError for one that would hide a method."""
    for name, value in values.items():
        own = getattr(type(instance), name, None)
        if name.startswith("__") or callable(own):
            raise ValueRefusedError(f"an instance whose attribute {name!r} hides a method")
        object.__setattr__(instance, name, value)
