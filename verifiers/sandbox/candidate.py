"""The candidate's side of a judgement: defines what the program defines, and answers calls. It knows no test.

Runs inside the sandbox: standard library only. Once the program has started, nothing here can be relied on: it may
replace every function of this process and write what it likes into the socket. That is why the other side, the
checker, takes nothing from it but plain values.

    candidate: ["ready"]
    checker:   [completion, how it is read]
    candidate: ["syntax", message] | ["parsed", digest], and then (but for a program that reads standard input: `runs`),
               as after every request, a reply:
               ["value", result, "", changed] | ["raise", class, message, changed] | ["stop", "", "", changed]
    checker:   [verb of VERBS, number of the target, arguments, keyword arguments]

`changed` is what a call has made of its arguments, or null. Object 0 is the program's module.
"""

from __future__ import annotations

import ast
import hashlib
import json
import operator
import sys
import types
from collections.abc import Callable
from typing import Any

from verifiers.sandbox.blocks import UNPARSABLE
from verifiers.sandbox.reading import read_program
from verifiers.sandbox.runs import answer_inputs
from verifiers.sandbox.values import FORWARDED, Channel, ValueRefusedError, decode, encode

MODULE = "candidate"
MAX_MESSAGE_CHARS = 300
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

VERBS: dict[str, Callable[..., Any]] = {
    "call": lambda target, /, *arguments, **keywords: target(*arguments, **keywords),
    "get": getattr,
    "set": setattr,
    "item": lambda target, key: target[key],
    "len": len,
    "iterate": iter,
    "next": next,
    "true": bool,
    "text": str,
    "set item": operator.setitem,
    "delete item": operator.delitem,
    "enter": lambda target: type(target).__enter__(target),
    "exit": lambda target: type(target).__exit__(target, None, None, None),
    **{name: getattr(operator, name) for name in FORWARDED},
}
"""What the checker may ask of an object that stays here."""


def answer_calls(channel: Channel) -> None:
    """Define the program in the completion that the checker sends, then answer until it hangs up."""
    channel.send(["ready"])
    completion, reading = channel.receive()
    try:
        tree = ast.parse(read_program(completion, reading))
        # Not with this module's own `annotations`: those of the candidate are evaluated, as in the official harness.
        code = compile(tree, "<candidate>", "exec", dont_inherit=True)
    except UNPARSABLE as error:
        channel.send(["syntax", _describe(error)[1]])
        return
    channel.send(["parsed", _digest(tree)])
    if reading["kind"] == "script":
        answer_inputs(channel, code)
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    objects = _Objects(module)
    reply = objects.perform(lambda: exec(code, module.__dict__))  # noqa: S102  the sandbox's purpose
    while True:
        try:
            channel.send(reply)
        except ValueRefusedError as error:
            channel.send(["raise", "ValueError", str(error), None])
        reply = objects.answer(channel.receive())


def _digest(tree: ast.Module) -> str | None:
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
    """The candidate's objects that the checker knows by number."""

    def __init__(self, module: types.ModuleType) -> None:
        self._by_number: list[Any] = [module]
        self._number_of = {id(module): 0}

    def answer(self, request: list[Any]) -> list[Any]:
        verb, target, arguments, keywords = request
        before = json.dumps([arguments, keywords])
        decoded = [decode(item, self._resolve) for item in arguments]
        named = {name: decode(item, self._resolve) for name, item in keywords.items()}
        reply = self.perform(lambda: VERBS[verb](self._resolve(target), *decoded, **named))
        if verb == "call" and reply[0] in ("value", "raise"):
            after = self._encode_arguments(decoded, named)
            if json.dumps(after) != before:
                reply = [*reply[:3], after]
        return reply

    def perform(self, action: Callable[[], Any]) -> list[Any]:
        """What came of an action, as a reply."""
        try:
            return ["value", encode(action(), self._refer), "", None]
        except StopIteration:
            return ["stop", "", "", None]
        except BaseException as error:  # noqa: BLE001  whatever the candidate raises is its answer
            return ["raise", *_describe(error), None]

    def _encode_arguments(self, decoded: list[Any], named: dict[str, Any]) -> list[Any] | None:
        try:
            return [
                [encode(item, self._refer) for item in decoded],
                {name: encode(item, self._refer) for name, item in named.items()},
            ]
        except (ValueRefusedError, RecursionError, MemoryError):
            return None

    def _resolve(self, number: int) -> Any:
        return self._by_number[number]

    def _refer(self, value: Any) -> dict[str, Any]:
        number = self._number_of.get(id(value))
        if number is None:
            number = self._number_of[id(value)] = len(self._by_number)
            self._by_number.append(value)
        return {"r": number}


def _describe(error: BaseException) -> tuple[str, str]:
    """Name of the nearest builtin class, and the message."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
    try:
        return name, str(error)[:MAX_MESSAGE_CHARS]
    except BaseException:  # noqa: BLE001  the candidate's own __str__
        return name, ""
