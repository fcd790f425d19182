"""Amounts and their units."""

from __future__ import annotations

from fractions import Fraction

import pytest

from verifiers.math.expression import Number
from verifiers.math.forms import Compound, Dimensions, Quantity
from verifiers.math.quantities import total
from verifiers.math.reading import read
from verifiers.math.tokens import tokenize
from verifiers.math.units import parse_unit, same_kind


def unit(text: str) -> str | None:
    found = parse_unit(tokenize(rf"\text{{{text}}}"))
    return found.text if found else None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cm", "cm"),
        ("centimetres", "cm"),
        ("square feet", "ft^2"),
        ("feet squared", "ft^2"),
        ("sq. ft.", "ft^2"),
        ("cubic meters per second", "m^3*s^-1"),
        ("miles per hour", "h^-1*mi"),
        ("mph", "h^-1*mi"),
        ("m/s", "m*s^-1"),
        ("apples", "apple"),
        ("red apples", "apple*red"),
        ("boxes", "box"),
        ("of the cake", "cake"),
        ("inches long", "inch"),
        ("hours in total", "h"),
        ("people", "person"),
    ],
)
def test_spellings_of_a_unit_have_one_name(text: str, name: str):
    assert unit(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "or so",
        "less",
        "below zero",
        "factorial",
        "squared",
        "and a half",
        "dozen",
        "times x",
        "km north",
        "/",
    ],
)
def test_words_that_make_another_number_are_no_unit(text: str):
    assert unit(text) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (r"5 \text{ cm}^2", "cm^2"),
        (r"5 \mathrm{~m} / \mathrm{s}^{2}", "m*s^-2"),
        (r"5 \frac{\text{km}}{\text{h}}", "h^-1*km"),
        ("5 cm", "cm"),
        ("5cm^2", "cm^2"),
        ("5 (apples)", "apple"),
        ("5 (km/h)", "h^-1*km"),
        (r"5^\circ", "degree"),
        (r"5\%", "percent"),
        (r"\$5", "dollar"),
        ("€5", "euro"),
        (r"\$5 \text{ per pound}", "dollar*lb^-1"),
        (r"5^\circ\text{C}", "celsius"),
    ],
)
def test_an_amount_has_its_unit(text: str, name: str):
    form = read(text)
    assert isinstance(form, Quantity) and form.unit.text == name
    assert isinstance(form.value, Number) and form.value.value == 5


@pytest.mark.parametrize(
    "text", ["5 m", "3ab", "7g t", "5 (x+1)", "2 (abc)", "5 xyz", r"\frac{37}{4} m", "5mg"]
)
def test_letters_outside_of_text_are_variables(text: str):
    assert not isinstance(read(text), Quantity)


@pytest.mark.parametrize(
    ("text", "amount", "name"),
    [
        (r"3 \text{ hours } 20 \text{ minutes}", 200, "min"),
        ("3 h 20 min", 200, "min"),
        (r"\text{3 hours, 20 minutes and 5 seconds}", 12005, "s"),
        ("5'7\"", 67, "in"),
        (r"5 \text{ ft. } 7\frac12 \text{ in.}", Fraction(135, 2), "in"),
        (r"63^\circ 45'", 3825, "arcminute"),
        (r"2 \text{ lb } 3 \text{ oz}", 35, "oz"),
    ],
)
def test_several_amounts_of_one_kind_are_one(text: str, amount: Fraction | int, name: str):
    form = read(text)
    assert isinstance(form, Compound)
    whole = total(form)
    assert isinstance(whole.value, Number) and (whole.value.value, whole.unit.text) == (amount, name)


@pytest.mark.parametrize(
    "text", [r"20 \text{ min } 3 \text{ h}", r"3 \text{ h } 20 \text{ cm}", "3 apples 20 pears"]
)
def test_amounts_that_are_not_of_one_kind_or_rising_are_several(text: str):
    assert not isinstance(read(text), Compound)


def test_dimensions_have_a_unit_each():
    assert isinstance(read(r"4 \text{ ft} \times 12 \text{ ft}"), Dimensions)
    assert isinstance(read("4 ft by 12 ft"), Dimensions)
    assert not isinstance(read(r"4 \times 12"), Dimensions)


@pytest.mark.parametrize(
    ("first", "second", "are_same"),
    [
        ("min", "hours", True),
        ("cm", "inches", False),
        ("cm", "square cm", False),
        ("apples", "red apples", True),
        ("apples", "pears", False),
        ("cents", "dollars", True),
        ("dollars", "euro", False),
    ],
)
def test_units_of_one_dimension_can_be_compared(first: str, second: str, are_same: bool):
    units = [parse_unit(tokenize(rf"\text{{{text}}}")) for text in (first, second)]
    assert units[0] and units[1] and same_kind(units[0], units[1]) is are_same
