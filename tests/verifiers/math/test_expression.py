"""Expressions: what their constructors fold, exactly, and what they refuse to compute."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from verifiers.math.expression import (
    MAX_BITS,
    MAX_FACTORIAL,
    Constant,
    Expression,
    Number,
    Symbol,
    TooLarge,
    add,
    binomial,
    divide,
    factorial,
    integer,
    multiply,
    negate,
    permutations,
    power,
)

X, Y, I = Symbol("x"), Symbol("y"), Constant("i")


def half() -> Number:
    return Number(Fraction(1, 2))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (power(integer(2), integer(100)), Fraction(2**100)),
        (power(integer(2), integer(-100)), Fraction(1, 2**100)),
        (power(integer(-8), Number(Fraction(1, 3))), Fraction(-2)),
        (power(Number(Fraction(4, 9)), Number(Fraction(3, 2))), Fraction(8, 27)),
        (multiply([power(integer(2), half()), power(integer(2), half())]), Fraction(2)),
        (multiply([I, I, I, I]), Fraction(1)),
        (divide(factorial(integer(2031)), factorial(integer(2030))), Fraction(2031)),
        (binomial(integer(400), integer(40)), Fraction(math.comb(400, 40))),
        (permutations(integer(7), integer(2)), Fraction(42)),
        (add([X, negate(X), integer(3)]), Fraction(3)),
        (divide(X, X), Fraction(1)),
    ],
)
def test_what_is_rational_is_folded_exactly(expression: Expression, value: Fraction):
    assert isinstance(expression, Number) and expression.value == value


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (add([X, Y]), add([Y, X])),
        (multiply([integer(3), X, Y]), multiply([Y, integer(3), X])),
        (add([X, X]), multiply([integer(2), X])),
        (power(multiply([X, Y]), integer(2)), multiply([X, X, Y, Y])),
        (divide(X, Y), multiply([power(Y, integer(-1)), X])),
        (power(power(X, half()), integer(2)), X),
    ],
)
def test_spellings_of_one_sum_or_product_are_one_object(first: Expression, second: Expression):
    assert first == second and first.key == second.key


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (add([X, Y]), add([X, negate(Y)])),
        (power(power(X, integer(2)), half()), X),  # |x|
        (power(integer(-4), half()), integer(-2)),
        (integer(2), Number(Fraction(2), is_rounded=True)),
    ],
)
def test_what_may_differ_is_kept_apart(first: Expression, second: Expression):
    assert first != second


@pytest.mark.parametrize(
    "compute",
    [
        lambda: power(integer(9), power(integer(9), integer(9))),
        lambda: power(integer(2), integer(MAX_BITS)),
        lambda: factorial(integer(MAX_FACTORIAL + 1)),
        lambda: factorial(factorial(integer(9))),
        lambda: binomial(integer(10**9), integer(10**8)),
        lambda: permutations(integer(10**9), integer(10**8)),
        lambda: multiply([power(integer(2), integer(60_000)), power(integer(3), integer(60_000))]),
    ],
)
def test_nothing_is_computed_that_would_be_too_large(compute):
    with pytest.raises(TooLarge):
        compute()


def test_what_is_undefined_is_an_error():
    for undefined in (
        lambda: divide(X, integer(0)),
        lambda: power(integer(0), integer(0)),
        lambda: factorial(integer(-1)),
        lambda: binomial(half(), integer(1)),
    ):
        with pytest.raises(ValueError, match="undefined"):
            undefined()
