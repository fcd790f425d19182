"""Texts and the form that each is read as."""

from __future__ import annotations

import pytest

from verifiers.math import forms, real_sets
from verifiers.math.expression import Expression, integer
from verifiers.math.reading import read
from verifiers.math.spelling import spell


@pytest.mark.parametrize(
    ("text", "form", "spelling"),
    [
        ("4:30 p.m.", forms.TimeOfDay, "16:30"),
        (r"\text{12:50}", forms.TimeOfDay, "12:50?"),
        ("11 PM", forms.TimeOfDay, "23:00"),
        ("3:4:5", forms.Ratio, "3:4:5"),
        ("312_{\\text{five}}", forms.BaseNumber, "312_5"),
        (r"1A_{16}", forms.BaseNumber, "1A_16"),
        (r"\text{312 base 5}", forms.BaseNumber, "312_5"),
        (r"\textbf{(D)}\ 73", forms.Choice, "(D) 73"),
        ("B. 14", forms.Choice, "(B) 14"),
        ("(B)", Expression, "B"),
        (r"\textbf{(073)}", Expression, "73"),
        ("(3,4)", forms.Point, "(3, 4)"),
        (r"\langle 1,2 \rangle", forms.Point, "(1, 2)"),
        ("[1,2,3]", forms.Point, "[1, 2, 3]"),
        (r"\{2,1\}", forms.FiniteSet, "{1, 2}"),
        (r"\emptyset", forms.FiniteSet, "{}"),
        (r"\{(1,2),(3,4)\}", forms.FiniteSet, "{(1, 2), (3, 4)}"),
        ("2, 1", forms.Listing, "{1, 2}"),
        (r"x = \pm 2", forms.Listing, "{-2, 2}"),
        (r"\text{A and C}", forms.Listing, "{A, C}"),
        (r"\begin{cases} x=1 \\ y=2 \end{cases}", forms.Listing, "{x = 1, y = 2}"),
        ("(100,200)", forms.Point, "(100, 200)"),
        ("(1,000)", Expression, "1000"),
        ("]2,5]", forms.RealSet, "(2, 5]"),
        ("]2,5[", forms.RealSet, "(2, 5)"),
        (r"x \ge 3", forms.RealSet, "[3, infinity)"),
        ("2x + 1 > 7", forms.RealSet, "(3, infinity)"),
        ("-2x > 6", forms.RealSet, "(-1*infinity, -3)"),
        (r"x<2 \text{ or } x>4", forms.RealSet, "(-1*infinity, 2) u (4, infinity)"),
        (r"x>2 \text{ and } x<4", forms.RealSet, "(2, 4)"),
        (r"\{x \in \mathbb{R} \mid 2 < x \le 5\}", forms.RealSet, "(2, 5]"),
        (r"[0,8]\setminus\{4\}", forms.RealSet, "[0, 4) u (4, 8]"),
        (r"x \ne 2", forms.RealSet, "(-1*infinity, 2) u (2, infinity)"),
        ("b > a > c", forms.Relation, "b > a > c"),
        ("x^2+y^2=4", forms.Relation, None),
        ("2^5=32", forms.Identity, "32"),
        (r"x = \frac13 \approx 0.33", forms.Named, "1/3"),
        (r"\begin{aligned} x &= 5+8 \\ &= 13 \end{aligned}", forms.Named, "13"),
        (r"\frac12\begin{pmatrix} 2 \\ 4 \end{pmatrix}", forms.Matrix, "[[1; 2]]"),
        ("The answer is 13", Expression, "13"),
        (r"\text{The area is }12\text{ cm}^2", forms.Quantity, "12"),
        ("**13**", Expression, "13"),
        ("thirteen", Expression, "13"),
        ("minus 5", Expression, "-5"),
        (r"\text{April 20}", forms.Words, "april 20"),
        ("Evelyn", forms.Words, "evelyn"),
        ("BA", forms.Words, "ba"),
        ("3 4", forms.Words, "3 4"),
        ("3 = 5", forms.Words, "3 = 5"),
        (r"5 \approx 3", forms.Words, r"5 \approx 3"),
        (r"5 \text{ (or 3)}", forms.Words, None),
        (r"y = x \quad y = -x", forms.Words, None),
        (r"[-\infty, 3]", forms.Words, None),
        ("at least 5", forms.Words, None),
        (r"\{1, 2, \ldots, 10\}", forms.Words, None),
    ],
)
def test_a_text_has_one_form_and_votes_by_its_spelling(text: str, form: type, spelling: str | None):
    found = read(text)
    assert isinstance(found, form), found
    assert spelling is None or spell(found) == spelling


def test_sets_of_numbers_are_joined_cut_and_turned_around():
    def piece(low: int, high: int, has_low: bool, has_high: bool) -> forms.Interval:
        found = real_sets.interval(integer(low), integer(high), has_low, has_high)
        assert found
        return found

    closed, half_open, apart = piece(0, 2, True, True), piece(2, 5, False, True), piece(7, 8, False, False)
    assert real_sets.union([half_open, closed]) == (piece(0, 5, True, True),)
    assert real_sets.union([piece(2, 5, False, True), piece(0, 2, True, False)]) == (
        piece(0, 2, True, False),
        piece(2, 5, False, True),
    )
    assert real_sets.intersection([closed], [half_open]) == ()
    assert real_sets.intersection([closed], [piece(1, 9, False, True)]) == (piece(1, 2, False, True),)
    assert real_sets.complement(real_sets.complement((closed, apart))) == (closed, apart)
    assert real_sets.interval(integer(2), integer(2), True, False) is None
