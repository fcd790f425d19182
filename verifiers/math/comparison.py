"""Whether the form that a completion answers is the truth's: by type, and never across two types but as written here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from verifiers.math.brackets import as_interval
from verifiers.math.evaluation import Undefined, constant_value, equal_values, proportional
from verifiers.math.expression import (
    Expression,
    Number,
    Symbol,
    TooLarge,
    add,
    divide,
    integer,
    multiply,
    negate,
    power,
)
from verifiers.math.forms import (
    BaseNumber,
    Choice,
    Compound,
    Dimensions,
    FiniteSet,
    Form,
    Identity,
    Interval,
    Listing,
    Matrix,
    Named,
    Point,
    Quantity,
    Ratio,
    RealSet,
    Relation,
    TimeOfDay,
    Words,
)
from verifiers.math.quantities import total
from verifiers.math.relations import FLIPPED, answered_value
from verifiers.math.text import PlainNumber, equal_numbers
from verifiers.math.units import PERCENT, is_spelling, same_kind


class Comparison:
    """`decimal_places` to which two numbers are compared where one is a decimal."""

    def __init__(self, decimal_places: int) -> None:
        self._places = decimal_places

    def is_right(self, true: Form, given: Form) -> bool:
        """Whether the answer is the truth. What is too large to compare, or undefined, equals only itself."""
        try:
            return self.equal(true, given)
        except (TooLarge, Undefined, ValueError, ArithmeticError):
            return False

    def equal(self, true: Form, given: Form) -> bool:
        """By the types of both; a part of the truth that the answer lacks makes it wrong, but for a unit or base."""
        if true == given:
            return True
        if isinstance(true, Choice) or isinstance(given, Choice):
            return self._equal_choices(true, given)
        if isinstance(true, Identity | Named) or isinstance(given, Identity | Named):
            return self._equal_statements(true, given)
        match true, given:
            case Words(), Words():
                return _without_spaces(true.text) == _without_spaces(given.text)
            case Expression(), Expression():
                return self.equal_expressions(true, given)
            case (Quantity(), _) | (_, Quantity()):
                return self._equal_quantities(true, given)
            case Compound(), Compound():
                return self._equal_quantities(total(true), total(given))
            case Dimensions(), Dimensions():
                return self._match(true.parts, given.parts)
            case TimeOfDay(), TimeOfDay():
                return False
            case Ratio(), Ratio():
                return self._equal_ratios(true.parts, given.parts)
            case Ratio(), TimeOfDay():  # 6:10, which may be either
                hours, minutes = given.seconds // 3600, given.seconds % 3600 // 60
                return self._equal_ratios(true.parts, (integer(hours), integer(minutes)))
            case (Ratio(), Expression()) if len(true.parts) == 2:
                return self.equal_expressions(divide(*true.parts), given)
            case (Expression(), Ratio()) if len(given.parts) == 2:
                return self.equal_expressions(true, divide(*given.parts))
            case BaseNumber(), Number():
                return true.digits == str(given.value)
            case (Number(), BaseNumber()) if given.base == 10:
                return str(true.value) == given.digits
            case (FiniteSet(), FiniteSet() | Listing()):
                return self._equal_sets(true.members, given.members)
            case (Listing(), FiniteSet()):
                return self._equal_sets(true.members, given.members)
            case (FiniteSet(), Expression()) if len(true.members) == 1:
                return self.equal(true.members[0], given)
            case (Expression(), FiniteSet()) if len(given.members) == 1:
                return self.equal(true, given.members[0])
            case Listing(), Listing():
                is_one_statement = {true.joiner, given.joiner} != {"and", "or"}
                return is_one_statement and self._equal_lists(true.members, given.members)
            case Listing(), Point():
                return self._is_solution(true.members, given)
            case Point(), Listing():
                return self._is_solution(given.members, true)
            case Point(), Point():
                is_one_bracket = true.bracket == given.bracket and len(true.members) == len(given.members)
                return is_one_bracket and all(map(self.equal, true.members, given.members))
            case RealSet(), RealSet():
                names = {true.variable, given.variable} - {""}
                return len(names) < 2 and self._equal_pieces(true.pieces, given.pieces)
            case RealSet(), Point():
                pieces = as_interval(given)
                return pieces is not None and self._equal_pieces(true.pieces, pieces)
            case Point(), RealSet():
                pieces = as_interval(true)
                return pieces is not None and self._equal_pieces(pieces, given.pieces)
            case (RealSet(), FiniteSet()) | (FiniteSet(), RealSet()):
                return self._equal_points(true, given)
            case Matrix(), Matrix():
                return self._equal_matrices(true, given)
            case Relation(), Relation():
                return self._equal_relations(true, given)
            case Expression(), Relation():
                value = answered_value(given)
                return value is not None and self.equal(true, value)
        return False

    # --- values

    def equal_expressions(self, true: Expression, given: Expression) -> bool:
        if true.key == given.key:
            return True
        is_decimal = true.is_decimal or given.is_decimal
        if isinstance(true, Number) and isinstance(given, Number):
            return self._equal_rationals(true.value, given.value, is_decimal)
        if equal_values(true, given):
            return True
        if not is_decimal or true.names or given.names:
            return False
        try:
            values = [constant_value(expression) for expression in (true, given)]
        except (Undefined, TooLarge):
            return False
        parts = [(_fraction(value.real), _fraction(getattr(value, "imag", 0))) for value in values]
        return all(self._equal_rationals(one, other, True) for one, other in zip(*parts, strict=True))

    def _equal_rationals(self, true: Fraction, given: Fraction, is_decimal: bool) -> bool:
        one, other = (PlainNumber(value=value, is_decimal=is_decimal) for value in (true, given))
        return equal_numbers(one, other, self._places)

    def _equal_quantities(self, true: Form, given: Form) -> bool:
        is_compound = isinstance(true, Compound) or isinstance(given, Compound)
        true, given = (total(form) if isinstance(form, Compound) else form for form in (true, given))
        if isinstance(true, Quantity) and isinstance(given, Quantity):
            if not same_kind(true.unit, given.unit):
                return False
            values = [multiply([one.value, Number(one.unit.factor)]) for one in (true, given)]
            return self.equal_expressions(*values)
        quantity, bare = (true, given) if isinstance(true, Quantity) else (given, true)
        if is_compound:
            return False
        if not isinstance(quantity, Quantity) or not isinstance(bare, Expression):
            return False
        if self._equal_as_letters(quantity, bare):
            return True
        if not quantity.unit.can_be_left_out:
            return False
        values = [quantity.value]
        if quantity.unit == PERCENT:
            values.append(divide(quantity.value, integer(100)))
        return any(self.equal_expressions(value, bare) for value in values)

    def _equal_as_letters(self, quantity: Quantity, bare: Expression) -> bool:
        r"""`5 m` where the other has `5\text{ m}`: one letter alone is read as a variable."""
        letters = []
        for name, exponent in quantity.unit.powers:
            spelled = [letter for letter in sorted(bare.names) if is_spelling(letter, name)]
            if not spelled:
                return False
            letters.append(power(Symbol(spelled[0]), integer(exponent)))
        return self.equal_expressions(multiply([quantity.value, *letters]), bare)

    def _equal_ratios(self, true: Sequence[Expression], given: Sequence[Expression]) -> bool:
        if len(true) != len(given):
            return False
        return all(
            self.equal_expressions(multiply([true[0], other]), multiply([given[0], one]))
            for one, other in zip(true, given, strict=True)
        )

    def _equal_choices(self, true: Form, given: Form) -> bool:
        """By label and content, where both have them; a label alone, or the content alone, will do."""
        if isinstance(true, Choice) and isinstance(given, Choice):
            return true.label == given.label and self.equal(true.content, given.content)
        choice, other = (true, given) if isinstance(true, Choice) else (given, true)
        assert isinstance(choice, Choice)
        if isinstance(other, Symbol) and re.fullmatch("[A-J]", other.name):
            return other.name == choice.label  # a label; what stands beside one is not looked at
        return self.equal(choice.content, other) if choice is true else self.equal(other, choice.content)

    # --- statements

    def _equal_statements(self, true: Form, given: Form) -> bool:
        if isinstance(true, Identity) and isinstance(given, Identity):
            ends = (true.members[0], true.members[-1])
            return all(end in given.members for end in ends) and self.equal(true.value, given.value)
        if isinstance(true, Named) and isinstance(given, Named):
            if _same_name(true.name, given.name):
                known = (*true.steps, *_values(true))
                has_known_steps = not true.steps or all(
                    any(self.equal(one, step) for one in known) for step in given.steps
                )
                return has_known_steps and self._equal_any(true, given)
            return self._equal_as_equations(true, given)
        if isinstance(true, Relation) or isinstance(given, Relation):
            return self._equal_as_equations(true, given)
        return self._equal_any(true, given)

    def _equal_any(self, true: Form, given: Form) -> bool:
        """By the value, or by what it is said to be about."""
        return any(self.equal(one, other) for one in _values(true) for other in _values(given))

    def _equal_as_equations(self, true: Form, given: Form) -> bool:
        equations = [_as_relation(form) for form in (true, given)]
        if equations[0] is None or equations[1] is None:
            return False
        return self._equal_relations(equations[0], equations[1])

    def _equal_relations(self, true: Relation, given: Relation) -> bool:
        """Member by member, from either end; two members also up to a factor."""
        if len(true.relations) != len(given.relations):
            return False
        turned = Relation(given.members[::-1], tuple(FLIPPED[sign] for sign in given.relations[::-1]))
        for other in (given, turned):
            if true.relations == other.relations and all(
                map(self.equal_expressions, true.members, other.members)
            ):
                return True
        if len(true.relations) != 1:
            return set(true.relations) == set(given.relations) == {"="} and self._match(
                true.members, given.members
            )
        differences = [add([form.members[0], negate(form.members[1])]) for form in (true, given)]
        sign = proportional(*differences)
        is_symmetric = true.relations[0] in ("=", r"\neq")
        if is_symmetric:
            return sign != 0 and true.relations == given.relations
        return sign != 0 and true.relations[0] == (given if sign > 0 else turned).relations[0]

    # --- several

    def _equal_lists(self, true: Sequence[Form], given: Sequence[Form]) -> bool:
        names = {member.name for member in true if isinstance(member, Named)}
        if len(names) > 1:
            return {member.name for member in given if isinstance(member, Named)} == names and self._match(
                true, given
            )
        units = {member.unit for member in true if isinstance(member, Quantity)}
        if len(units) > 1 and not all(isinstance(member, Quantity) for member in given):
            return False  # 3 quarters and 2 dimes are not 3 and 2
        return self._match(true, given)

    def _match(self, true: Sequence[Form], given: Sequence[Form]) -> bool:
        """Whether each has its own equal in the other."""
        if len(true) != len(given):
            return False
        rest = list(given)
        for member in true:
            found = next((index for index, other in enumerate(rest) if self.equal(member, other)), None)
            if found is None:
                return False
            rest.pop(found)
        return True

    def _equal_sets(self, true: Sequence[Form], given: Sequence[Form]) -> bool:
        return all(any(self.equal(one, other) for other in given) for one in true) and all(
            any(self.equal(one, other) for one in true) for other in given
        )

    def _is_solution(self, members: Sequence[Form], point: Point) -> bool:
        """`x = 1, y = 2` is the point (1, 2): names in the alphabet's order."""
        names = [member.name for member in members if isinstance(member, Named)]
        if len(names) != len(members) or names != sorted(set(names)) or len(names) != len(point.members):
            return False
        return all(
            isinstance(member, Named) and self.equal(member.value, other)
            for member, other in zip(members, point.members, strict=True)
        )

    def _equal_pieces(self, true: Sequence[Interval], given: Sequence[Interval]) -> bool:
        return len(true) == len(given) and all(
            (one.has_low, one.has_high) == (other.has_low, other.has_high)
            and self.equal_expressions(one.low, other.low)
            and self.equal_expressions(one.high, other.high)
            for one, other in zip(true, given, strict=True)
        )

    def _equal_points(self, true: Form, given: Form) -> bool:
        """A set that is written as intervals of one number each."""
        pieces, points = (true, given) if isinstance(true, RealSet) else (given, true)
        assert isinstance(pieces, RealSet) and isinstance(points, FiniteSet)
        if any(piece.low.key != piece.high.key for piece in pieces.pieces):
            return False
        return self._equal_sets([piece.low for piece in pieces.pieces], points.members)

    def _equal_matrices(self, true: Matrix, given: Matrix) -> bool:
        if true.is_determinant != given.is_determinant or len(true.rows) != len(given.rows):
            return False
        return all(
            len(row) == len(other) and all(map(self.equal_expressions, row, other))
            for row, other in zip(true.rows, given.rows, strict=True)
        )


def _fraction(value: object) -> Fraction:
    """Of a float of any precision, exactly enough."""
    import mpmath

    number = mpmath.mpf(value)
    if not mpmath.isfinite(number) or abs(number) > mpmath.mpf(10) ** 4000:
        raise TooLarge("a number of too many digits")
    sign, mantissa, exponent, _ = number._mpf_
    if exponent < -20_000:
        return Fraction(0)
    fraction = Fraction(mantissa) * Fraction(2) ** exponent
    return -fraction if sign else fraction


def _without_spaces(text: str) -> str:
    """But for those between two digits: `1 23` is not `12 3`."""
    return re.sub(r"(?<![0-9]) +| +(?![0-9])", "", text)


def _values(form: Form) -> list[Form]:
    if isinstance(form, Identity | Named):
        return [form.value] if form.rounded is None else [form.value, form.rounded]
    return [form]


def _same_name(first: str, second: str) -> bool:
    """`y` is as good as `f(x)`."""
    if first == second:
        return True
    return {first, second} in ({"y", "f(x)"}, {"y", "y(x)"})


def _as_relation(form: Form) -> Relation | None:
    if isinstance(form, Relation):
        return form
    if isinstance(form, Named) and form.symbols and isinstance(form.value, Expression):
        return Relation((form.symbols[0], form.value), ("=",))
    return None
