"""The candidate's objects as the checker sees them: stand-ins that ask the candidate's process for all they do.

Runs inside the sandbox, in the checker's process: standard library only. What comes back is plain data, another
stand-in, or one of the builtin exceptions.

A stand-in equals no plain data, whatever its object says. An operator between two stand-ins is asked of the candidate:
it could as well have returned two plain values that answer it.
"""

from __future__ import annotations

import builtins
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from verifiers.sandbox.values import FORWARDED, Channel, ValueRefusedError, decode, encode

MAX_ITEMS = 10_000
"""Items taken from one iterator of the candidate's. Each is a message there and back."""
GONE = "the candidate's process ended"
TESTS = "tests"
"""The name of the module in which the tests run."""


class CandidateGoneError(BaseException):
    """No more answers are to be had. No Exception, so that no test takes it for the one that it expects."""


class CannotSendError(BaseException):
    """The tests give the candidate something that cannot travel."""


class Link:
    """Requests to the candidate. After its first offence against the protocol there are no more."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._remotes: dict[int, Remote] = {}
        self.gone = ""
        """Why there are no more answers. A test that catches CandidateGoneError does not pass by it."""
        self.unsupported = ""
        """What of the tests cannot be done here."""
        self._took_part = False
        """Whether a value in the tests may be the candidate's, other than its functions and classes themselves."""

    def ask(
        self, verb: str, number: int, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        if self.gone:
            raise CandidateGoneError(self.gone)
        keywords = keywords or {}
        try:
            sent = [encode(item, self._refer) for item in arguments]
            named = {name: encode(item, self._refer) for name, item in keywords.items()}
            self._channel.send([verb, number, sent, named])
        except (MemoryError, RecursionError, ValueRefusedError):  # only by way of what the candidate returned
            self._give_up("a value of its that grew too large")
        except OSError:
            self._give_up(GONE)
        self._took_part |= (verb, number) != ("get", 0)
        value = self.receive(arguments, keywords)
        self._took_part |= not isinstance(value, Remote)
        return value

    def receive(self, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None) -> Any:
        """The value of a reply; raises what the candidate raised. Applies what it did to its arguments."""
        try:
            kind, body, message, changed = self._channel.receive()
            if changed is not None:
                now, named = changed
                _update(list(arguments), [decode(item, self._resolve) for item in now])
                for name, value in (keywords or {}).items():
                    _update([value], [decode(named[name], self._resolve)])
            if kind == "value":
                return decode(body, self._resolve)
            if kind not in ("raise", "stop"):
                raise ValueRefusedError("no reply of the protocol")
            error = StopIteration() if kind == "stop" else _exception(body, message)
        except (EOFError, OSError):
            self._give_up(GONE)
        except (LookupError, MemoryError, RecursionError, TypeError, ValueError) as problem:
            self._give_up(
                str(problem) if isinstance(problem, ValueRefusedError) else "no reply of the protocol"
            )
        raise error

    def _give_up(self, reason: str) -> NoReturn:
        self.gone = reason
        raise CandidateGoneError(reason) from None

    def _refer(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Remote):
            return {"r": value._number}
        reason = f"the tests give the candidate a {type(value).__name__}, which is no plain data"
        if not self._took_part or _is_of_the_tests(value):
            self.unsupported = reason
        else:
            self.gone = f"{reason}, after what the candidate returned"
        raise CannotSendError(reason)

    def _resolve(self, number: int) -> Remote:
        if number not in self._remotes:
            self._remotes[number] = Remote(self, number)
        return self._remotes[number]


def _is_of_the_tests(value: Any) -> bool:
    """Whether this can only be written in the tests, and not come out of a value that the candidate returned.

    An iterator or a builtin type's method can: `s.items` of a test that expects an object and is handed a dict.
    """
    match value:
        case types.FunctionType():
            return value.__module__ == TESTS
        case types.MethodType():
            return _is_of_the_tests(value.__func__)
        case types.GeneratorType():
            return value.gi_code.co_filename.startswith((f"<{TESTS}", "<prelude"))
        case types.BuiltinFunctionType():
            return isinstance(value.__self__, types.ModuleType)
    kind = value if isinstance(value, type) else type(value)
    return kind.__module__ == TESTS


class Remote:
    """The candidate's function, or any object of its that is no plain data. Equal to no plain data."""

    __slots__ = ("_link", "_number")
    _link: Link
    _number: int

    def __init__(self, link: Link, number: int) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)

    def _ask(self, verb: str, *arguments: Any) -> Any:
        try:
            return self._link.ask(verb, self._number, arguments)
        except StopIteration:
            # Let out, it would end a loop of the tests early, and `all(map(candidate, ...))` would hold.
            raise RuntimeError("the candidate raises StopIteration") from None

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        try:
            return self._link.ask("call", self._number, arguments, keywords)
        except StopIteration:
            raise RuntimeError("the candidate raises StopIteration") from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set item", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("delete item", key)

    def __enter__(self) -> Any:
        return self._ask("enter")

    def __exit__(self, *_: object) -> None:
        self._ask("exit")  # its answer could only hide that a test failed

    __hash__ = object.__hash__  # by identity, for equal objects too

    def __len__(self) -> int:
        return self._ask("len")

    def __bool__(self) -> bool:
        return self._ask("true")

    def __str__(self) -> str:
        return self._ask("text")

    def __next__(self) -> Any:
        return self._link.ask("next", self._number)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._ask("iterate")
        if not isinstance(iterator, Remote):
            raise TypeError("the candidate's object cannot be iterated")
        for _ in range(MAX_ITEMS):
            try:
                item = next(iterator)
            except StopIteration:
                return
            yield item
        raise RuntimeError(f"the candidate's iterator has more than {MAX_ITEMS} items")


def _forward(name: str) -> Callable[[Remote, Any], Any]:
    def operate(self: Remote, other: Any) -> Any:
        return self._ask(name, other) if isinstance(other, Remote) else NotImplemented

    return operate


for _name in FORWARDED:
    setattr(Remote, _name, _forward(_name))


def _exception(name: str, message: str) -> Exception:
    """The builtin exception of that name; RuntimeError for what would end a process, a loop or a generator."""
    kind = getattr(builtins, name, None)
    stops = (StopIteration, StopAsyncIteration)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, stops):
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError takes five arguments
            pass
    return RuntimeError(f"the candidate raises {name}: {message}")


def _update(values: list[Any], now: list[Any]) -> None:
    """Give the test's own containers the contents that the candidate left in its copies."""
    for value, new in zip(values, now, strict=True):
        if type(value) is not type(new):
            continue
        match value:
            case list() | bytearray():
                value[:] = new
            case deque():
                value.clear()
                value.extend(new)
            case dict() | set():
                value.clear()
                value.update(new)
            case tuple():
                _update(list(value), list(new))
