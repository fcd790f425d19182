r"""One text for the spellings of one answer, for votes; made from the completion alone.

Nothing is simplified: \sqrt{8} and 2\sqrt{2} remain two answers. The unit of one amount and the name of one value
are left out, as they are where answers are compared.
"""

from __future__ import annotations

from verifiers.math.expression import Expression
from verifiers.math.forms import (
    BaseNumber,
    Choice,
    Compound,
    Dimensions,
    FiniteSet,
    Form,
    Identity,
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
from verifiers.math.relations import FLIPPED
from verifiers.math.units import PERCENT


def spell(form: Form) -> str:
    """The text under which the answer votes."""
    match form:
        case Expression():
            return form.key.replace("$", "")
        case Words():
            return form.text
        case Quantity():
            if form.unit == PERCENT:
                return spell(form.value) + "%"
            return spell(form.value) if form.unit.can_be_left_out else f"{spell(form.value)}*{form.unit.text}"
        case Compound():
            whole = total(form)
            return f"{spell(whole.value)} {whole.unit.text}"
        case Dimensions():
            return " by ".join(sorted(f"{spell(part.value)} {part.unit.text}" for part in form.parts))
        case TimeOfDay():
            minutes, seconds = divmod(form.seconds, 60)
            mark = "" if form.has_half else "?"
            return f"{minutes // 60}:{minutes % 60:02}" + (f":{seconds:02}" if seconds else "") + mark
        case Ratio():
            return ":".join(map(spell, form.parts))
        case BaseNumber():
            return f"{form.digits}_{form.base}"
        case Choice():
            return f"({form.label}) {spell(form.content)}"
        case Point():
            text = ", ".join(map(spell, form.members))
            return f"[{text}]" if form.bracket == "[" else f"({text})"
        case FiniteSet() | Listing():
            return "{" + ", ".join(sorted(_members(form.members))) + "}"
        case RealSet():
            return " u ".join(
                f"{'[' if piece.has_low else '('}{spell(piece.low)}, {spell(piece.high)}{']' if piece.has_high else ')'}"
                for piece in form.pieces
            )
        case Matrix():
            rows = "; ".join(", ".join(map(spell, row)) for row in form.rows)
            return f"|{rows}|" if form.is_determinant else f"[[{rows}]]"
        case Relation():
            return _relation(form)
        case Named() | Identity():
            return spell(form.value)
    raise AssertionError(form)


def _members(members: tuple[Form, ...]) -> list[str]:
    """With names and units where they tell the members apart."""
    names = {member.name for member in members if isinstance(member, Named)}
    units = {member.unit for member in members if isinstance(member, Quantity)}
    texts = []
    for member in members:
        text = spell(member)
        if isinstance(member, Named) and len(names) > 1:
            text = f"{member.name} = {text}"
        if isinstance(member, Quantity) and len(units) > 1:
            text = f"{spell(member.value)} {member.unit.text}"
        texts.append(text)
    return texts


def _relation(form: Relation) -> str:
    ways = [
        (form.members, form.relations),
        (form.members[::-1], tuple(FLIPPED[sign] for sign in form.relations[::-1])),
    ]
    texts = [
        "".join(
            f"{spell(member)} {sign} " for member, sign in zip(members, (*signs, ""), strict=True)
        ).strip()
        for members, signs in ways
    ]
    return min(texts)
