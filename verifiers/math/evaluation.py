r"""Whether two expressions have one value: exactly where both are rational, else at many digits, at fixed points.

Variables take the same values on every machine, made of their names. The number of digits grows with the numbers
in the expressions, so that `1-\frac{1}{2^{100}}\pi` is not taken for `\pi`. No time limit decides anything: what
would be too large is an error, and the expression then equals only itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from verifiers.math.expression import (
    Application,
    Call,
    Constant,
    Expression,
    Number,
    Power,
    Product,
    Sum,
    Symbol,
    TooLarge,
)

MIN_DIGITS = 60
MAX_DIGITS = 2_000
MAX_EXPONENT = 100_000
"""Of e, in a power that has no exact value."""
MAX_TERMS = 300
"""Of a sum or product that the text writes with a sign: \\sum_{n=1}^{300}."""

MIN_TERMS = 60
MAX_TERM = 1e-8
"""A series without an end whose term after MIN_TERMS is larger does not converge in MAX_TERMS, and is given up."""
MAX_STEPS = 15_000
"""Of one comparison, at all points together."""

Point = Mapping[str, Any]


class TooLong(TooLarge):
    """More steps than MAX_STEPS."""


class Undefined(ValueError):
    """No value there, or none that can be told."""


def _context() -> Any:
    import mpmath  # not with the module: who only checks problems does not need it

    return mpmath.mp


def prepare() -> None:
    """Import what the first formula needs: on a busy machine that takes as long as an answer may."""
    _context()


def _real_power(base: Any, exponent: Any, fraction: Fraction | None) -> Any:
    mp = _context()
    if base == 0:
        if _real(exponent) <= 0:
            raise Undefined("a power of 0")
        return base
    size = abs(exponent) * (abs(mp.log(abs(base))) + 4)
    if size > MAX_EXPONENT:
        raise TooLarge("a power of too many digits")
    # The root that is real, where there is one: (-8)^{1/3} is -2.
    if fraction is not None and fraction.denominator % 2 == 1 and _is_real(base) and _real(base) < 0:
        value = mp.power(-_real(base), exponent)
        return value if fraction.numerator % 2 == 0 else -value
    return mp.power(base, exponent)


def _is_real(value: Any) -> bool:
    return not hasattr(value, "imag") or value.imag == 0


def _real(value: Any) -> Any:
    if not _is_real(value):
        raise Undefined("not real")
    return value.real


def _whole(name: str) -> Callable[..., Any]:
    def compute(*values: Any) -> Any:
        mp = _context()
        numbers = [_real(value) for value in values]
        if any(number != mp.floor(number) or abs(number) > 10**30 for number in numbers):
            raise Undefined("not whole")
        import math

        return mp.mpf(getattr(math, name)(*(int(number) for number in numbers)))

    return compute


def _gamma_of(value: Any) -> Any:
    if abs(value) > 10_000:
        raise TooLarge("a factorial of too many digits")
    return _context().gamma(value + 1)


def _binomial(n: Any, k: Any) -> Any:
    return _gamma_of(n) / (_gamma_of(k) * _gamma_of(n - k))


def _plain(name: str) -> Callable[[Any], Any]:
    return lambda value: getattr(_context(), name)(_bounded(value))


def _bounded(value: Any) -> Any:
    if abs(value) > MAX_EXPONENT:
        raise TooLarge("an argument of too many digits")
    return value


def _logarithm(value: Any, base: Any) -> Any:
    mp = _context()
    return mp.log(value) / mp.log(base)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _plain(name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{f"arc{name}": _plain(f"a{name}") for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    "ln": lambda value: _context().log(value),
    "log": lambda value: _context().log10(value),
    "log_base": _logarithm,
    "abs": abs,
    "floor": lambda value: _context().floor(_real(value)),
    "ceil": lambda value: _context().ceil(_real(value)),
    "max": lambda *values: max(map(_real, values)),
    "min": lambda *values: min(map(_real, values)),
    "gcd": _whole("gcd"),
    "lcm": _whole("lcm"),
    "factorial": _gamma_of,
    "binomial": _binomial,
}


def _opaque(part: Application, values: list[Any], point: Point) -> Any:
    """A function that only has a name: some value that depends on the point and on all arguments, not linearly."""
    result = point[part.function]
    for index, value in enumerate(values):
        result = result * (index + 2) + value * (value + _named_value(part.name, index)) ** 2
    return result


def _named_value(name: str, index: int) -> Any:
    """Between 0.2 and 1.8, and not a number that a text would name."""
    digest = hashlib.sha256(f"{index} {name}".encode("utf-8", "surrogatepass")).digest()
    return _context().mpf(int.from_bytes(digest[:6], "big")) / 2**48 * 8 / 5 + _context().mpf(1) / 5


class Evaluation:
    """Values of expressions at mpmath's present precision; every step is counted.

    Where `is_complex` is false, a value that is not real on the way (the root of -2) is Undefined.
    """

    def __init__(self, *, is_complex: bool) -> None:
        self._is_complex = is_complex
        self._steps = 0

    def value(self, expression: Expression, point: Point) -> Any:
        """Undefined, TooLarge, ZeroDivisionError."""
        # A step at many digits takes as long as several at few.
        self._steps += 1 + _context().dps // (2 * MIN_DIGITS)
        if self._steps > MAX_STEPS:
            raise TooLong("too many steps")
        result = self._compute(expression, point)
        if not self._is_complex and not _is_real(result):
            raise Undefined("not real")
        return result

    def _compute(self, part: Expression, point: Point) -> Any:
        mp = _context()
        match part:
            case Number():
                return mp.mpf(part.value.numerator) / part.value.denominator
            case Constant():
                if part.name == "infinity":
                    raise Undefined("infinite")
                return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "degree": mp.pi / 180}[part.name]
            case Symbol():
                return point[part.name]
            case Sum():
                return sum((self.value(term, point) for term in part.terms), mp.mpf(0))
            case Product():
                result = mp.mpf(1)
                for factor in part.factors:
                    result *= self.value(factor, point)
                return result
            case Power():
                exponent = part.exponent
                fraction = exponent.value if isinstance(exponent, Number) else None
                return _real_power(self.value(part.base, point), self.value(exponent, point), fraction)
            case Call() if part.name in SERIES:
                return self._series(part, point)
            case Call():
                return FUNCTIONS[part.name](*(self.value(argument, point) for argument in part.arguments))
            case Application():
                values = [self.value(argument, point) for argument in part.arguments]
                return _opaque(part, values, point)
        raise AssertionError(part)

    def _series(self, call: Call, point: Point) -> Any:
        r"""`\sum_{n=a}^{b}`: arguments are the body, the index, its first and its last value.

        Without an end it is followed until its terms vanish, which they do soon near 0 or not at all.
        """
        mp = _context()
        body, index, low, high = call.arguments
        assert isinstance(index, Symbol)
        first = self.value(low, point)
        is_endless = high == Constant("infinity")
        last = first + MAX_TERMS if is_endless else self.value(high, point)
        if not _is_real(first) or not _is_real(last) or first != mp.floor(first) or last != mp.floor(last):
            raise Undefined("bounds that are not whole")
        if last - first > MAX_TERMS:
            raise TooLarge("a sum of too many terms")
        is_sum = call.name == "sum"
        result = mp.mpf(0 if is_sum else 1)
        current, num_vanishing = first, 0
        while current <= last and num_vanishing < 3:
            term = self.value(body, {**point, index.name: current})
            result = result + term if is_sum else result * term
            rest = abs(term if is_sum else term - 1)
            if is_endless:
                num_vanishing = num_vanishing + 1 if rest < mp.mpf(10) ** (-MIN_DIGITS - 10) else 0
                if current - first == MIN_TERMS and rest > MAX_TERM:
                    break
            current += 1
        if is_endless and num_vanishing < 3:
            raise Undefined("a series that converges slowly, or not at all")
        return result


SERIES = ("sum", "prod")


def equal_values(first: Expression, second: Expression) -> bool:
    """Whether they are equal for all values of their variables, as far as fixed points can tell."""
    return _agree(first, second, lambda one, other, _: _is_close(one, other))


def constant_value(expression: Expression) -> Any:
    """The value of an expression without variables, at many digits; Undefined where there is none."""
    if expression.names or expression.has("infinity"):
        raise Undefined("not a number")
    with _context().workdps(_digits(expression)):
        try:
            return Evaluation(is_complex=True).value(expression, {})
        except (ZeroDivisionError, OverflowError) as error:
            raise Undefined(str(error)) from error


def proportional(first: Expression, second: Expression) -> int:
    """The sign of their ratio where it is one number everywhere, else 0: x - y and 2x - 2y."""
    ratios: list[Any] = []

    def remember(one: Any, other: Any, _: int) -> bool:
        if other == 0 or one == 0:
            return False
        ratios.append(one / other)
        return bool(_is_close(ratios[0], ratios[-1]))

    if not _agree(first, second, remember) or not _is_real(ratios[0]):
        return 0
    return 1 if _real(ratios[0]) > 0 else -1


def _digits(*expressions: Expression) -> int:
    digits = MIN_DIGITS + 2 * sum(expression.num_digits for expression in expressions)
    if digits > MAX_DIGITS:
        raise TooLarge("numbers of too many digits")
    return digits


def _is_close(first: Any, second: Any) -> bool:
    """Equal but for the last third of the digits; what is left of 0 after cancelling counts as 0."""
    mp = _context()
    noise = mp.mpf(10) ** (-mp.dps * 2 // 3)
    difference, size = abs(first - second), max(abs(first), abs(second))
    return bool(difference <= noise * size)


def _agree(first: Expression, second: Expression, test: Callable[[Any, Any, int], bool]) -> bool:
    """Whether `test` holds of both values at all points; False where there are none."""
    mp = _context()
    names = sorted(first.names | second.names)
    if len(names) > 12:
        return False
    is_complex = first.has("i") or second.has("i")
    is_endless = first.has("infinity") or second.has("infinity")
    num_tested = 0
    evaluation = Evaluation(is_complex=is_complex or not names)
    try:
        with mp.workdps(_digits(first, second)):
            # Near 0 series converge, and far from it most roots are real.
            scales = (0.25, 0.125, 0.0625) if is_endless else (1, 3, 0.25, 9, 0.0625)
            for index, scale in enumerate(scales):
                point = {name: _named_value(name, index) * scale for name in names}
                signs = [point]
                if index == 0 and not is_complex:  # and of mixed signs: |x| is not x
                    signs += [{**point, name: -point[name]} for name in names]
                for signed in signs:
                    values = [_defined(part, signed, evaluation) for part in (first, second)]
                    if None in values:
                        if is_endless or values[0] is values[1]:
                            continue  # both undefined, or a series that does not converge there
                        return False
                    if any(mp.isinf(value) for value in values):
                        continue
                    if not test(values[0], values[1], index):
                        return False
                    num_tested += 1
                if not names:
                    break
    except TooLarge:
        return False
    return num_tested >= (1 if not names else 2)


def _defined(expression: Expression, point: Point, evaluation: Evaluation) -> Any:
    """The value, None where there is none, infinity where it is too large; 0 where only noise is left of a difference."""
    mp = _context()
    try:
        value = evaluation.value(expression, point)
        if mp.isnan(value) or mp.isinf(value):
            return None
        if value != 0 and abs(value) < mp.mpf(10) ** (-mp.dps // 2):
            with mp.workdps(mp.dps * 2):
                again = evaluation.value(expression, point)
            if abs(again) < abs(value) / 10**10:
                return mp.mpf(0)
        return _without_noise(value)
    except TooLong:
        raise
    except TooLarge:
        return mp.inf
    except (ArithmeticError, ValueError):
        return None


def _without_noise(value: Any) -> Any:
    """The roots of unity and their like sum to real numbers: what is left of the imaginary part is noise."""
    mp = _context()
    if isinstance(value, mp.mpc) and abs(value.imag) <= mp.mpf(10) ** (-mp.dps * 2 // 3) * abs(value):
        return value.real
    return value
