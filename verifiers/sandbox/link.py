"""The checker's requests to the candidate, and its answers to what the candidate asks of the tests' objects.

Runs inside the sandbox, in the checker's process: standard library only.
"""

from __future__ import annotations

from _thread import RLock
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from verifiers.sandbox.errors import CannotSendError, Errors
from verifiers.sandbox.fitting import Fitting
from verifiers.sandbox.given import Given, library_name
from verifiers.sandbox.instances import Instances, attributes
from verifiers.sandbox.values import Channel, ValueRefusedError, decode, encode

MAX_REASON_CHARS = 300
GONE = "the candidate's process ended"


class CandidateGoneError(BaseException):
    """No more answers are to be had. No Exception, so that no test takes it for the one that it expects."""


class Link:
    """Requests to the candidate. After its first offence against the protocol there are no more.

    `make_remote` makes a stand-in for the candidate's object of a number; `instances` knows the problem's own classes.
    """

    def __init__(
        self, channel: Channel, make_remote: Callable[[Link, int], Any], instances: Instances
    ) -> None:
        self._channel = channel
        self._make_remote = make_remote
        self._instances = instances
        self._remotes: dict[int, Any] = {}
        self._number_of: dict[int, int] = {}
        self._given = Given()
        self._turn = (
            RLock()
        )  # tests may have threads; what the candidate calls back is in the turn of its call
        self.errors = Errors()
        self.fitting = Fitting()
        self.gone = ""
        """Why there are no more answers. A test that catches CandidateGoneError does not pass by it."""
        self.is_too_large = False
        """Whether there are none because a value did not fit."""
        self.unsupported = ""
        """What of the tests cannot be done here."""
        self._took_part = False
        """Whether anything in the tests may be of the candidate's making: then nothing is the tests' fault alone."""

    def name(self, name: str) -> Any:
        """What the candidate's program has under a name. Raises AttributeError if it has nothing."""
        value = self.ask("get", 0, (name,))
        number = self._number_of.get(id(value))
        if number is None:
            self._took_part = True
            return value
        facts = self.fitting.of(number)
        facts.expected = True
        if name[:1].isupper() and "_" not in name:
            facts.is_class = self.ask("is class", number) is True
        return value

    def ask(
        self,
        verb: str,
        number: int,
        arguments: tuple[Any, ...] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        """Raises what the candidate raises, and CandidateGoneError once it gives no more answers."""
        if self.gone:
            raise CandidateGoneError(self.gone)
        keywords = keywords or {}
        is_made = verb == "call" and self.fitting.of(number).is_class
        with self._turn:
            return self._ask("make" if is_made else verb, number, arguments, keywords)

    def _ask(self, verb: str, number: int, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        self._send([verb, number], arguments, keywords)
        if number:
            for value in (*arguments, *keywords.values()):
                if (passed := self._number_of.get(id(value))) is not None:
                    self.fitting.is_changed(passed)
        try:
            value = self.receive(arguments, keywords)
        finally:
            self._took_part |= number != 0 and verb != "is class"
        result = self._number_of.get(id(value))
        if verb in ("call", "make"):
            self.fitting.is_called(number, result)
        elif verb == "get" and number:
            self.fitting.is_read(number, arguments[0], result)
        return value

    def _send(self, head: list[Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        try:
            sent = [encode(item, self._refer) for item in arguments]
            named = {name: encode(item, self._refer) for name, item in keywords.items()}
            self._channel.send([*head, sent, named])
        except (MemoryError, RecursionError, ValueRefusedError) as error:
            self.give_up(f"a value that the tests give it is too large ({error})", too_large=True)
        except OSError:
            self.give_up(GONE)

    def receive(self, arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None) -> Any:
        """The value of a reply; raises what the candidate raised. Applies what it did to its arguments."""
        try:
            while (reply := self._channel.receive())[0] == "ask":
                self._answer(reply)
            kind, body, message, changed = reply
            if changed is not None:
                now, named = changed
                _update(list(arguments), [self._decode(item) for item in now])
                for name, value in (keywords or {}).items():
                    _update([value], [self._decode(named[name])])
            if kind == "value":
                return self._decode(body)
            if kind == "too large":
                self.give_up(str(message)[:MAX_REASON_CHARS], too_large=True)
            if kind not in ("raise", "stop"):
                raise ValueRefusedError("no reply of the protocol")
            error = StopIteration() if kind == "stop" else self.errors.make(body, str(message), self._decode)
        except (EOFError, OSError):
            self.give_up(GONE)
        except (AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as problem:
            is_ours = isinstance(problem, ValueRefusedError)
            self.give_up(str(problem) if is_ours else "no reply of the protocol")
        raise error

    def _answer(self, request: list[Any]) -> None:
        """Do what the candidate asks of an object of the tests', and send what comes of it."""
        _, verb, number, arguments, keywords = request
        self._took_part = True
        given = [self._decode(item) for item in arguments]
        named = {name: self._decode(value) for name, value in keywords.items()}
        try:
            value = self._given.perform(verb, number, given, named)
            reply = ["answer", encode(value, self._refer)]
        except CannotSendError as error:
            self.gone = ""
            reply = self._passed(TypeError(str(error)))
        except Exception as error:  # noqa: BLE001  the candidate may catch it, as anywhere
            reply = self._passed(error)
        self._channel.send(reply)

    def _passed(self, error: Exception) -> list[Any]:
        gone, self.gone = self.gone, ""
        reply = self.errors.describe_passed(error, lambda value: encode(value, self._refer))
        self.gone = gone
        return reply

    def give_up(self, reason: str, *, too_large: bool = False) -> NoReturn:
        """From now on there are no answers: the candidate has not passed."""
        self.gone, self.is_too_large = reason, too_large
        raise CandidateGoneError(reason) from None

    def _decode(self, data: Any) -> Any:
        return decode(data, self._resolve)

    def _refer(self, value: Any, depth: int) -> dict[str, Any]:
        number = self._number_of.get(id(value))
        if number is not None:
            return {"r": number}
        if (by_value := self._instances.encode(value, self._refer, depth)) is not None:
            return by_value
        if (name := library_name(value)) is not None:
            return {"g": name}
        if (number := self._given.number(value)) is not None:
            return {"g": number}
        reason = f"the tests give the candidate a {type(value).__name__}, which is no plain data"
        if self._took_part:
            self.gone = f"{reason}, after what the candidate returned"
        else:
            self.unsupported = reason
        raise CannotSendError(reason)

    def _resolve(self, tag: str, body: Any, depth: int) -> Any:
        if tag in ("o", "m"):
            return self._instances.decode(tag, body, self._resolve, depth)
        if type(body) is not int:
            raise ValueRefusedError("no reply of the protocol")
        if tag == "g":
            return self._given[body]
        if body not in self._remotes:
            remote = self._remotes[body] = self._make_remote(self, body)
            self._number_of[id(remote)] = body
        return self._remotes[body]


def _update(values: list[Any], now: list[Any]) -> None:
    """Give the test's own containers the contents that the candidate left in its copies."""
    for value, new in zip(values, now, strict=True):
        if not isinstance(value, type(new)):  # of a subclass the plain type comes back
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
            case _ if hasattr(value, "__dict__") and value is not new:
                _update_instance(value, new)


def _update_instance(value: Any, new: Any) -> None:
    """Attribute by attribute, so that other names of the test's for a part of it see the change too."""
    before = attributes(value)
    for name, attribute in attributes(new).items():
        old = before.get(name)
        if hasattr(old, "__dict__") and type(old) is type(attribute):
            _update_instance(old, attribute)
        else:
            object.__setattr__(value, name, attribute)
