r"""Amounts: a formula and its unit, several that are one (`3 h 20 min`), lengths that are several (`4 ft x 12 ft`)."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from verifiers.math.expression import Constant, Expression, Number, Product, Symbol, integer, multiply
from verifiers.math.forms import Compound, Dimensions, Quantity
from verifiers.math.formula import parse_amount, parse_formula
from verifiers.math.grammar import Unreadable
from verifiers.math.splitting import split_at
from verifiers.math.tokens import Token
from verifiers.math.units import DEGREE, SCALES, Unit, parse_unit

_LENGTHS = {(("inch", 1),), (("metre", 1),), (("unit", 1),)}


def read_amount(tokens: list[Token], sign: int = 1) -> Expression | Quantity:
    """A formula, or one with a unit behind or a currency before it."""
    currency = None
    start = 1 if tokens[0].text in ("-", "+") else 0
    if len(tokens) > start + 1 and tokens[start].kind == "word" and tokens[start].text in _CURRENCIES:
        currency = Unit(((tokens[start].text, 1),))
        tokens = [*tokens[:start], *tokens[start + 1 :]]
        if tokens[start].text in ("-", "+") and start:
            raise Unreadable("two signs")
    if any(token.text in (r"\over", r"\choose") for token in tokens):
        return parse_formula(tokens, sign)
    value, rest = parse_amount(tokens, sign)
    if rest and rest[0].kind == "word" and rest[0].text.lower() in SCALES:
        value = multiply([value, integer(SCALES[rest[0].text.lower()])])
        rest = rest[1:]
    if not rest:
        return Quantity(value, currency) if currency else _angle(value)
    unit = parse_unit(rest)
    if unit is None:
        raise Unreadable("no unit")
    if currency is not None:
        is_price = all(exponent < 0 for _, exponent in unit.powers)  # $3 per pound
        if unit != currency and not is_price:
            raise Unreadable("two units")
        unit = currency if unit == currency else Unit(tuple(sorted((*currency.powers, *unit.powers))))
    if not unit.powers:
        return value
    if value.has("degree"):
        return _temperature(value, unit)
    return Quantity(value, unit)


_CURRENCIES = {"dollar", "euro", "pound-sterling", "yen", "rupee", "won"}
_TEMPERATURES = {"C": "celsius", "F": "fahrenheit"}


def _angle(value: Expression) -> Expression | Quantity:
    """`60^\\circ`, and `20^\\circ C`."""
    if isinstance(value, Product) and Constant("degree") in value.factors:
        factors = [factor for factor in value.factors if factor != Constant("degree")]
        for factor in factors:
            if isinstance(factor, Symbol) and factor.name in _TEMPERATURES and len(factors) == 2:
                number = multiply(other for other in factors if other != factor)
                return Quantity(number, Unit(((_TEMPERATURES[factor.name], 1),)))
        return Quantity(multiply(factors), DEGREE)
    if value == Constant("degree"):
        return Quantity(integer(1), DEGREE)
    return value


def _temperature(value: Expression, unit: Unit) -> Quantity:
    angle = _angle(value)
    names = {"c": "celsius", "f": "fahrenheit", "celsius": "celsius", "fahrenheit": "fahrenheit"}
    name = unit.powers[0][0].lower()
    if not isinstance(angle, Quantity) or len(unit.powers) != 1 or name not in names:
        raise Unreadable("a unit behind degrees")
    return Quantity(angle.value, Unit(((names[name], 1),)))


def read_compound(tokens: list[Token]) -> Compound | None:
    """Two and more amounts of one kind, each unit smaller than the one before: `5 ft 7 in`, `5'7"`."""
    parts: list[Quantity] = []
    start = 0
    tokens = _angles_in_words(tokens)
    for index, token in enumerate(tokens):
        name = _unit_name(token, parts)
        if name is None or index < start:
            continue
        values = tokens[start:index]
        while parts and values and values[0].text.lower() in (",", "and"):
            values = values[1:]
        unit = parse_unit([Token("word", name, True, True)])
        if not values or values[0].kind == "word" or unit is None or not unit.is_known:
            return None
        try:
            value = parse_formula(values)
        except Unreadable:
            return None
        if not isinstance(value, Number) or value.value < 0:
            return None
        parts.append(Quantity(value, unit))
        start = index + 1
        while start < len(tokens) and tokens[start].text in (".", "'"):
            start += 1
    if len(parts) < 2 or start != len(tokens):
        return None
    is_falling = all(
        one.unit.dimension == other.unit.dimension and one.unit.factor > other.unit.factor
        for one, other in pairwise(parts)
    )
    return Compound(tuple(parts)) if is_falling else None


_ANGLES = {
    ("^", "{", r"\circ", "}"): "degree",
    ("^", r"\circ"): "degree",
    ("^", "{", r"\prime", "}"): "arcminute",
    ("^", r"\prime"): "arcminute",
    ("'",): "arcminute",
    ("'", "'"): "arcsecond",
    ('"',): "arcsecond",
    ("^", "{", r"\prime", r"\prime", "}"): "arcsecond",
}


def _angles_in_words(tokens: list[Token]) -> list[Token]:
    r"""`63^\circ 45'` with names for its signs; `5'7"` as it is."""
    if not any(token.text == r"\circ" for token in tokens):
        return tokens
    texts = [token.text for token in tokens]
    result: list[Token] = []
    position = 0
    while position < len(tokens):
        signs = [sign for sign in _ANGLES if tuple(texts[position : position + len(sign)]) == sign]
        if signs:
            sign = max(signs, key=len)
            result.append(Token("word", _ANGLES[sign], True, True))
            position += len(sign)
        else:
            result.append(tokens[position])
            position += 1
    return result


def _unit_name(token: Token, before: list[Quantity]) -> str | None:
    if token.text == "'":
        return "in" if before else "ft"
    if token.text == '"':
        return "in"
    if token.kind not in ("word", "letter") or token.text.lower() == "and":
        return None
    is_time = bool(before) and before[0].unit.dimension == (("second", 1),)
    return "min" if is_time and token.text == "m" else token.text


def read_dimensions(tokens: list[Token]) -> Dimensions | None:
    """`4 ft x 12 ft`, `4 ft by 12 ft`: each length with its unit."""
    parts = split_at(tokens, (r"\times", "by", "x"))
    if len(parts) < 2 or any(len(part) < 2 for part in parts):
        return None
    amounts = []
    for part in parts:
        try:
            amount = read_amount(part)
        except Unreadable:
            return None
        if not isinstance(amount, Quantity) or amount.unit.dimension not in _LENGTHS or amount.value.names:
            return None
        amounts.append(amount)
    return Dimensions(tuple(amounts))


def total(compound: Compound) -> Quantity:
    """All of it in the smallest of its units."""
    smallest = compound.parts[-1].unit
    value = sum(
        (part.value.value * part.unit.factor for part in compound.parts if isinstance(part.value, Number)),
        Fraction(0),
    )
    return Quantity(Number(value / smallest.factor), smallest)
