"""Whether two formulae have one value, wherever they have one."""

from __future__ import annotations

import pytest

from verifiers.math.evaluation import equal_values, proportional
from verifiers.math.expression import Expression
from verifiers.math.formula import parse_formula
from verifiers.math.tokens import tokenize


def formula(text: str) -> Expression:
    return parse_formula(tokenize(text))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("(x+1)^2", "x^2+2x+1"),
        (r"\sin 2x", r"2\sin x\cos x"),
        (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
        (r"\sqrt{1/m}", r"\frac{1}{\sqrt{m}}"),
        (r"\sqrt[3]{x}", "x^{1/3}"),
        (r"\cos\frac{2\pi}{7}+\cos\frac{4\pi}{7}+\cos\frac{6\pi}{7}", r"-\frac{1}{2}"),
        (r"\tan 60^\circ", r"\sqrt{3}"),
        (r"e^{i\pi}", "-1"),
        (r"(1+i)^2", "2i"),
        (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
        (r"\sqrt{x^2}", "|x|"),
        (r"\frac{(n+1)!}{n!}", "n+1"),
        (r"\sum_{k=1}^{10} k^2", "385"),
        (r"\sum_{n=0}^{\infty} x^n", r"\frac{1}{1-x}"),
        (r"\prod_{k=1}^{5} k", "120"),
        (r"\sqrt{4x^2-1}", r"2\sqrt{x^2-\frac14}"),
        (r"\lfloor 3.7 \rfloor", "3"),
        (r"\gcd(12, 18)", "6"),
    ],
)
def test_equal_values_are_seen(first: str, second: str):
    assert equal_values(formula(first), formula(second))
    assert equal_values(formula(second), formula(first))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("x+y", "x-y"),
        (r"\sqrt{x^2}", "x"),
        (r"\ln|x|", r"\ln x"),
        ("|x|", "x"),
        (r"\sqrt{2}", r"\sqrt{2}+10^{-40}"),
        (r"\frac{\pi}{3^{90}}", r"\frac{\pi}{3^{91}}"),
        (r"e^{-1000}", r"e^{-1001}"),
        (r"e^{-1000}", "0"),
        (r"e^{\pi\sqrt{163}}", "640320^3+744"),
        (r"\log x", r"\ln x"),
        (r"\tan 60^\circ", r"\tan 60"),
        (r"\sum_{n=0}^{\infty} x^n", r"\sum_{n=1}^{\infty} x^n"),
        (r"\sum_{n=1}^{\infty} \frac{1}{n}", "100"),
        ("x^2", "x_2"),
        ("f(x+1)", "f(x)+f(1)"),
        (r"\max(x,2)", "x"),
    ],
)
def test_different_values_are_told_apart(first: str, second: str):
    assert not equal_values(formula(first), formula(second))


def test_what_cancels_is_zero():
    assert equal_values(formula(r"\sqrt{8}-2\sqrt{2}"), formula("0"))
    assert not equal_values(formula(r"\sqrt{8}-2\sqrt{2}+10^{-50}"), formula("0"))


@pytest.mark.parametrize(
    ("first", "second", "sign"),
    [
        ("x-y", "2x-2y", 1),
        ("x-y", "3y-3x", -1),
        ("x-y", "x+y", 0),
        ("x-y", "x^2-xy", 0),
        ("x-y-1", "2x-2y-1", 0),
        ("f(3)-7", "2f(3)-14", 1),
        ("f(3)-7", "f(1)-7", 0),
        ("f(3)-7", "g(3)-7", 0),
    ],
)
def test_a_ratio_that_is_one_number_everywhere_has_its_sign(first: str, second: str, sign: int):
    assert proportional(formula(first), formula(second)) == sign
