"""What an answer can be: every reading of a text is one of these, or the text itself (`Words`)."""

from __future__ import annotations

from dataclasses import dataclass

from verifiers.math.expression import Expression
from verifiers.math.units import Unit


@dataclass(frozen=True)
class Words:
    """A text that is compared as a text: spaces and the case of words do not count."""

    text: str


@dataclass(frozen=True)
class Quantity:
    """`5 cm`, `12.5%`, `60°`."""

    value: Expression
    unit: Unit


@dataclass(frozen=True)
class Compound:
    """Several amounts that are one: `3 h 20 min`."""

    parts: tuple[Quantity, ...]


@dataclass(frozen=True)
class Dimensions:
    """Lengths that are several: `4 ft x 12 ft`."""

    parts: tuple[Quantity, ...]


@dataclass(frozen=True)
class TimeOfDay:
    """Seconds after midnight; `has_half`: told by a.m. or p.m., or by an hour after 12."""

    seconds: int
    has_half: bool


@dataclass(frozen=True)
class Ratio:
    """`3:4:5`."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class BaseNumber:
    """Digits and the base that they are in."""

    digits: str
    base: int


@dataclass(frozen=True)
class Choice:
    """The label of a multiple choice and what stands beside it: `(D) 73`."""

    label: str
    content: Form


@dataclass(frozen=True)
class Point:
    """Members in their order, in round or angle brackets, or three and more in square ones."""

    members: tuple[Form, ...]
    bracket: str = "("


@dataclass(frozen=True)
class FiniteSet:
    """Members in any order, in braces."""

    members: tuple[Form, ...]


@dataclass(frozen=True)
class Listing:
    """Members in any order, each as often as it is written.

    `joiner`: "and" or "or" where it makes two statements of one, as in `a > 0 or b > 0`; empty for a comma, and
    where it joins values: `2 and 3` are `2 or 3`.
    """

    members: tuple[Form, ...]
    joiner: str = ""


@dataclass(frozen=True)
class Interval:
    low: Expression
    high: Expression
    has_low: bool
    has_high: bool


@dataclass(frozen=True)
class RealSet:
    """Disjoint intervals from left to right. `variable`: of the inequality that says so, empty for a set."""

    pieces: tuple[Interval, ...]
    variable: str = ""


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Expression, ...], ...]
    is_determinant: bool


@dataclass(frozen=True)
class Relation:
    """A chain of members with a relation between each two: `a < b <= c`, `2x + 3y = 6`."""

    members: tuple[Expression, ...]
    relations: tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """`x = 5`, `f(x) = 2x`, `(x, y) = (2, 3)`; `rounded` is what the text says it is about.

    `steps`: what stands between in a chain, `V = abc = 20`.
    """

    name: str
    symbols: tuple[Expression, ...]
    value: Form
    rounded: Form | None = None
    steps: tuple[Form, ...] = ()


@dataclass(frozen=True)
class Identity:
    """`2^5 = 32`: true, so that its value is its last member; `members` are written with their signs sorted."""

    members: tuple[str, ...]
    value: Form
    rounded: Form | None = None


Form = (
    Expression
    | Words
    | Quantity
    | Compound
    | Dimensions
    | TimeOfDay
    | Ratio
    | BaseNumber
    | Choice
    | Point
    | FiniteSet
    | Listing
    | RealSet
    | Matrix
    | Relation
    | Named
    | Identity
)
