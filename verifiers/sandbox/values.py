"""How values travel between a candidate and its checker: plain data as tagged JSON, anything else as a number.

Runs inside the sandbox: standard library only. Nothing that arrives is executed, imported, or looked up by a name
that the sender chose, except in the tables below. What the checker decodes is of exactly the builtin and
standard-library types in them, so no comparison there can run the candidate's code.

    null true 1 1.5 "text" [..]      as in JSON; NaN and Infinity too
    {"t": [..]} {"d": [[k, v], ..]}  tuple, dict; "s" set, "f" frozenset, "b" bytes, "i" an int of many digits
    {"N": ["Point", [..], [..]]}     a named tuple: name, fields, items
    {"x": ["Fraction", ..]}          a type of REBUILT with the arguments that make it again
    {"n": "int"}                     the builtin type of that name
    {"r": 7}                         the candidate's object number 7, which stays where it is
    {"g": 7} {"g": ["math", "sqrt"]} an object of the tests', which stays where it is; a library's, by its name
    {"o": ["Point", {..}]}           an instance of a class of the problem's own, with its attributes (`instances`)
    {"m": ["Color", "RED"]}          a member of an enumeration of the problem's own
"""

from __future__ import annotations

import datetime
import functools
import json
import socket
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

MAX_DEPTH = 100
"""Of containers in containers."""
MAX_MESSAGE_BYTES = 64 << 20
"""What no message of our own reaches; a candidate's are limited further."""

_SMALL = 1 << 62
_LENGTH = struct.Struct("!I")
PLAIN_TYPES = (list, tuple, dict, set, frozenset, str, bytes, int, float)
"""Of these an instance of a subclass travels as the plain type."""
_UNCHANGED = frozenset({str, float, bool, type(None)})
_MAY_BE_UNCHANGED = _UNCHANGED | {int}
_DECODED = frozenset({list, dict})
Refer = Callable[[Any, int], dict[str, Any]]
"""From an object that is no plain data, and how deep it lies, to what stands for it."""
Resolve = Callable[[str, Any, int], Any]
"""The reverse: from a tag, what it holds, and how deep."""
BUILTIN_TYPES = {
    kind.__name__: kind for kind in (int, float, str, bool, list, tuple, dict, set, complex, bytes, frozenset)
}
_NAME_OF = {kind: name for name, kind in BUILTIN_TYPES.items()}

COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
FORWARDED = (
    *COMPARISONS,
    *("__add__", "__sub__", "__mul__", "__matmul__", "__truediv__", "__floordiv__", "__mod__", "__pow__"),
    *("__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__divmod__"),
)
"""Operators between two objects of the candidate's that are the candidate's to answer."""
_COMPUTING = FORWARDED[len(COMPARISONS) :]
REFLECTED = tuple(f"__r{name[2:]}" for name in _COMPUTING)
IN_PLACE = tuple(f"__i{name[2:]}" for name in _COMPUTING if name != "__divmod__")
ARITHMETIC = (*_COMPUTING, *REFLECTED, *IN_PLACE)
UNARY = ("__neg__", "__pos__", "__invert__", "__abs__")
CONVERSIONS = (
    "__int__",
    "__float__",
    "__index__",
    "__complex__",
    "__round__",
    "__trunc__",
    "__floor__",
    "__ceil__",
)
"""What makes a builtin number of an object; the name is the method's."""

REBUILT: dict[type, tuple[Callable[..., Any], Callable[[Any], list[Any]]]] = {
    complex: (complex, lambda value: [value.real, value.imag]),
    bytearray: (bytearray, lambda value: [bytes(value)]),
    deque: (deque, lambda value: [list(value), value.maxlen]),
    Counter: (Counter, lambda value: [dict(value)]),
    OrderedDict: (OrderedDict, lambda value: [dict(value)]),
    defaultdict: (lambda *parts: _defaultdict(*parts), lambda value: [value.default_factory, dict(value)]),
    range: (range, lambda value: [value.start, value.stop, value.step]),
    slice: (slice, lambda value: [value.start, value.stop, value.step]),
    Fraction: (Fraction, lambda value: [value.numerator, value.denominator]),
    Decimal: (Decimal, lambda value: [str(value)]),
    datetime.date: (datetime.date, lambda value: [value.year, value.month, value.day]),
    datetime.time: (datetime.time.fromisoformat, lambda value: [value.isoformat()]),
    datetime.datetime: (datetime.datetime.fromisoformat, lambda value: [value.isoformat()]),
    datetime.timedelta: (datetime.timedelta, lambda value: [value.days, value.seconds, value.microseconds]),
}
"""Types that are made again on the other side: (from arguments, to arguments)."""
_MAPPINGS = (Counter, OrderedDict, defaultdict)
_FACTORIES = (None, *BUILTIN_TYPES.values())
_MAKER = {kind.__name__: maker for kind, (maker, _) in REBUILT.items()}


class ValueRefusedError(ValueError):
    """A value that cannot travel (too deep, too long), or data that stands for none."""


def encode(value: Any, refer: Refer, depth: int = 0) -> Any:
    """A value as what `json.dumps` can write. `refer` stands in for an object that is no plain data.

    An instance of a subclass (Counter, IntEnum, but a named tuple) travels as the plain type it extends, read by that
    type's own methods.
    """
    kind = type(value)
    if kind in _UNCHANGED:
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else {"i": hex(value)}
    if depth > MAX_DEPTH:
        raise ValueRefusedError(f"a value is nested deeper than {MAX_DEPTH}")
    deeper = depth + 1
    if isinstance(value, list):
        if _travels_as_it_is(value):
            return list(list.__iter__(value))
        return [encode(item, refer, deeper) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        fields = getattr(kind, "_fields", None)
        if kind is not tuple and type(fields) is tuple and len(fields) == tuple.__len__(value):
            return {
                "N": [kind.__name__, list(fields), [encode(v, refer, deeper) for v in tuple.__iter__(value)]]
            }
        return {"t": [encode(item, refer, deeper) for item in tuple.__iter__(value)]}
    if kind in _MAPPINGS and (kind is not defaultdict or value.default_factory in _FACTORIES):
        return _rebuilt(value, refer, deeper)
    if isinstance(value, dict):
        items = dict.items(value)
        return {"d": [[encode(key, refer, deeper), encode(item, refer, deeper)] for key, item in items]}
    if isinstance(value, set):
        return {"s": [encode(item, refer, deeper) for item in set.__iter__(value)]}
    if isinstance(value, frozenset):
        return {"f": [encode(item, refer, deeper) for item in frozenset.__iter__(value)]}
    if kind in REBUILT:
        return _rebuilt(value, refer, deeper)
    if isinstance(value, bytes):
        return {"b": bytes.hex(value)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return encode(int.__int__(value), refer, depth)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, type) and value in _NAME_OF:
        return {"n": _NAME_OF[value]}
    if kind is MappingProxyType:
        return encode(dict(value), refer, depth)
    return refer(value, depth)


def _rebuilt(value: Any, refer: Refer, depth: int) -> dict[str, Any]:
    kind = type(value)
    return {"x": [kind.__name__, *(encode(item, refer, depth) for item in REBUILT[kind][1](value))]}


def _defaultdict(factory: Any, items: dict[Any, Any]) -> dict[Any, Any]:
    """Raises ValueRefusedError for a factory that is more than a builtin type."""
    if factory not in _FACTORIES:
        raise ValueRefusedError("a defaultdict whose factory is no builtin type")
    return defaultdict(factory, items)


def _travels_as_it_is(items: list[Any]) -> bool:
    """Whether all items are numbers and texts that JSON has: a long list is then not walked through in Python."""
    kinds = set(map(type, list.__iter__(items)))
    if not kinds <= _MAY_BE_UNCHANGED:
        return False
    if kinds == {int}:
        return -_SMALL < min(items, default=0) and max(items, default=0) < _SMALL
    return int not in kinds


def decode(data: Any, resolve: Resolve, depth: int = 0) -> Any:
    """The value that `encode` wrote; `resolve` gives what a reference stands for. Raises ValueRefusedError for all else."""
    if not isinstance(data, list | dict):
        return data
    if depth > MAX_DEPTH:
        raise ValueRefusedError(f"a value is nested deeper than {MAX_DEPTH}")
    deeper = depth + 1
    if isinstance(data, list):
        if _DECODED.isdisjoint(map(type, data)):
            return data
        return [decode(item, resolve, deeper) for item in data]
    try:
        [(tag, body)] = data.items()
        match tag:
            case "t":
                return tuple([decode(item, resolve, deeper) for item in body])
            case "N":
                name, fields, items = body
                return _named_tuple(name, tuple(fields))(*[decode(item, resolve, deeper) for item in items])
            case "d":
                return {decode(key, resolve, deeper): decode(item, resolve, deeper) for key, item in body}
            case "s":
                return {decode(item, resolve, deeper) for item in body}
            case "f":
                return frozenset([decode(item, resolve, deeper) for item in body])
            case "b":
                return bytes.fromhex(body)
            case "i":
                return int(body, 16)
            case "n":
                return BUILTIN_TYPES[body]
            case "x":
                name, *arguments = body
                return _MAKER[name](*[decode(item, resolve, deeper) for item in arguments])
            case "r" | "g" | "o" | "m":
                return resolve(tag, body, depth)
    except ValueRefusedError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueRefusedError(f"a reply that stands for no value ({type(error).__name__})") from error
    raise ValueRefusedError("a reply that stands for no value")


@functools.lru_cache(64)
def _named_tuple(name: str, fields: tuple[str, ...]) -> Callable[..., Any]:
    return namedtuple(name, fields)


class Channel:
    """Messages of JSON over one end of a socket pair, each after its length."""

    def __init__(
        self, end: socket.socket, *, max_sent: int = MAX_MESSAGE_BYTES, max_received: int = MAX_MESSAGE_BYTES
    ) -> None:
        self._end = end
        self.max_sent = max_sent
        self._max_received = max_received

    def send(self, message: Any) -> None:
        """Raises ValueRefusedError, before anything is sent, for a message that is too long."""
        payload = json.dumps(message, separators=(",", ":")).encode()
        if len(payload) > self.max_sent:
            raise ValueRefusedError(f"a value of {len(payload)} bytes, more than {self.max_sent}")
        self._end.sendall(_LENGTH.pack(len(payload)) + payload)

    def receive(self) -> Any:
        """Raises EOFError once the other end is closed, ValueRefusedError for what is too long or no JSON."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > self._max_received:
            raise ValueRefusedError(f"a reply of {length} bytes, more than {self._max_received}")
        payload = self._read(length)
        try:
            return json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise ValueRefusedError(f"a reply that is no JSON ({type(error).__name__})") from error

    def close(self) -> None:
        self._end.close()

    def _read(self, size: int) -> bytes:
        chunks = bytearray()
        while len(chunks) < size:
            chunk = self._end.recv(min(size - len(chunks), 1 << 16))
            if not chunk:
                raise EOFError
            chunks += chunk
        return bytes(chunks)
