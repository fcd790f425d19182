"""Expressions as they are compared: built by constructors that fold what is rational, exactly.

Sums and products are flat and sorted, so that two spellings of the same sum are the same object. Nothing is expanded
and no root is taken: that two expressions have one value although they are built differently is found by
`evaluation`. Every constructor bounds the size of a number before it computes it and raises TooLarge beyond that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

MAX_BITS = 131_072
"""Of numerator and denominator together: about 39,000 digits. 2031! has 19,500 bits."""


MAX_FACTORIAL = 6_000
"""Which has 66,600 bits."""
MAX_ROOT_BITS = 4_096
"""Of a number whose root is taken, if it has a rational one."""


class TooLarge(ValueError):
    """A number of more than MAX_BITS: what names it is compared as text."""


@dataclass(frozen=True)
class Expression:
    """A number, constant, symbol, sum, product, power, call or application."""

    @cached_property
    def key(self) -> str:
        """A text that is the same for equal expressions only; the order of terms and factors."""
        raise NotImplementedError

    @cached_property
    def is_decimal(self) -> bool:
        """Whether a number in it was written with a point, so that it may be rounded."""
        return any(part.is_decimal for part in self.parts)

    @cached_property
    def names(self) -> frozenset[str]:
        """Its variables."""
        return frozenset().union(*(part.names for part in self.parts))

    @cached_property
    def num_digits(self) -> int:
        """Digits of all its numbers: as many more are needed to tell two values apart."""
        return sum(part.num_digits for part in self.parts)

    def has(self, constant: str) -> bool:
        return any(part.has(constant) for part in self.parts)

    @property
    def parts(self) -> tuple[Expression, ...]:
        return ()


@dataclass(frozen=True)
class Number(Expression):
    value: Fraction
    is_rounded: bool = False

    @cached_property
    def key(self) -> str:
        numerator, denominator = self.value.numerator, self.value.denominator
        # Python refuses to write more than 4,300 digits.
        texts = [str(part) if part.bit_length() < 10_000 else hex(part) for part in (numerator, denominator)]
        return texts[0] if denominator == 1 else "/".join(texts)

    @cached_property
    def is_decimal(self) -> bool:
        return self.is_rounded

    @cached_property
    def num_digits(self) -> int:
        return (self.value.numerator.bit_length() + self.value.denominator.bit_length()) // 3


@dataclass(frozen=True)
class Constant(Expression):
    """`pi`, `e`, `i`, `infinity`, `degree` (which is pi/180)."""

    name: str

    @cached_property
    def key(self) -> str:
        return self.name

    def has(self, constant: str) -> bool:
        return self.name == constant


@dataclass(frozen=True)
class Symbol(Expression):
    """A variable: a letter with what hangs on it, `x_{1}`, `\\vec{v}`, `T_{max}`."""

    name: str

    @cached_property
    def key(self) -> str:
        return f"${self.name}"

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset({self.name})


@dataclass(frozen=True)
class Sum(Expression):
    terms: tuple[Expression, ...]

    @cached_property
    def key(self) -> str:
        return "(" + " + ".join(term.key for term in self.terms) + ")"

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.terms


@dataclass(frozen=True)
class Product(Expression):
    factors: tuple[Expression, ...]

    @cached_property
    def key(self) -> str:
        return "*".join(factor.key for factor in self.factors)

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.factors


@dataclass(frozen=True)
class Power(Expression):
    base: Expression
    exponent: Expression

    @cached_property
    def key(self) -> str:
        return f"[{self.base.key}]^[{self.exponent.key}]"

    @property
    def parts(self) -> tuple[Expression, ...]:
        return (self.base, self.exponent)


@dataclass(frozen=True)
class Call(Expression):
    """A function of `evaluation.FUNCTIONS`."""

    name: str
    arguments: tuple[Expression, ...]

    @cached_property
    def key(self) -> str:
        return f"{self.name}(" + ", ".join(argument.key for argument in self.arguments) + ")"

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.arguments


@dataclass(frozen=True)
class Application(Expression):
    """`f(x)`: a function of which only the name is known."""

    name: str
    arguments: tuple[Expression, ...]

    @cached_property
    def key(self) -> str:
        return f"{self.name}(" + ", ".join(argument.key for argument in self.arguments) + ")"

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset({self.function}).union(*(argument.names for argument in self.arguments))

    @property
    def function(self) -> str:
        """The function's own name, which no variable has."""
        return f"{self.name}()"

    @property
    def parts(self) -> tuple[Expression, ...]:
        return self.arguments


ZERO, ONE, MINUS_ONE = Number(Fraction(0)), Number(Fraction(1)), Number(Fraction(-1))


def integer(value: int) -> Number:
    return Number(Fraction(value))


def add(terms: Iterable[Expression]) -> Expression:
    """The sum; like terms are collected."""
    constant, is_rounded = Fraction(0), False
    coefficients: dict[str, tuple[Fraction, bool, Expression]] = {}
    for term in _flat(terms, Sum):
        if isinstance(term, Number):
            _check_bits(constant, term.value)
            constant, is_rounded = constant + term.value, is_rounded or term.is_rounded
            continue
        coefficient, rest = _split_coefficient(term)
        known = coefficients.get(rest.key)
        total = coefficient.value + (known[0] if known else 0)
        coefficients[rest.key] = (total, coefficient.is_rounded or bool(known and known[1]), rest)
    collected = [
        multiply([Number(value, rounded), rest])
        for _, (value, rounded, rest) in sorted(coefficients.items())
        if value
    ]
    if constant or is_rounded or not collected:
        collected.append(Number(constant, is_rounded))
    return collected[0] if len(collected) == 1 else Sum(tuple(collected))


def multiply(factors: Iterable[Expression]) -> Expression:
    """The product; powers of one base with whole exponents are collected."""
    coefficient, is_rounded = Fraction(1), False
    exponents: Counter[str] = Counter()
    bases: dict[str, Expression] = {}
    for factor in _flat(factors, Product):
        if isinstance(factor, Number):
            _check_bits(coefficient, factor.value)
            coefficient, is_rounded = coefficient * factor.value, is_rounded or factor.is_rounded
            continue
        base, exponent = factor, 1
        if (n := _whole_exponent(factor)) is not None:
            assert isinstance(factor, Power)
            base, exponent = factor.base, n
        exponents[base.key] += exponent
        bases[base.key] = base
    if coefficient == 0 and not any(base.has("infinity") for base in bases.values()):
        return Number(coefficient, is_rounded)
    collected = [power(bases[key], integer(n)) for key, n in sorted(exponents.items()) if n]
    if any(isinstance(factor, Number | Product) for factor in collected):  # i * i, the square of a root
        return multiply([Number(coefficient, is_rounded), *collected])
    if not collected:
        return Number(coefficient, is_rounded)
    if coefficient != 1 or is_rounded:
        collected.insert(0, Number(coefficient, is_rounded))
    return collected[0] if len(collected) == 1 else Product(tuple(collected))


def negate(expression: Expression) -> Expression:
    return multiply([MINUS_ONE, expression])


def divide(numerator: Expression, denominator: Expression) -> Expression:
    return multiply([numerator, power(denominator, MINUS_ONE)])


def power(base: Expression, exponent: Expression) -> Expression:
    """The power; ValueError for 0^-1 and 0^0."""
    if isinstance(exponent, Number):
        if exponent.value == 1:
            return base
        if isinstance(base, Number):
            if base.value == 0 and exponent.value <= 0:
                raise ValueError("a power of 0 that is undefined")
            is_rounded = base.is_rounded or exponent.is_rounded
            if exponent.value.denominator == 1:
                return Number(_integer_power(base.value, exponent.value.numerator), is_rounded)
            if (root := _exact_root(base.value, exponent.value)) is not None:
                return Number(root, is_rounded)
        elif exponent.value == 0:
            return ONE
        elif exponent.value.denominator == 1:
            n = exponent.value.numerator
            if isinstance(base, Constant) and base.name == "i":
                return (ONE, base, MINUS_ONE, multiply([MINUS_ONE, base]))[n % 4]
            if isinstance(base, Product):
                return multiply(power(factor, exponent) for factor in base.factors)
            if isinstance(base, Power) and isinstance(base.exponent, Number):
                return power(base.base, multiply([base.exponent, exponent]))
    return Power(base, exponent)


def factorial(argument: Expression) -> Expression:
    if isinstance(argument, Number):
        n = argument.value
        if n < 0 or n.denominator != 1:
            raise ValueError("a factorial that is undefined")
        if n > MAX_FACTORIAL:
            raise TooLarge(f"a factorial of more than {MAX_FACTORIAL}")
        return integer(math.factorial(n.numerator))
    return Call("factorial", (argument,))


def binomial(n: Expression, k: Expression) -> Expression:
    if isinstance(n, Number) and isinstance(k, Number):
        if n.value.denominator != 1 or k.value.denominator != 1 or n.value < 0:
            raise ValueError("a binomial that is undefined")
        size = min(k.value, n.value - k.value)
        if size * max(1, n.value.numerator.bit_length()) > MAX_BITS:
            raise TooLarge("a binomial of too many bits")
        return integer(math.comb(n.value.numerator, k.value.numerator)) if k.value >= 0 else ZERO
    return Call("binomial", (n, k))


def permutations(n: Expression, k: Expression) -> Expression:
    """How many ways there are to choose k of n in order."""
    if isinstance(n, Number) and isinstance(k, Number):
        whole = n.value.denominator == k.value.denominator == 1
        if not whole or not 0 <= k.value <= n.value:
            raise ValueError("permutations that are undefined")
        if k.value * n.value.numerator.bit_length() > MAX_BITS:
            raise TooLarge("permutations of too many bits")
        return integer(math.perm(n.value.numerator, k.value.numerator))
    return divide(factorial(n), factorial(add([n, negate(k)])))


def _flat(parts: Iterable[Expression], kind: type[Sum | Product]) -> Iterable[Expression]:
    for part in parts:
        if isinstance(part, kind):
            yield from part.parts
        else:
            yield part


def _split_coefficient(term: Expression) -> tuple[Number, Expression]:
    if isinstance(term, Product) and isinstance(term.factors[0], Number):
        rest = term.factors[1:]
        return term.factors[0], rest[0] if len(rest) == 1 else Product(rest)
    return ONE, term


def _whole_exponent(factor: Expression) -> int | None:
    if not isinstance(factor, Power) or not isinstance(factor.exponent, Number):
        return None
    is_whole = factor.exponent.value.denominator == 1 and not factor.exponent.is_rounded
    return factor.exponent.value.numerator if is_whole else None


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _check_bits(first: Fraction, second: Fraction) -> None:
    if _bits(first) + _bits(second) > MAX_BITS:
        raise TooLarge(f"a number of more than {MAX_BITS} bits")


def _integer_power(base: Fraction, exponent: int) -> Fraction:
    if base not in (0, 1, -1) and _bits(base) * abs(exponent) > MAX_BITS:
        raise TooLarge(f"a number of more than {MAX_BITS} bits")
    return base ** (exponent if base not in (1, -1) else exponent % 2)


def _exact_root(base: Fraction, exponent: Fraction) -> Fraction | None:
    """The real value where it is rational; a negative base has one for odd roots only."""
    index = exponent.denominator
    if index > 64 or _bits(base) > MAX_ROOT_BITS or (base < 0 and index % 2 == 0):
        return None
    roots = [_integer_root(abs(part), index) for part in (base.numerator, base.denominator)]
    if None in roots:
        return None
    root = Fraction(*roots)  # type: ignore[arg-type]
    return _integer_power(-root if base < 0 else root, exponent.numerator)


def _integer_root(value: int, index: int) -> int | None:
    if index == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    low, high = 0, 1 << (value.bit_length() // index + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**index < value:
            low = middle + 1
        else:
            high = middle
    return low if low**index == value else None
