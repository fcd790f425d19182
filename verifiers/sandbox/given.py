"""What the tests hand to the candidate that is no plain data: functions, classes, their instances, iterators.

Runs inside the sandbox, in the checker's process: standard library only. These objects stay here; the candidate gets
a stand-in (`from_tests`) and asks for what it does with it. It may do what a program does with an object that it is
given, and nothing else: no name with an underscore in front is read, so no way leads from a function to its globals.
What the standard library defines goes over by its name, and is the candidate's own there.
"""

from __future__ import annotations

import collections
import collections.abc
import functools
import io
import operator
import re
import sys
import types
from collections.abc import Callable
from typing import Any

from verifiers.sandbox.values import FORWARDED, PLAIN_TYPES

TESTS = "tests"
"""The name of the module in which the tests run."""
_READABLE = ("__name__", "__qualname__", "__doc__")
_CALLABLES = (operator.itemgetter, operator.attrgetter, operator.methodcaller)
_HARMLESS = (abs, divmod, float, int, len, max, min, pow, round, sorted, str, sum)
_FILES = (io.StringIO, io.BytesIO)
"""Files that are memory of the checker's and lead nowhere."""
_DATA = (*PLAIN_TYPES, bytearray, collections.deque, re.Pattern, *_FILES)
"""Of these a method that the tests hand over (`out.append`) does what it does to the tests' own data."""
_OF_LIBRARY = (
    *(
        type,
        types.FunctionType,
        types.BuiltinFunctionType,
        types.MethodDescriptorType,
        types.WrapperDescriptorType,
    ),
    types.ClassMethodDescriptorType,
)


def library_name(value: Any) -> list[str] | None:
    """Module and name of what the standard library defines; None for anything else."""
    if isinstance(value, types.ModuleType):
        return [value.__name__, ""] if _is_library(value.__name__) else None
    if value is Ellipsis or value is NotImplemented:
        return ["builtins", repr(value)]
    if not isinstance(value, _OF_LIBRARY):
        return None
    owner = getattr(value, "__objclass__", value)
    module, name = getattr(owner, "__module__", None), getattr(value, "__qualname__", "")
    if not isinstance(module, str) or not _is_library(module):
        return None
    try:
        found = functools.reduce(getattr, name.split("."), sys.modules[module])
    except (AttributeError, KeyError):
        return None
    return [module, name] if found is value else None


def _is_library(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


class Given:
    """The tests' objects that the candidate knows by number."""

    def __init__(self) -> None:
        self._by_number: list[Any] = []
        self._number_of: dict[int, int] = {}

    def number(self, value: Any) -> int | None:
        """The number of an object that may be handed over; None for one that may not."""
        known = self._number_of.get(id(value))
        if known is None and _kind(value):
            known = self._number_of[id(value)] = len(self._by_number)
            self._by_number.append(value)
        return known

    def __getitem__(self, number: Any) -> Any:
        if type(number) is not int or number < 0:
            raise LookupError(number)
        return self._by_number[number]

    def perform(self, verb: str, number: Any, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        """What the candidate asks of an object. Raises whatever the object does; TypeError for what is not allowed."""
        target = self[number]
        kind = _kind(target)
        if verb in ("get", "set"):
            return _attribute(target, kind, verb, *arguments)
        if verb not in _VERBS[kind]:
            raise TypeError(f"the tests' {type(target).__name__} does not do that here")
        return _ACTIONS[verb](target, *arguments, **keywords)


def _kind(value: Any) -> str:
    """How an object may be used; empty: not at all."""
    match value:
        case types.FunctionType():
            return "function" if value.__module__ == TESTS else ""
        case types.MethodType():
            return "function" if _kind(value.__func__) else ""
        case functools.partial():
            return "function" if _kind(value.func) or _is_harmless(value.func) else ""
        case type():
            return "instance" if value.__module__ == TESTS else ""
        case types.BuiltinFunctionType():
            reads_attributes = value.__name__ in ("format", "format_map")  # of what it is given, by the text
            return "function" if isinstance(value.__self__, _DATA) and not reads_attributes else ""
        case types.CoroutineType() | types.AsyncGeneratorType():
            return ""
    if isinstance(value, _CALLABLES):
        return "function"
    if type(value).__module__ == TESTS or type(value) in _FILES:
        return "instance"
    if isinstance(value, collections.abc.Iterator) and type(value).__module__ in ("builtins", "itertools"):
        return "iterator"
    return ""


def _is_harmless(function: Any) -> bool:
    """Whether it may be called here, in the checker, with what the candidate gives it."""
    name = library_name(function)
    return name is not None and (name[0] in ("math", "_operator") or function in _HARMLESS)


def _attribute(target: Any, kind: str, verb: str, name: str, *value: Any) -> Any:
    if verb == "get" and name in _READABLE and kind != "iterator":
        return getattr(target, name)
    if name.startswith("_") or kind == "iterator":
        raise AttributeError(name)
    if kind == "function":
        target = types.SimpleNamespace(**vars(target)) if isinstance(target, types.FunctionType) else object()
    if verb == "get":
        return getattr(target, name)
    hides_a_method = callable(getattr(type(target), name, None))
    if hides_a_method or isinstance(target, type):
        raise AttributeError(f"{name} of the tests cannot be set")
    return setattr(target, name, *value)


_ACTIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, /, *arguments, **keywords: target(*arguments, **keywords),
    "item": operator.getitem,
    "set item": operator.setitem,
    "delete item": operator.delitem,
    "contains": operator.contains,
    "len": len,
    "true": bool,
    "text": str,
    "repr": repr,
    "iterate": iter,
    "next": next,
    **{name: getattr(operator, name, divmod) for name in FORWARDED},
}
_VERBS = {
    "function": ("call", "true", "text", "repr", "__eq__", "__ne__"),
    "iterator": ("iterate", "next", "true", "text", "repr"),
    "instance": tuple(_ACTIONS),
    "": (),
}
