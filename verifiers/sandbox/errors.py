"""Exceptions of the candidate's: what of one crosses to the tests, and what it becomes there.

Runs inside the sandbox, on either side: standard library only. An exception arrives as the builtin one that it is or
extends, with its arguments, text and plain attributes; one of the candidate's own class as a subclass of that name.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable
from typing import Any

_OF_TESTS = "number in the tests"
_OWN = "names of the candidate's classes"
_LIBRARY = frozenset(
    {"_queue", "argparse", "asyncio.exceptions", "binascii", "configparser", "_csv", "dataclasses", "decimal"}
    | {"graphlib", "ipaddress", "json.decoder", "queue", "re", "sqlite3", "statistics", "struct", "zlib"}
    | {"subprocess", "xml.etree.ElementTree", "zoneinfo", "zoneinfo._common"}
)
"""Modules of the standard library whose exceptions arrive as they are: those that nobody but a program raises, and
not `unittest`, of which one skips a test."""
MAX_TEXT_CHARS = 10_000
MAX_NAMES = 20
"""Attributes of an exception, and own classes above its own."""


def describe(error: BaseException, encode: Callable[[Any], Any]) -> tuple[list[Any], str]:
    """The builtin class, the classes below it, the arguments, attributes and library's class, as sent; and the text."""
    kinds = type(error).__mro__
    position = next(n for n, kind in enumerate(kinds) if kind.__module__ == "builtins")
    own = [kind.__name__ for kind in kinds[:position]][:MAX_NAMES]
    library = next(([k.__module__, k.__name__] for k in kinds[:position] if k.__module__ in _LIBRARY), None)
    try:
        text = str(error)[:MAX_TEXT_CHARS]
    except BaseException:  # noqa: BLE001  the candidate's own __str__
        text = ""
    try:
        arguments = [encode(argument) for argument in error.args]
        held = {name: encode(value) for name, value in list(vars(error).items())[:MAX_NAMES]}
    except BaseException:  # noqa: BLE001  what cannot travel, or the candidate's own `args`
        arguments, held = [text], {}
    return [kinds[position].__name__, own, arguments, held, library], text


def _library_class(name: Any) -> type[Exception] | None:
    if not name:
        return None
    module, kind = name
    found = getattr(sys.modules.get(module), kind, None) if module in _LIBRARY else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def error_of_tests(name: str, arguments: list[Any], text: str, number: int) -> BaseException:
    """In the candidate: what a function of the tests raised; if it comes back to them it is theirs again."""
    kind = getattr(builtins, name)
    try:
        error = kind(*arguments)
    except TypeError:
        error = kind(text)
    error.__dict__[_OF_TESTS] = number
    return error


def caught_names(tree: ast.AST) -> set[str]:
    """The names of exceptions that tests catch or expect."""
    caught: list[ast.AST] = []
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=ast.AST() as kinds):
                caught += kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
            case ast.Call(func=ast.Attribute(attr="assertRaises" | "assertRaisesRegex"), args=[kinds, *_]):
                caught += kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
    return {node.id for node in caught if isinstance(node, ast.Name)}


def is_of_class(error: BaseException, name: str) -> bool:
    """Whether an exception is of the candidate's class of that name, or of one below it."""
    return name in getattr(type(error), _OWN, ())


class CannotSendError(BaseException):
    """The tests give the candidate something that cannot travel."""


class Errors:
    """Makes exceptions of what was sent; a class of the candidate's that the tests catch is one of our own."""

    def __init__(self) -> None:
        self._caught: dict[str, type[Exception]] = {}
        self._made: list[BaseException] = []
        self._passed: list[BaseException] = []

    def local_class(self, name: str) -> type[Exception]:
        """For `except Name:` in the tests."""
        return self._caught.setdefault(name, type(name, (Exception,), {"__module__": "candidate"}))

    def describe_passed(self, error: Exception, encode: Callable[[Any], Any]) -> list[Any]:
        """What a function of the tests raised, as it is sent to the candidate that called it."""
        kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
        self._passed.append(error)
        try:
            arguments = [encode(argument) for argument in error.args]
        except (ValueError, RecursionError, CannotSendError):
            arguments = [str(error)]
        return ["error", kind, arguments, str(error), len(self._passed) - 1]

    def make(self, body: Any, text: str, decode: Callable[[Any], Any]) -> BaseException:
        """RuntimeError for what would end a process, a loop or a generator. Raises ValueError for what is none."""
        name, own, arguments, held, library = body
        if type(number := held.get(_OF_TESTS)) is int and 0 <= number < len(self._passed):
            return self._passed[number]
        kind = getattr(builtins, name, None)
        stops = (StopIteration, StopAsyncIteration)
        if not (isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, stops)):
            return RuntimeError(f"the candidate raises {name}: {text}")
        if own:
            base = _library_class(library) or kind
            bases = [*(self._caught[part] for part in own if part in self._caught), base]
            parts = {"__str__": lambda self: text, "__module__": "candidate", _OWN: tuple(map(str, own))}
            kind = type(str(own[0]), tuple(dict.fromkeys(bases)), parts)
        try:
            given = [decode(argument) for argument in arguments]
            error = kind.__new__(kind, *given) if library else kind(*given)  # theirs take other arguments
        except TypeError:  # UnicodeDecodeError takes five arguments
            return RuntimeError(f"the candidate raises {name}: {text}")
        for key, value in held.items():
            if not key.startswith("__"):
                error.__dict__[key] = decode(value)
        self._made.append(error)
        return error

    def has_made(self, error: BaseException) -> bool:
        """Whether an exception is the candidate's, and not the tests' own."""
        return any(error is made for made in self._made)
