r"""One text for the spellings of one answer, for votes; made from the completion alone.

Nothing is simplified: \sqrt{8} and 2\sqrt{2} remain two answers. A unit and a name are left out.
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
            return spell(form.value) + ("%" if form.unit == PERCENT else "")
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
            return "{" + ", ".join(sorted(map(spell, form.members))) + "}"
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


def _relation(form: Relation) -> str:
    ways = [
        (form.members, form.relations),
        (form.members[::-1], tuple(FLIPPED[sign] for sign in form.relations[::-1])),
    ]
    texts = [
        "".join(f"{spell(member)} {sign} " for member, sign in zip(members, (*signs, ""), strict=True)).strip()
        for members, signs in ways
    ]
    return min(texts)
