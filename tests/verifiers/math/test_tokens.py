"""Tokens: what is markup, what is a word, and which spellings are one."""

from __future__ import annotations

import pytest

from verifiers.math.tokens import Untokenizable, flat, normal_text, tokenize


def texts(text: str) -> list[str]:
    return [token.text for token in tokenize(text)]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (r"$\left( x \right)$", "(x)"),
        (r"\underline{13}", "{13}"),
        (r"\textcolor{red}{13}", "{13}"),
        (r"{\color{red}13}", "{13}"),
        (r"\displaystyle\dfrac{1}{2}", r"\frac{1}{2}"),
        ("½", r"\frac{1}{2}"),
        ("x²y₁", "x^{2}y_{1}"),
        ("−5", "-5"),
        ("１２", "12"),
        ("2**10", "2^10"),
        ("a*b", r"a\times b"),
        ("a ≤ b", r"a \leq b"),
        ("a <= b", r"a \leq b"),
        (r"11,\! 111,\! 100", "11111100"),
        (r"1{,}250", "1250"),
        (r"1\,250", "1250"),
        ("4.5 x 10^3", r"4.5 \times 10^3"),
        (r"4.5\mathrm{e}3", "4.5e3"),
        (r"x != 3", r"x \neq 3"),
        (r"50 cm2", "50 cm^2"),
        (r"\pit", r"\pi t"),
        (r"\begin{aligned} x &= 5+8 \\ &= 13 \end{aligned}", "x = 5+8 = 13"),
        (r"\begin{aligned} x &= 5 \\ y &= 8 \end{aligned}", "x = 5, y = 8"),
    ],
)
def test_two_spellings_have_the_same_tokens(text: str, same: str):
    assert texts(text) == texts(same)


def test_dollars_around_a_formula_are_no_currency():
    assert texts("$5$") == ["5"]
    assert texts("$5") == texts(r"\$5") == texts(r"$\$5$") == ["dollar", "5"]


def test_a_text_in_a_formula_is_words_and_letters_are_not():
    assert [(token.kind, token.is_upright) for token in tokenize(r"\text{cm} x \mathrm{e} \mathrm{ab}")] == [
        ("word", True),
        ("letter", False),
        ("letter", False),
        ("word", True),
    ]


def test_the_factorial_before_an_equals_sign_is_one():
    assert texts("5!=120") == ["5", "!", "=", "120"]


def test_texts_are_one_but_for_spaces_braces_and_the_case_of_words():
    assert normal_text(tokenize(r"x^{2} \text{ is Even}.")) == normal_text(tokenize(r"x^2\text{ is even}"))
    assert normal_text(tokenize("x^{12}")) != normal_text(tokenize("x^{1}2"))
    assert flat(tokenize(r"4:30 \text{ p.m.}")) == "4:30 p.m."


@pytest.mark.parametrize("text", [r"\text{a", r"\mathrm{", r"\mathbb", r"\begin"])
def test_braces_that_do_not_match_are_an_error(text: str):
    with pytest.raises(Untokenizable):
        tokenize(text)
