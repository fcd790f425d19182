"""The candidate's side of a judgement: defines what the program defines, and answers calls. It knows no test.

Runs inside the sandbox: standard library only. Once the program has started, nothing here can be relied on: it may
replace every function of this process and write what it likes into the socket. That is why the other side, the
checker, takes nothing from it but plain values.

    candidate: ["ready"]
    checker:   [completion, how it is read, the problem's own classes]
    candidate: ["syntax", message] | ["parsed", digest], and then (but for a program that reads standard input: `runs`),
               as after every request, a reply:
               ["value", result, "", changed] | ["raise", what (`errors`), message, changed] | ["stop", "", "", changed]
               | ["too large", "", why, null]
    checker:   [verb of VERBS, number of the target, arguments, keyword arguments]

`changed` is what a call has made of its arguments, or null. Object 0 is the program's module. In place of a reply the
candidate may ask for what an object does that the tests gave it:

    candidate: ["ask", verb, number, arguments, keyword arguments]
    checker:   ["answer", value] | ["error", class, arguments, message, number], or first a request of its own
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import itertools
import json
import operator
import sys
import types
from collections.abc import Callable
from typing import Any

from verifiers.sandbox.blocks import UNPARSABLE, compile_program, compiled
from verifiers.sandbox.common_imports import import_commons
from verifiers.sandbox.errors import describe, error_of_tests
from verifiers.sandbox.from_tests import FromTests
from verifiers.sandbox.instances import Instances
from verifiers.sandbox.reading import read_program
from verifiers.sandbox.runs import answer_inputs
from verifiers.sandbox.values import (
    CONVERSIONS,
    FORWARDED,
    IN_PLACE,
    PLAIN_TYPES,
    REFLECTED,
    UNARY,
    Channel,
    ValueRefusedError,
    decode,
    encode,
)

MODULE = "candidate"
MAX_MESSAGE_CHARS = 300
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

VERBS: dict[str, Callable[..., Any]] = {
    "call": lambda target, /, *arguments, **keywords: target(*arguments, **keywords),
    "make": lambda target, /, *arguments, **keywords: target(*arguments, **keywords),
    "plain": lambda target: target if isinstance(target, PLAIN_TYPES) else None,
    "get": getattr,
    "set": setattr,
    "delete": delattr,
    "item": lambda target, key: target[key],
    "len": len,
    "iterate": iter,
    "reversed": reversed,
    "next": next,
    "true": bool,
    "contains": operator.contains,
    "contents": lambda target, limit: _contents(target, limit),
    "text": str,
    "repr": repr,
    "format": format,
    "set item": operator.setitem,
    "delete item": operator.delitem,
    "enter": lambda target: type(target).__enter__(target),
    "exit": lambda target, kind, text: type(target).__exit__(target, kind, kind and kind(text), None),
    "hash": hash,
    "is class": lambda target: isinstance(target, type),
    "has instance": lambda target, instance: isinstance(instance, target),
    "has subclass": lambda target, kind: issubclass(kind, target),
    **{name: getattr(operator, name, divmod) for name in (*FORWARDED, *UNARY, *IN_PLACE)},
    **{name: lambda target, other, name=name: _reflected(name, target, other) for name in REFLECTED},
    **{
        name: lambda target, *more, name=name: getattr(type(target), name)(target, *more)
        for name in CONVERSIONS
    },
}
"""What the checker may ask of an object that stays here."""


def _reflected(name: str, target: Any, other: Any) -> Any:
    """`other + target`, by the operator that is not reflected."""
    return getattr(operator, f"__{name[3:]}", divmod)(other, target)


def _contents(target: Any, limit: int) -> tuple[int | None, list[Any] | bool | None, bool] | None:
    """Of a container its length, its items (False: too many) and whether they are keys; None for what is none."""
    kind = type(target)
    is_sized, has_items, can_iterate = (
        hasattr(kind, name) for name in ("__len__", "__getitem__", "__iter__")
    )
    if not is_sized and not has_items:
        return None
    size = len(target) if is_sized else None
    items: list[Any] | None = None
    with contextlib.suppress(Exception):  # of a table that takes no numbers, say
        if can_iterate or not is_sized:
            items = list(itertools.islice(iter(target), limit + 1))
        elif has_items:
            items = [target[index] for index in range(min(size or 0, limit + 1))]
    if items is not None and len(items) > limit:
        return (size, False, False) if is_sized else None
    return size, items, hasattr(kind, "keys")


def answer_calls(channel: Channel) -> None:
    """Define the program in the completion that the checker sends, then answer until it hangs up."""
    channel.send(["ready"])
    completion, reading, shared = channel.receive()
    try:
        program = read_program(completion, reading)
        code = compiled(program) or compile_program(program)
        tree = ast.parse(program)
    except UNPARSABLE as error:
        channel.send(["syntax", f"{type(error).__name__}: {error}"[:MAX_MESSAGE_CHARS]])
        return
    channel.send(["parsed", program_digest(tree)])
    if reading["kind"] == "script":
        answer_inputs(channel, code)
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    if reading.get("imports"):
        import_commons(module.__dict__)
    objects = _Objects(channel, module, shared)
    objects.send(objects.perform(lambda: exec(code, module.__dict__)))  # noqa: S102  the sandbox's purpose
    while True:
        objects.send(objects.answer(channel.receive()))


def program_digest(tree: ast.Module) -> str | None:
    """The program's identity but for layout, comments and docstrings; None where it cannot be written out.

    That is a program nested too deeply, or one with an integer of more digits than Python converts.
    """
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    try:
        return hashlib.sha256(ast.dump(tree).encode("utf-8", "surrogatepass")).hexdigest()
    except (RecursionError, MemoryError, ValueError):
        return None


class _Objects:
    """The candidate's objects that the checker knows by number, and its way to the tests' own."""

    def __init__(self, channel: Channel, module: types.ModuleType, shared: list[str]) -> None:
        self._channel = channel
        self._by_number: list[Any] = [module]
        self._number_of = {id(module): 0}
        self._from_tests: dict[int, FromTests] = {}
        self._tests_number: dict[int, int] = {}
        self._instances = Instances(shared, lambda: module.__dict__)
        self._does_not_fit = ""
        """Why a value could not be given to an object of the tests'."""

    def send(self, reply: list[Any]) -> None:
        try:
            self._channel.send(["too large", "", self._does_not_fit, None] if self._does_not_fit else reply)
        except (ValueRefusedError, MemoryError) as error:
            self._channel.send(["too large", "", str(error) or "a value larger than the memory", None])

    def answer(self, request: list[Any]) -> list[Any]:
        verb, target, arguments, keywords = request
        before = json.dumps([arguments, keywords])
        decoded = [decode(item, self._resolve) for item in arguments]
        named = {name: decode(item, self._resolve) for name, item in keywords.items()}
        encode_result = self._encode_made if verb == "make" else self._encode
        reply = self.perform(
            lambda: VERBS[verb](self._resolve("r", target, 0), *decoded, **named), encode_result
        )
        if verb in ("call", "make") and reply[0] in ("value", "raise"):
            after = self._encode_arguments(decoded, named)
            if json.dumps(after) != before:
                reply = [*reply[:3], after]
        return reply

    def perform(
        self, action: Callable[[], Any], encode_result: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        """What came of an action, as a reply."""
        try:
            value = action()
        except StopIteration:
            return ["stop", "", "", None]
        except BaseException as error:  # noqa: BLE001  whatever the candidate raises is its answer
            return ["raise", *describe(error, self._encode), None]
        try:
            return ["value", (encode_result or self._encode)(value), "", None]
        except (ValueRefusedError, RecursionError, MemoryError) as error:
            return ["too large", "", str(error) or type(error).__name__, None]

    def ask_tests(self, verb: str, number: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Ask for what an object of the tests' does, and answer what its doing asks in turn."""
        try:
            named = {name: self._encode(value) for name, value in keywords.items()}
            self._channel.send(["ask", verb, number, [self._encode(item) for item in arguments], named])
        except (ValueRefusedError, MemoryError) as error:
            self._does_not_fit = str(error) or type(error).__name__
            raise
        while True:
            message = self._channel.receive()
            if message[0] == "answer":
                return decode(message[1], self._resolve)
            if message[0] == "error":
                _, name, arguments, text, marked = message
                raise error_of_tests(name, [decode(item, self._resolve) for item in arguments], text, marked)
            self.send(self.answer(message))

    def _encode_arguments(self, decoded: list[Any], named: dict[str, Any]) -> list[Any] | None:
        try:
            return [
                [self._encode(item) for item in decoded],
                {name: self._encode(item) for name, item in named.items()},
            ]
        except (ValueRefusedError, RecursionError, MemoryError):
            return None

    def _encode(self, value: Any) -> Any:
        return encode(value, self._refer)

    def _encode_made(self, value: Any) -> Any:
        """An instance of an own class stays here, also where the class extends a plain type: it has methods."""
        is_own = isinstance(value, PLAIN_TYPES) and type(value).__module__ == MODULE
        return self._refer(value, 0) if is_own else self._encode(value)

    def _resolve(self, tag: str, body: Any, depth: int) -> Any:
        if tag == "r":
            return self._by_number[body]
        if tag in ("o", "m"):
            return self._instances.decode(tag, body, self._resolve, depth)
        if isinstance(body, list):
            module, name = body
            return functools.reduce(getattr, name.split(".") if name else [], importlib.import_module(module))
        if body not in self._from_tests:
            stand_in = self._from_tests[body] = FromTests(self.ask_tests, body)
            self._tests_number[id(stand_in)] = body
        return self._from_tests[body]

    def _refer(self, value: Any, depth: int) -> dict[str, Any]:
        if (given := self._tests_number.get(id(value))) is not None:
            return {"g": given}
        if (by_value := self._instances.encode(value, self._refer, depth)) is not None:
            return by_value
        number = self._number_of.get(id(value))
        if number is None:
            number = self._number_of[id(value)] = len(self._by_number)
            self._by_number.append(value)
        return {"r": number}
