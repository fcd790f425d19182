"""The candidate's objects as the checker sees them: stand-ins that ask the candidate's process for all they do.

Runs inside the sandbox, in the checker's process: standard library only. What comes back is plain data, another
stand-in, or one of the builtin exceptions.

A stand-in equals no plain data, whatever its object says. An operator between two stand-ins is asked of the candidate:
it could as well have returned two plain values that answer it. Arithmetic with plain data is asked only of objects
that the tests made of the candidate's own classes (`fitting`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from verifiers.sandbox.errors import CannotSendError, is_of_class
from verifiers.sandbox.fitting import Facts
from verifiers.sandbox.link import GONE, CandidateGoneError, Link
from verifiers.sandbox.values import ARITHMETIC, COMPARISONS, CONVERSIONS, FORWARDED, UNARY

__all__ = ["GONE", "CandidateGoneError", "CannotSendError", "Link", "Remote"]

MAX_ITEMS = 30_000
"""Items taken from one iterator of the candidate's. Each is a message there and back."""
_READABLE = ("__name__", "__qualname__")
_HIDDEN = ("__doc__", "__annotations__")
"""What a function has and this class has too."""

_OF_MAPPINGS: dict[str, Callable[..., Any]] = {
    "keys": lambda remote, keys: list(keys),
    "values": lambda remote, keys: [remote[key] for key in keys],
    "items": lambda remote, keys: [(key, remote[key]) for key in keys],
    "get": lambda remote, keys, key, default=None: remote[key] if key in keys else default,
}
"""What a result that is a mapping does, by its keys and what it has at each of them."""


class Remote:
    """The candidate's function, or any object of its that is no plain data. Equal to no plain data."""

    __slots__ = ("_link", "_number")
    _link: Link
    _number: int

    def __init__(self, link: Link, number: int) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        try:
            return self._link.ask("call", self._number, arguments, keywords)
        except StopIteration:
            raise RuntimeError("the candidate raises StopIteration") from None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _READABLE:
            raise AttributeError(name)
        if name in _OF_MAPPINGS:
            _, items, is_mapping = _contents(self)
            if items is not None and is_mapping:
                return lambda *arguments: _OF_MAPPINGS[name](self, items, *arguments)
        return _ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _facts(self).expected = True
        _ask(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        _facts(self).expected = True
        _ask(self, "delete", name)

    def __getitem__(self, key: Any) -> Any:
        _, items, is_mapping = _contents(self)
        if items is None:
            return _observe(self, "item", key)
        if is_mapping:
            if not any(key is item or key == item for item in items):
                raise KeyError(key)
            return _observe(self, "item", key)
        return items[key] if isinstance(key, int | slice) else _observe(self, "item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._link.fitting.is_changed(self._number)
        _ask(self, "set item", key, value)

    def __delitem__(self, key: Any) -> None:
        self._link.fitting.is_changed(self._number)
        _ask(self, "delete item", key)

    def __enter__(self) -> Any:
        return _ask(self, "enter")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Its answer is not heeded: it could only hide that a test failed."""
        if not isinstance(error, CandidateGoneError):
            builtin = kind and next(part for part in kind.__mro__ if part.__module__ == "builtins")
            _ask(self, "exit", builtin, str(error))

    def __hash__(self) -> int:
        """Of a result by identity, for equal objects too."""
        return _ask(self, "hash") if _facts(self).expected else object.__hash__(self)

    def __len__(self) -> int:
        if _facts(self).expected:
            return _ask(self, "len")
        size, items, _ = _contents(self)
        size = _observe(self, "len") if size is None else size
        if items is None or len(items) != size:
            there = "cannot be iterated" if items is None else f"has {len(items)} items"
            _facts(self).misfit = f"a result says that its length is {size}, and {there}"
        return size

    def __bool__(self) -> bool:
        size, _, _ = _contents(self)
        return _observe(self, "true") if size is None else size > 0

    def __contains__(self, item: Any) -> bool:
        if _facts(self).expected:
            return bool(_ask(self, "contains", item))
        return any(item is other or item == other for other in self)

    def __str__(self) -> str:
        return _observe(self, "text")

    def __repr__(self) -> str:
        return _observe(self, "repr")

    def __format__(self, spec: str) -> str:
        return _observe(self, "format", spec)

    def __next__(self) -> Any:
        """Of a result nothing comes after its end, and what came is kept."""
        facts = _facts(self)
        if facts.is_ended and not facts.expected:
            raise StopIteration
        try:
            item = self._link.ask("next", self._number)
        except StopIteration:
            facts.is_ended = True
            raise
        if not facts.expected:
            facts.items.append(item)
            if len(facts.items) > MAX_ITEMS:
                _refuse_endless(self)
        return item

    def __iter__(self) -> Iterator[Any]:
        _, items, _ = _contents(self)
        if items is not None:
            return iter(list(items))
        if _facts(self).expected:
            return _items(self, _ask(self, "iterate"))
        iterator = _observe(self, "iterate")
        return _passed_again(self) if iterator is self else _read_again(self, iterator)

    def __reversed__(self) -> Iterator[Any]:
        _, items, is_mapping = _contents(self)
        if items is not None and not is_mapping:
            return reversed(items)
        backwards = _ask(self, "reversed")
        return _items(self, backwards) if _facts(self).expected else reversed(list(self))

    def __instancecheck__(self, instance: Any) -> bool:
        if isinstance(instance, BaseException):
            return is_of_class(instance, str(_ask(self, "get", "__name__")))
        return isinstance(instance, Remote) and bool(_ask(self, "has instance", instance))

    def __subclasscheck__(self, kind: Any) -> bool:
        return isinstance(kind, Remote) and bool(_ask(self, "has subclass", kind))


def _facts(remote: Remote) -> Facts:
    return remote._link.fitting.of(remote._number)


def _ask(remote: Remote, verb: str, *arguments: Any) -> Any:
    try:
        return remote._link.ask(verb, remote._number, arguments)
    except StopIteration:
        # Let out, it would end a loop of the tests early, and `all(map(candidate, ...))` would hold.
        raise RuntimeError("the candidate raises StopIteration") from None


def _observe(remote: Remote, verb: str, *arguments: Any) -> Any:
    """What is asked without changing anything: of a result that should be plain data it is asked once."""
    facts = _facts(remote)
    if facts.expected:
        return _ask(remote, verb, *arguments)
    question = (verb, *(id(part) if isinstance(part, Remote) else repr(part) for part in arguments))
    if question not in facts.answers:
        facts.answers[question] = _ask(remote, verb, *arguments)
    return facts.answers[question]


def _contents(remote: Remote) -> tuple[int | None, list[Any] | None, bool]:
    """Of a result that is a container: its length, its items, and whether they are keys; else nothing."""
    if _facts(remote).expected:
        return None, None, False
    answer = _observe(remote, "contents", MAX_ITEMS)
    match answer:
        case (None | int(), None | list(), bool()) if type(answer) is tuple:
            return answer
        case None:
            return None, None, False
        case (_, False, _):
            remote._link.give_up(f"a result has more than {MAX_ITEMS} items", too_large=True)
    remote._link.give_up("no reply of the protocol")


def _read_again(remote: Remote, iterator: Any) -> Iterator[Any]:
    """The items of the one iterator that a result was asked for, from the first, whoever took them before."""
    items = _facts(_iterator(iterator)).items
    position = 0
    while True:
        if position == len(items):
            try:
                next(iterator)
            except StopIteration:
                return
        yield items[position]
        position += 1


def _passed_again(remote: Remote) -> Iterator[Any]:
    """A result that is an iterator itself. Once it has ended it gives nothing, or what it gave before."""
    facts = _facts(remote)
    _ask(remote, "iterate")
    if not facts.is_ended:
        facts.items.clear()  # of a pass that was left, after which it goes on or begins anew
        return _items(remote, remote)
    try:
        remote._link.ask("next", remote._number)
    except StopIteration:
        return iter(())
    return iter(list(facts.items))


def _iterator(value: Any) -> Remote:
    if not isinstance(value, Remote):
        raise TypeError("the candidate's object cannot be iterated")
    return value


def _items(remote: Remote, iterator: Any) -> Iterator[Any]:
    _iterator(iterator)
    for _ in range(MAX_ITEMS):
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item
    _refuse_endless(remote)


def _refuse_endless(remote: Remote) -> NoReturn:
    remote._link.give_up(f"the candidate's iterator has more than {MAX_ITEMS} items", too_large=True)


def _made(remote: Remote, value: Any) -> Any:
    """A value that an operator made of an object is of the same kind as it."""
    if isinstance(value, Remote) and _facts(remote).expected:
        _facts(value).expected = True
    return value


def _forward(name: str) -> Callable[[Remote, Any], Any]:
    def operate(self: Remote, other: Any) -> Any:
        if isinstance(other, Remote) or (name in ARITHMETIC and _facts(self).expected):
            return _made(self, _ask(self, name, other))
        if name not in COMPARISONS or not _facts(self).expected:
            return NotImplemented
        plain = _ask(self, "plain")  # of `class Stack(list)`
        return (
            NotImplemented
            if plain is None or isinstance(plain, Remote)
            else getattr(operator, name)(plain, other)
        )

    return operate


def _forward_unary(name: str) -> Callable[..., Any]:
    return lambda self, *arguments: _made(self, _ask(self, name, *arguments))


def _forward_conversion(name: str) -> Callable[..., Any]:
    def convert(self: Remote, *arguments: Any) -> Any:
        if not _facts(self).expected:
            raise TypeError("a result of the candidate's is no number")
        return _ask(self, name, *arguments)

    return convert


for _name in (*FORWARDED, *ARITHMETIC):
    setattr(Remote, _name, _forward(_name))
for _name in UNARY:
    setattr(Remote, _name, _forward_unary(_name))
for _name in CONVERSIONS:
    setattr(Remote, _name, _forward_conversion(_name))


def _read_hidden(name: str) -> property:
    return property(lambda self: _ask(self, "get", name))


for _name in _HIDDEN:
    setattr(Remote, _name, _read_hidden(_name))
