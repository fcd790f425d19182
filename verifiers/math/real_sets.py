"""Sets of real numbers between numbers: their unions, intersections and complements."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from verifiers.math.evaluation import Undefined, constant_value
from verifiers.math.expression import Constant, Expression, Number, negate
from verifiers.math.forms import Interval

INFINITY = Constant("infinity")
MINUS_INFINITY = negate(INFINITY)
REALS: tuple[Interval, ...] = (Interval(MINUS_INFINITY, INFINITY, False, False),)

# A place on the line: between two numbers there is a gap before and after each number.
_Cut = tuple[int, Fraction, int]


def is_infinite(bound: Expression) -> bool:
    return bound.key in (INFINITY.key, MINUS_INFINITY.key)


def position(bound: Expression) -> tuple[int, Fraction]:
    """Where a bound lies, in order of size; Undefined where it is no real number."""
    if bound.key == INFINITY.key:
        return 1, Fraction(0)
    if bound.key == MINUS_INFINITY.key:
        return -1, Fraction(0)
    if isinstance(bound, Number):
        return 0, bound.value
    value = constant_value(bound)
    if getattr(value, "imag", 0) != 0:
        raise Undefined("a bound that is not real")
    # Beyond the noise of the last digits, so that 2\\sqrt{2} and \\sqrt{8} are one bound.
    return 0, Fraction(round(value.real * 2**150)) / 2**150


def _cuts(piece: Interval) -> tuple[_Cut, _Cut]:
    low, high = position(piece.low), position(piece.high)
    return (*low, 0 if piece.has_low else 1), (*high, 1 if piece.has_high else 0)


def interval(low: Expression, high: Expression, has_low: bool, has_high: bool) -> Interval | None:
    """None where there is nothing between the bounds; Undefined where infinity would belong to it."""
    if (has_low and is_infinite(low)) or (has_high and is_infinite(high)):
        raise Undefined("a closed end at infinity")
    piece = Interval(low, high, has_low, has_high)
    start, end = _cuts(piece)
    return piece if start < end else None


def union(pieces: Iterable[Interval]) -> tuple[Interval, ...]:
    merged: list[Interval] = []
    for piece in sorted(pieces, key=_cuts):
        if merged and _cuts(piece)[0] <= _cuts(merged[-1])[1]:
            last = merged[-1]
            longer = max(last, piece, key=lambda one: _cuts(one)[1])
            merged[-1] = Interval(last.low, longer.high, last.has_low, longer.has_high)
        else:
            merged.append(piece)
    return tuple(merged)


def intersection(first: Iterable[Interval], second: Iterable[Interval]) -> tuple[Interval, ...]:
    second = tuple(second)
    common = []
    for one in first:
        for other in second:
            start = max(one, other, key=lambda piece: _cuts(piece)[0])
            end = min(one, other, key=lambda piece: _cuts(piece)[1])
            common.append(interval(start.low, end.high, start.has_low, end.has_high))
    return union(piece for piece in common if piece)


def complement(pieces: tuple[Interval, ...]) -> tuple[Interval, ...]:
    rest = REALS
    for piece in pieces:
        sides: list[Interval | None] = []
        if not is_infinite(piece.low):
            sides.append(interval(MINUS_INFINITY, piece.low, False, not piece.has_low))
        if not is_infinite(piece.high):
            sides.append(interval(piece.high, INFINITY, not piece.has_high, False))
        rest = intersection(rest, [side for side in sides if side])
    return rest


def point(value: Expression) -> Interval:
    position(value)
    return Interval(value, value, True, True)
