"""Whether what a candidate's object answers fits together, where the tests expected plain data.

A test that looks at a result piece by piece (`len(r) == 5 and all(x > 0 for x in r)`, `r.isupper()`) was written for a
list or a text. An object can answer each piece as it likes: five items, none of them there. So an object that the
tests do not treat as one of the candidate's own classes is read once, and all of its pieces come from that reading;
and where the tests call only what one builtin type does, it must be of that type.

The tests expect an object of a class where they make it themselves (`Stack()`), or use a name that no builtin type has
(`s.push`). Of such an object everything is asked as it comes. Runs inside the sandbox, in the checker's process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_TYPES = (str, bytes, bytearray, int, float, complex, bool, list, tuple, dict, set, frozenset)
_DATA = frozenset({"real", "imag", "numerator", "denominator"})
"""Attributes of numbers, with which the tests compare: an object answers them no easier than a number does."""
_NAMES = {kind: frozenset(dir(kind)) for kind in _TYPES}
BUILTIN_NAMES = frozenset().union(*_NAMES.values()) - _DATA


@dataclass(slots=True)
class Facts:
    """What is known of one object of the candidate's."""

    expected: bool = False
    """The tests treat it as an object of the candidate's own."""
    is_class: bool = False
    """The tests name it as they would name a class, and it is one."""
    owner: int | None = None
    """The object of which this is the attribute `name`."""
    name: str = ""
    methods: set[str] = field(default_factory=set)
    """Of builtin types, that the tests called on it."""
    misfit: str = ""
    answers: dict[Any, Any] = field(default_factory=dict)
    """What it answered, which it answers again until something is done to it."""
    items: list[Any] = field(default_factory=list)
    """What it gave as an iterator."""
    is_ended: bool = False
    """Whether that was all."""

    def forget(self) -> None:
        """Something is done to it: from now on it may answer otherwise."""
        self.answers.clear()
        self.items = []
        self.is_ended = False


class Fitting:
    """The facts of all objects, by their numbers."""

    def __init__(self) -> None:
        self._facts: dict[int, Facts] = {}

    def of(self, number: int) -> Facts:
        return self._facts.setdefault(number, Facts())

    def is_read(self, number: int, name: str, value: int | None) -> None:
        """An attribute was read; `value` is its number if it is no plain data."""
        facts = self.of(number)
        if name not in BUILTIN_NAMES and name not in _DATA:
            facts.expected = True
        elif value is None:
            facts.expected |= name not in _DATA  # a method of a builtin type is no data
        elif value not in self._facts:
            self._facts[value] = Facts(owner=number, name=name)

    def is_called(self, number: int, result: int | None) -> None:
        """An object was called; `result` is the number of what it returned if that is no plain data."""
        facts = self.of(number)
        is_made = facts.is_class
        if facts.owner is not None:
            owner = self.of(facts.owner)
            is_made |= owner.is_class
            owner.methods.add(facts.name)
            owner.forget()
        if result is not None and result not in self._facts:
            self._facts[result] = Facts(expected=is_made)

    def is_changed(self, number: int) -> None:
        self.of(number).forget()

    def misfit(self) -> str:
        """What in the answers cannot be of one thing; empty if there is nothing."""
        for facts in self._facts.values():
            if facts.expected or facts.is_class:
                continue
            if facts.misfit:
                return facts.misfit
            if facts.methods and any(facts.methods <= names for names in _NAMES.values()):
                called = ", ".join(f"{name}()" for name in sorted(facts.methods))
                return f"the tests call {called} of a result that is no builtin type's"
        return ""
