"""Formulae: what they are read as, and what has no certain reading."""

from __future__ import annotations

import random

import pytest

from verifiers.math.expression import TooLarge
from verifiers.math.formula import parse_formula
from verifiers.math.grammar import Unreadable
from verifiers.math.tokens import tokenize


def key(text: str) -> str:
    return parse_formula(tokenize(text)).key


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (r"\frac12", "1/2"),
        (r"\frac 1 2", "1/2"),
        (r"\frac1{12}", "1/12"),
        (r"\dfrac{1}{2}x", "x/2"),
        (r"{1 \over 2}", "1/2"),
        (r"{5 \choose 2}", "10"),
        ("2 3/4", "11/4"),
        (r"-2\frac34", "-11/4"),
        ("1 250 000", "1250000"),
        (r"0.1\overline{6}", "1/6"),
        (r"0.\dot{1}2\dot{3}", "123/999"),
        ("4.5e3", "4500.0"),
        ("2^10", "1024"),
        ("x^10", "x^{10}"),
        ("3ab", "b*a*3"),
        ("6*sqrt(3)", r"6\sqrt{3}"),
        ("exp(3)", "e^3"),
        (r"\sin^2 x", r"(\sin x)^2"),
        (r"\sin^{-1} x", r"\arcsin x"),
        (r"\log_{10} x", r"\log x"),
        (r"\mathrm{e}^{\mathrm{i}\pi}", r"e^{i\pi}"),
        (r"\mathrm{cb}", "bc"),
        (r"T_{\text{max}}", r"T_{\mathrm{max}}"),
        (r"x_nt", r"x_n t"),
        (r"2!3!", "12"),
        ("C_5^2", "10"),
        (r"{}^5P_2", "20"),
        (r"\pit", r"\pi t"),
        (r"\left(x+1\right)\cdot 2", "2(x+1)"),
        (r"f'(x)", r"f^{\prime}(x)"),
    ],
)
def test_one_formula_has_one_key(text: str, same: str):
    assert key(text) == key(same)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (r"\frac{dy}{dx}", r"\frac{y}{x}"),
        ("I(0)", "0"),
        ("x(t)", "xt"),
        (r"T_{\text{max}}", r"T_{\text{min}}"),
        (r"\vec{v}", "v"),
        ("AB_1", "AB_2"),
        (r"\sin 2x", r"x\sin 2"),
        (r"\bar{x}", r"\hat{x}"),
    ],
)
def test_names_that_differ_are_different(text: str, other: str):
    assert key(text) != key(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3 4",
        "x2",
        "1/xy",
        "x/2y",
        "e^at",
        r"\sin x/2",
        r"\ln 2(x+1)",
        "2(3,4)",
        "(x+1",
        "x+1)",
        "x+",
        "*x",
        "x^2^3",
        "5!!",
        "10{1}",
        r"2\frac{7}{4}",
        r"\frac{1}{}",
        r"\int_0^1 x",
        "rx t)",
        r"ab\text{ c}",
        "1,2",
        r"\max(3)",
        r"\sin" * 60 + " x",
    ],
)
def test_what_has_no_certain_reading_has_none(text: str):
    with pytest.raises((Unreadable, ValueError)):
        parse_formula(tokenize(text))


def test_a_number_of_too_many_digits_is_not_read():
    for text in ("1e99999", "9^{9^9}", "6001!"):
        with pytest.raises((TooLarge, Unreadable)):
            parse_formula(tokenize(text))


READABLE = [
    r"\frac{1}{2} k x^2 + m g h",
    r"3ab - 2\pi r",
    r"\sqrt{a^2+b^2} \cdot \sin\theta",
    r"x_{1} e^{-\lambda t} + C",
    r"\frac{n(n+1)}{2} + 7",
]


@pytest.mark.parametrize("text", READABLE)
def test_no_sign_can_be_left_out_of_a_formula_without_a_trace(text: str):
    """All of the tokens go into the reading: without one of them it is another, or none."""
    tokens = tokenize(text)
    whole = parse_formula(tokens).key
    for index, token in enumerate(tokens):
        if token.text in "{}()" or token.text == r"\cdot":
            continue
        try:
            assert parse_formula([*tokens[:index], *tokens[index + 1 :]]).key != whole, token
        except ValueError:
            continue


def test_any_text_is_read_or_refused_in_a_named_way():
    rng = random.Random(3)
    pieces = [
        *"{}()[]|^_+-/*=!,.'xyei1230 ",
        r"\frac",
        r"\sqrt",
        r"\sin",
        "ab",
        "4.5e3",
        r"\sum_{n=0}^{5}",
        r"\pm",
    ]
    for _ in range(3_000):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(1, 10)))
        try:
            assert key(text)
        except ValueError:  # Unreadable, TooLarge, Untokenizable are kinds of it
            continue
