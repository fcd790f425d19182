"""The tests' objects as the candidate sees them: stand-ins that ask the checker for all they do (`given`).

Runs inside the sandbox, in the candidate's process: standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verifiers.sandbox.values import FORWARDED

Ask = Callable[[str, int, tuple[Any, ...], dict[str, Any]], Any]


class FromTests:
    """A function, an object or an iterator that the tests gave to the candidate."""

    __slots__ = ("_ask_tests", "_number")

    def __init__(self, ask: Ask, number: int) -> None:
        object.__setattr__(self, "_ask_tests", ask)
        object.__setattr__(self, "_number", number)

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        return _ask(self, "call", *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return _ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, "item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask(self, "set item", key, value)

    def __delitem__(self, key: Any) -> None:
        _ask(self, "delete item", key)

    def __contains__(self, item: Any) -> Any:
        return _ask(self, "contains", item)

    def __len__(self) -> Any:
        return _ask(self, "len")

    def __bool__(self) -> Any:
        return _ask(self, "true")

    def __str__(self) -> Any:
        return _ask(self, "text")

    def __repr__(self) -> Any:
        return _ask(self, "repr")

    def __iter__(self) -> Any:
        return _ask(self, "iterate")

    def __next__(self) -> Any:
        return _ask(self, "next")

    def __hash__(self) -> int:
        return hash(("from the tests", object.__getattribute__(self, "_number")))


def _ask(stand_in: FromTests, verb: str, /, *arguments: Any, **keywords: Any) -> Any:
    ask, number = (object.__getattribute__(stand_in, name) for name in ("_ask_tests", "_number"))
    return ask(verb, number, arguments, keywords)


def _forward(name: str) -> Callable[[FromTests, Any], Any]:
    return lambda self, other: _ask(self, name, other)


for _name in FORWARDED:
    setattr(FromTests, _name, _forward(_name))
