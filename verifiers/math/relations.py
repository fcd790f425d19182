r"""Equations, inequalities and chains of them: `x = 5`, `2^5 = 32`, `a < b \leq c`, `x \in [2, 5)`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from verifiers.math import real_sets
from verifiers.math.evaluation import Undefined, constant_value, equal_values
from verifiers.math.expression import (
    ONE,
    Application,
    Call,
    Expression,
    Number,
    Power,
    Product,
    Sum,
    Symbol,
    add,
    divide,
    negate,
)
from verifiers.math.forms import FiniteSet, Form, Identity, Interval, Named, Point, RealSet, Relation
from verifiers.math.formula import parse_formula
from verifiers.math.grammar import Unreadable
from verifiers.math.splitting import split_at
from verifiers.math.tokens import Token, normal_text

RELATIONS = ("=", "<", ">", r"\leq", r"\geq", r"\neq", r"\approx", r"\in", r"\notin")
FLIPPED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq", "=": "=", r"\neq": r"\neq"}
NEAR = 0.005
"""How far `a \\approx b` may be apart, relatively, where b is no number with a last digit."""
MAX_PLACES = 30

# An inverse, a value of a function, a measure: f^{-1}(x), f(3), P(A \cup B), rank(A), m \angle ABC.
_WRITTEN_NAME = re.compile(
    r"[a-zA-Z] \^ \{ - 1 \} \( \w \)|[a-zA-Z](?: _ (?:\w+|\{ \w+ \}))?(?: ')* \( (?:- )?[\w.]+ \)"
    r"|(?:P|\\mathbbP) \( [^()]{1,40} \)|(?!(?:sin|cos|tan|log|sqrt|exp|abs) )[a-z]{3,} \( [^()=]{1,20} \)"
    r"|m \\angle \w+|\\(?:det|dim|deg) \w"
)

ReadMember = Callable[[list[Token], int], Form]


def read_relation(tokens: list[Token], sign: int, read_member: ReadMember) -> Form | None:
    """None where no relation stands in the text outside of brackets."""
    parts = split_at(tokens, RELATIONS)
    if len(parts) == 1:
        return None
    if any(not part for part in parts):
        raise Unreadable("a relation without a side")
    signs = _signs(tokens, parts)
    if signs in ([r"\in"], [r"\notin"]):
        found = _membership(parts[0], read_member(parts[1], sign))
        if signs == [r"\in"]:
            return found
        return RealSet(real_sets.complement(_pieces(found)), _name(parts[0]) or "")
    if set(signs) <= {"=", r"\approx"}:
        return _equation(parts, signs, sign, read_member)
    if {r"\in", r"\notin", r"\approx"} & set(signs):
        raise Unreadable("relations of several kinds")
    members = tuple(parse_formula(part, sign) for part in parts)
    return _solved(members, tuple(signs)) or Relation(members, tuple(signs))


def _signs(tokens: list[Token], parts: list[list[Token]]) -> list[str]:
    signs = []
    position = 0
    for part in parts[:-1]:
        position += len(part)
        signs.append(tokens[position].text)
        position += 1
    return signs


def _membership(left: list[Token], members: Form) -> RealSet | FiniteSet:
    name = _name(left)
    if name is None:
        raise Unreadable("a member without a name")
    if isinstance(members, Point) and len(members.members) == 2 and members.bracket == "(":
        low, high = members.members
        if isinstance(low, Expression) and isinstance(high, Expression):
            piece = real_sets.interval(low, high, False, False)
            members = RealSet((piece,) if piece else ())
    if isinstance(members, RealSet):
        return RealSet(members.pieces, name)
    if isinstance(members, FiniteSet):
        return members
    raise Unreadable("a member of no set")


def _pieces(members: RealSet | FiniteSet) -> tuple[Interval, ...]:
    if isinstance(members, RealSet):
        return members.pieces
    values = [member for member in members.members if isinstance(member, Expression)]
    if len(values) < len(members.members):
        raise Unreadable("a set of other than numbers")
    return real_sets.union(map(real_sets.point, values))


def _name(tokens: list[Token]) -> str | None:
    """What the left side of `x = 5`, `f(x) = 5`, `AB = 5`, `(x, y) = (1, 2)` names."""
    if not tokens:
        return None
    if _WRITTEN_NAME.fullmatch(normal_text(tokens)):
        return normal_text(tokens).replace(" ", "")
    if any(token.kind == "number" for token in _outside_scripts(tokens)):
        return None
    if len(tokens) == 1 and tokens[0].kind in ("word", "letter"):
        text = tokens[0].text
        # AB = 5 names a length, xy = 6 is an equation.
        return text if len(text) == 1 or len(text) > 3 or text.isupper() or tokens[0].is_upright else None
    if tokens[0].text in (r"\angle", r"\triangle") and all(
        token.kind in ("word", "letter") for token in tokens[1:]
    ):
        return normal_text(tokens)
    if all(token.kind == "word" for token in tokens):
        return normal_text(tokens)
    if tokens[0].text == "(" and tokens[-1].text == ")":
        names = [_name(part) for part in split_at(tokens[1:-1], (",",))]
        return f"({', '.join(name for name in names if name)})" if all(names) else None
    try:
        left = parse_formula(tokens)
    except (Unreadable, ValueError):
        return None
    if isinstance(left, Symbol):
        return left.name
    is_function = isinstance(left, Application) and all(
        isinstance(argument, Symbol) for argument in left.arguments
    )
    if is_function:
        return left.key.replace("$", "")
    if len(tokens) == 4 and tokens[1].text == "(" and all(token.kind == "letter" for token in tokens[::2]):
        return "".join(token.text for token in tokens)  # P(x), which elsewhere is a product
    return None


def _outside_scripts(tokens: list[Token]) -> list[Token]:
    """Without the indices: `x_1` is a name."""
    kept: list[Token] = []
    position = 0
    while position < len(tokens):
        if tokens[position].text == "_" and position + 1 < len(tokens):
            position += 1
            if tokens[position].text == "{":
                while position < len(tokens) and tokens[position].text != "}":
                    position += 1
        else:
            kept.append(tokens[position])
        position += 1
    return kept


def _equation(parts: list[list[Token]], signs: list[str], sign: int, read_member: ReadMember) -> Form:
    name = _name(parts[0])
    if name is None and len(parts) == 2 and signs == ["="] and (name := _name(parts[1])) is not None:
        parts = [parts[1], parts[0]]  # 5 = x
    if name is not None:
        values = [read_member(part, sign) for part in parts[1:]]
        if any(isinstance(value, Expression) and name in value.names for value in values):
            if len(values) > 1:
                raise Unreadable("two equations without a comma")
        elif name.isupper() and len(name) > 1 and any(map(_has_names, values)):
            name = None  # PV = nRT
        elif not any(_is_letter(value) for value in values[:-1]):
            value, rounded = _last(values, signs[1:])
            return Named(name, _symbols(parts[0]), value, rounded, tuple(values[:-1]))
    members = tuple(parse_formula(part, sign) for part in parts)
    if name is None:
        if not any(member.names for member in members):
            value, rounded = _last(list(members), signs)
            return Identity(tuple(map(_written, parts)), value, rounded)
        if r"\approx" not in signs and all(equal_values(members[0], member) for member in members[1:]):
            return Identity(tuple(map(_written, parts)), members[-1])
        if _is_measure(members[0]) and not any(member.names for member in members[1:]):
            value, rounded = _last(list(members[1:]), signs[1:])
            return Named(members[0].key, members[:1], value, rounded, members[1:-1])
    if r"\approx" in signs:
        raise Unreadable("an approximation between letters")
    return Relation(members, tuple(signs))


def answered_value(relation: Relation) -> Expression | None:
    """What `m + n = 9 + 8 = 17` says its left side to be; None where a number stands there, as in `2x + 3 = 17`."""
    left, *values = relation.members
    if (
        set(relation.relations) != {"="}
        or not _is_without_numbers(left)
        or any(value.names for value in values)
    ):
        return None
    return values[-1] if all(equal_values(values[-1], value) for value in values) else None


def _is_without_numbers(left: Expression) -> bool:
    """But for exponents, the signs of terms and what functions are of."""
    match left:
        case Sum() | Product():
            return all(part.key == "-1" or _is_without_numbers(part) for part in left.parts)
        case Power():
            return _is_without_numbers(left.base) and isinstance(left.exponent, Number)
    return isinstance(left, Symbol | Application | Call)


def _is_measure(left: Expression) -> bool:
    r"""Whether the left side is one quantity, so that its value alone answers: `\frac{AB}{CD}`, `\sin A`, `|z|`."""
    if not isinstance(left, Product):
        return isinstance(left, Call | Application)
    powers = [factor.exponent.key if isinstance(factor, Power) else "1" for factor in left.factors]
    is_ratio = "-1" in powers and set(powers) <= {"1", "-1"}
    is_scalar_product = all(
        isinstance(factor, Symbol) and factor.name.startswith((r"\vec", r"\overrightarrow"))
        for factor in left.factors
    )
    return is_ratio or is_scalar_product


def _has_names(value: Form) -> bool:
    return isinstance(value, Expression) and bool(value.names)


def _is_letter(value: Form) -> bool:
    return isinstance(value, Symbol)


def _written(tokens: list[Token]) -> str:
    """A member of an identity, terms in any order."""
    return " ".join(sorted(normal_text(tokens).split()))


def _symbols(tokens: list[Token]) -> tuple[Expression, ...]:
    """The left side as an expression, where it is one."""
    try:
        return (parse_formula(tokens),)
    except (Unreadable, ValueError):
        return ()


def _last(values: list[Form], signs: list[str]) -> tuple[Form, Form | None]:
    r"""The value of a chain and what it is said to be about. Unreadable where two numbers of it contradict.

    Of `x = \frac{1}{3} \approx 0.33` that is \frac{1}{3} and 0.33.
    """
    num_exact = signs.index(r"\approx") + 1 if r"\approx" in signs else len(values)
    numbers = [value for value in values if isinstance(value, Expression) and not value.names]
    for index, value in enumerate(values):
        if not isinstance(value, Expression) or value.names or value is numbers[0]:
            continue
        is_exact = index < num_exact and not (value.is_decimal or numbers[0].is_decimal)
        if not (equal_values(numbers[0], value) if is_exact else _is_near(numbers[0], value)):
            raise Unreadable("a chain that contradicts itself")
    rounded = values[-1] if num_exact < len(values) else None
    return values[num_exact - 1], rounded


def _is_near(first: Expression, second: Expression) -> bool:
    r"""Whether the second may be the first but for its last digit: `\frac{2}{3} \approx 0.67`, not `100 \approx 103`."""
    difference = abs(constant_value(first) - constant_value(second))
    rounded = first if first.is_decimal and not second.is_decimal else second
    places = _places(rounded) if isinstance(rounded, Number) else None
    if places is None:
        return bool(difference <= abs(constant_value(first)) * NEAR)
    return bool(difference * 10**places < 1)


def _places(number: Number) -> int | None:
    """Digits behind the point; None where they do not end."""
    return next((n for n in range(MAX_PLACES) if (number.value * 10**n).denominator == 1), None)


def _solved(members: tuple[Expression, ...], signs: tuple[str, ...]) -> RealSet | None:
    """The set of one variable between numbers that an inequality, or a chain of two, describes."""
    if len(members) > 3 or (len(members) == 3 and (members[0].names or members[2].names)):
        return None
    try:
        halves = [
            _half(left, sign, right) for left, sign, right in zip(members, signs, members[1:], strict=False)
        ]
    except Undefined:
        return None
    if None in halves or len({half.variable for half in halves if half}) != 1:
        return None
    pieces = real_sets.REALS
    for half in halves:
        assert half
        pieces = real_sets.intersection(pieces, half.pieces)
    return replace(halves[0], pieces=pieces) if halves[0] else None


def _half(left: Expression, sign: str, right: Expression) -> RealSet | None:
    """Of one inequality whose sides are a number and a multiple of the variable, or its distance to a number."""
    if left.names and right.names:
        return None
    if isinstance(right, Call):
        left, sign, right = right, FLIPPED[sign], left
    if isinstance(left, Call) and left.name == "abs" and sign != "=":
        inner = left.arguments[0]
        above, below = _half(inner, sign, right), _half(inner, FLIPPED[sign], negate(right))
        if above is None or below is None:
            return None
        is_far = sign in (">", r"\geq")
        join = (lambda one, other: real_sets.union((*one, *other))) if is_far else real_sets.intersection
        return replace(above, pieces=join(above.pieces, below.pieces))
    members, signs = _linear((left, right), (sign,))
    if not isinstance(members[0], Symbol) or members[1].names:
        return None
    return RealSet(_half_line(signs[0], members[1]), members[0].name)


def _linear(
    members: tuple[Expression, ...], signs: tuple[str, ...]
) -> tuple[tuple[Expression, ...], tuple[str, ...]]:
    """`2x + 1 > 7` as `x > 3`; anything else as it is."""
    right = members[1].terms if isinstance(members[1], Sum) else members[1:]
    difference = add([members[0], *map(negate, right)])
    terms = difference.terms if isinstance(difference, Sum) else (difference,)
    parts = [term.factors if isinstance(term, Product) else (term,) for term in terms if term.names]
    if len(parts) != 1 or not isinstance(parts[0][-1], Symbol) or len(parts[0]) > 2:
        return members, signs
    coefficient = parts[0][0] if len(parts[0]) == 2 else ONE
    if not isinstance(coefficient, Number):
        return members, signs
    bound = divide(negate(add(term for term in terms if not term.names)), coefficient)
    sign = signs[0] if coefficient.value > 0 else FLIPPED[signs[0]]
    return (parts[0][-1], bound), (sign,)


def _half_line(relation: str, bound: Expression) -> tuple[Interval, ...]:
    if relation == r"\neq":
        return real_sets.complement((real_sets.point(bound),))
    if relation == "=":
        return (real_sets.point(bound),)
    has_bound = relation in (r"\leq", r"\geq")
    if relation in ("<", r"\leq"):
        piece = real_sets.interval(real_sets.MINUS_INFINITY, bound, False, has_bound)
    else:
        piece = real_sets.interval(bound, real_sets.INFINITY, has_bound, False)
    return (piece,) if piece else ()
