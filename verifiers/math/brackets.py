r"""What brackets enclose: sets and their unions, points, intervals, matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from verifiers.math import real_sets
from verifiers.math.evaluation import Undefined
from verifiers.math.expression import MINUS_ONE, ONE, Expression, multiply
from verifiers.math.forms import FiniteSet, Form, Interval, Matrix, Named, Point, RealSet, Words
from verifiers.math.formula import parse_formula
from verifiers.math.grammar import Unreadable
from verifiers.math.splitting import is_enclosed, split, split_at
from verifiers.math.tokens import Token

MAX_MEMBERS = 60
"""Of a list or matrix."""
ReadMember = Callable[[list[Token], int], Form]


def read_set_operation(tokens: list[Token], sign: int, read_member: ReadMember) -> Form | None:
    r"""`\cup`, `\cap` and `\setminus`, from left to right."""
    operators = (r"\cup", r"\cap", r"\backslash")
    if not any(token.text in operators for token in tokens):
        if not (len(tokens) > 3 and tokens[0].text == r"\mathbbR" and tokens[1].text == "-"):
            return None
        tokens = [tokens[0], Token("command", r"\backslash"), *tokens[2:]]
    parts = split_at(tokens, operators)
    if len(parts) == 1:
        return None
    found = [token.text for token in _at_depth_0(tokens, operators)]
    pieces = _pieces(read_member(parts[0], sign))
    for operator, part in zip(found, parts[1:], strict=True):
        other = _pieces(read_member(part, sign))
        if operator == r"\cup":
            pieces = real_sets.union((*pieces, *other))
        else:
            within = other if operator == r"\cap" else real_sets.complement(other)
            pieces = real_sets.intersection(pieces, within)
    return RealSet(pieces)


def _at_depth_0(tokens: list[Token], texts: tuple[str, ...]) -> list[Token]:
    lengths = [len(part) for part in split_at(tokens, texts)]
    positions = [sum(lengths[: index + 1]) + index for index in range(len(lengths) - 1)]
    return [tokens[position] for position in positions]


def _pieces(form: Form) -> tuple[Interval, ...]:
    """The set that a form is between others."""
    if isinstance(form, RealSet):
        return form.pieces
    if isinstance(form, Point) and (pieces := as_interval(form)) is not None:
        return pieces
    if isinstance(form, FiniteSet):
        if not all(isinstance(member, Expression) for member in form.members):
            raise Unreadable("a set of other than numbers")
        return real_sets.union(real_sets.point(m) for m in form.members if isinstance(m, Expression))
    raise Unreadable("no set")


def as_interval(form: Point) -> tuple[Interval, ...] | None:
    """What `(2, 5)` is where a set is meant."""
    if len(form.members) != 2 or form.bracket != "(":
        return None
    low, high = form.members
    if not isinstance(low, Expression) or not isinstance(high, Expression):
        return None
    try:
        piece = real_sets.interval(low, high, False, False)
    except (Undefined, ValueError):
        return None
    return (piece,) if piece else None


def read_set(tokens: list[Token], sign: int, read_member: ReadMember) -> Form | None:
    r"""`\{1,2\}`, `\{x \mid x > 2\}`, `\emptyset`, `\mathbb{R}`."""
    if len(tokens) == 1 and tokens[0].text == r"\emptyset":
        return FiniteSet(())
    if len(tokens) == 1 and tokens[0].text == r"\mathbbR":
        return RealSet(real_sets.REALS)
    if len(tokens) < 2 or not is_enclosed(tokens, r"\{"):
        return None
    inner = tokens[1:-1]
    if not inner:
        return FiniteSet(())
    for bar in ("|", ":"):
        parts = split_at(inner, (bar,))
        if len(parts) == 2:
            return _read_builder(parts[0], parts[1], read_member)
    parts, _ = split(inner)
    if len(parts) == 1 and (pair := _split_number(inner)):
        parts = pair
    if len(parts) > MAX_MEMBERS:
        raise Unreadable("too many members")
    return FiniteSet(tuple(_plain(member) for part in parts for member in _both(part, read_member)))


def _read_builder(left: list[Token], right: list[Token], read_member: ReadMember) -> Form:
    variable = left[:1]
    if len(left) > 1 and [token.text for token in left[1:]] != [r"\in", r"\mathbbR"]:
        raise Unreadable("a set of something else")
    parts, joiners = split(right)
    form = joined_sets([read_member(part, 1) for part in parts], joiners)
    if not variable or not isinstance(form, RealSet) or form.variable != variable[0].text:
        raise Unreadable("a set by another condition")
    return replace(form, variable="")


def joined_sets(members: list[Form], joiners: list[str]) -> Form | None:
    """Of inequalities of one variable between which "or" or "and" stands; None where that is not so."""
    sets = [member for member in members if isinstance(member, RealSet) and member.variable]
    if len(sets) < len(members) or len({one.variable for one in sets}) != 1:
        return None
    if len(set(joiners)) > 1:
        return None
    joiner = joiners[0] if joiners else ","
    if joiner == "," and all(map(_is_all_but_points, sets)):  # x \neq 1, x \neq 2
        joiner = "and"
    pieces = sets[0].pieces
    for one in sets[1:]:
        if joiner == ",":  # x < 2, x > 4 cannot be meant as both; x > 2, x < 4 may be meant either way
            if real_sets.intersection(pieces, one.pieces):
                return None
            joiner = "or"
        if joiner == "or":
            pieces = real_sets.union((*pieces, *one.pieces))
        else:
            pieces = real_sets.intersection(pieces, one.pieces)
    return RealSet(pieces, sets[0].variable)


def _is_all_but_points(one: RealSet) -> bool:
    rest = real_sets.complement(one.pieces)
    return bool(rest) and all(piece.low.key == piece.high.key for piece in rest)


def _plain(form: Form) -> Form:
    """Members of sets and points have no names of their own."""
    if isinstance(form, Words | Expression | Point | Named | FiniteSet | RealSet):
        return form
    raise Unreadable("a member of another form")


def _split_number(tokens: list[Token]) -> list[list[Token]] | None:
    """`(100,200)` is two numbers; only `(1,000)` is one."""
    if len(tokens) != 1 or tokens[0].kind != "number" or "," not in tokens[0].text:
        return None
    parts = tokens[0].text.split(",")
    if any(part.startswith("0") for part in parts[1:]):
        return None
    return [[Token("number", part)] for part in parts]


def read_brackets(tokens: list[Token], sign: int, read_member: ReadMember) -> Form | None:
    """Points and intervals; `]2,5]` has 5 and not 2."""
    if len(tokens) < 3:
        return None
    if tokens[0].kind == "letter" and tokens[0].text.isupper() and is_enclosed(tokens[1:], "("):
        point = read_brackets(tokens[1:], sign, read_member)
        is_choice = tokens[0].text == "C" and len(tokens) == 6  # C(5,2)
        if isinstance(point, Point) and not is_choice:
            return Named(tokens[0].text, (), point)  # A(3,4)
        return None
    first, last = tokens[0].text, tokens[-1].text
    if first == r"\langle" and last == r"\rangle":
        first, last = "(", ")"
    opening = {"(": False, "[": True, "]": False}.get(first)
    ending = {")": False, "]": True, "[": False}.get(last)
    if opening is None or ending is None:
        return None
    inner = tokens[1:-1]
    if not _is_balanced(inner):
        return None
    parts = split_at(inner, (",", ";"))
    if len(parts) == 1:
        parts = _split_number(inner) or parts
    if len(parts) == 1 or len(parts) > MAX_MEMBERS:
        return None
    members = [_plain(read_member(part, sign)) for part in parts]
    is_point = first == "(" and last == ")"
    if len(members) == 2:
        low, high = members
        if isinstance(low, Expression) and isinstance(high, Expression):
            has_infinity = low.has("infinity") or high.has("infinity")
            if has_infinity or not is_point:
                piece = real_sets.interval(low, high, opening, ending)
                if piece is not None:
                    return RealSet((piece,))
    if is_point:
        return Point(tuple(members))
    if first == "[" and last == "]":
        return Point(tuple(members), "[")
    raise Unreadable("brackets around no interval")


def _is_balanced(tokens: list[Token]) -> bool:
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[", r"\{", "{")) - (token.text in (")", "]", r"\}", "}"))
        if depth < 0:
            return False
    return depth == 0


def read_matrix(tokens: list[Token], sign: int, read_member: ReadMember) -> Form | None:
    """A matrix or column, perhaps with a factor before it."""
    start = next((i for i, token in enumerate(tokens) if token.text.startswith(r"\begin:")), None)
    if start is None:
        return None
    kind = tokens[start].text
    factor, matrix = tokens[:start], tokens[start:]
    if factor and factor[-1].text in ("(", "[", "|"):
        bracket = factor[-1].text
        if matrix[-1].text != {"(": ")", "[": "]", "|": "|"}[bracket]:
            raise Unreadable("a matrix in half of its brackets")
        factor, matrix = factor[:-1], matrix[:-1]
        kind = kind if bracket != "|" else r"\begin:vmatrix"
    if factor and factor[-1].text in (r"\cdot", r"\times"):
        factor = factor[:-1]
    texts = [token.text for token in matrix]
    if kind == r"\begin:array" and not factor and not {"&", r"\\"} & set(texts):
        return read_member(matrix[1:-1], sign)  # a frame
    if (
        texts.count(texts[0]) != 1
        or texts[-1] != texts[0].replace("begin", "end")
        or texts[0] == r"\begin:cases"
    ):
        raise Unreadable("not a plain matrix")
    is_determinant = kind in (r"\begin:vmatrix", r"\begin:Vmatrix")
    if factor and is_determinant:
        raise Unreadable("a factor before a determinant")
    if [token.text for token in factor] == ["-"]:
        scale: Expression = MINUS_ONE
    else:
        scale = parse_formula(factor, sign) if factor else ONE
    return Matrix(_cells(matrix[1:-1], scale, sign), is_determinant)


def _cells(tokens: list[Token], scale: Expression, sign: int) -> tuple[tuple[Expression, ...], ...]:
    rows = split_at(tokens, (r"\\",))
    if rows and not rows[-1]:
        rows = rows[:-1]
    cells = [split_at(row, ("&",)) for row in rows]
    if len({len(row) for row in cells}) != 1 or sum(map(len, cells)) > MAX_MEMBERS:
        raise Unreadable("rows of different length")
    return tuple(tuple(multiply([scale, parse_formula(cell, sign)]) for cell in row) for row in cells)


def _both(tokens: list[Token], read_member: ReadMember) -> list[Form]:
    r"""One member, or the two that `\pm` stands for."""
    signs = (1, -1) if any(token.text in (r"\pm", r"\mp") for token in tokens) else (1,)
    return [read_member(tokens, sign) for sign in signs]
