"""Kinds that a judge who had not seen the code found broken, each with neighbours: a truth, answers that are right,
and answers that are wrong."""

from __future__ import annotations

import pytest

from tests.shared.judged_answers import Judged, check_boxed, rewards
from verifiers.math.config import MathConfig
from verifiers.math.verifier import MathVerifier

BOXED: dict[str, list[Judged]] = {
    "statements are joined by one word": [
        (r"p \vee q", [r"q \lor p"], [r"p \wedge q", "p"]),
        (
            r"\text{Smith and Jones}",
            [r"\text{Jones and Smith}", "Smith, Jones"],
            [r"\text{Smith or Jones}", "Smith"],
        ),
        (r"a>0 \text{ and } b>0", ["b>0, a>0"], [r"a>0 \text{ or } b>0", "a>0"]),
        (r"x=0 \text{ and } y=0", ["x=0, y=0"], [r"x=0 \text{ or } y=0"]),
        ("2, 3", [r"2 \text{ and } 3", r"x=2 \text{ or } x=3"], ["2"]),
    ],
    "rows of numbers in parentheses": [
        ("(1)(3)", ["(3)(1)", "1, 3"], ["3", "(1)(2)", "(1)", "13"]),
        ("6", ["2(3)", r"2 \cdot (3)"], ["(2)(4)"]),
    ],
    "an equation gives the value of its left side": [
        (
            "17",
            ["m+n=17", "m+n=9+8=17", "a^2+b^2=17", r"\frac{AB}{CD}=17"],
            ["m+n=18", "m+n=17=18", "2x+3=17"],
        ),
        ("6", ["x+y=6", "|x|=6"], ["x+y>6", r"x+y \ne 6", "6x=0", "x-6=0", "x+y=6+z"]),
        (r"\frac{m}{n}=\frac{5}{9}", [r"\frac59"], [r"\frac{n}{m}=\frac59", r"\frac95"]),
        (r"\sin A=\frac35", [r"\frac35", "0.6"], [r"\cos A=\frac35", r"\sin B=\frac35"]),
        (r"\vec a\cdot\vec b=6", ["6"], ["-6", r"\vec a\cdot\vec c=6"]),
        ("x^2+y^2=9", ["x^2+y^2-9=0"], ["9", "x^2+y^2=3"]),
        ("|AB|=4", ["4"], ["|AC|=4"]),
    ],
    "distances and chains as sets": [
        ("(-1,5)", ["|x-2|<3", "-3<x-2<3", "5>x>-1"], [r"|x-2|\le 3", "|x+2|<3", "|x-2|>3", "-3<x-2"]),
        (r"x<-2 \text{ or } x>2", ["|x|>2", "2<|x|"], [r"|x|\ge2", "|x|<2"]),
        ("|x|>-1", [r"\mathbb{R}"], ["x>-1"]),
        (
            r"x \ne \pm 2",
            [r"x\ne 2, x\ne -2", r"x \neq 2, -2", r"\mathbb{R}\setminus\{2,-2\}"],
            [r"x\ne 2", r"\mathbb{R}"],
        ),
        (r"-1 \le 3-2x < 5", [r"(-1,2]"], ["[-1,2)", "(-1,2)"]),
    ],
    "answers for every whole number": [
        (
            r"\frac{\pi}{4}+k\pi, k \in \mathbb{Z}",
            [
                r"\frac{\pi}{4}+n\pi\ (n\in\mathbb{Z})",
                r"x = \pi k + \frac{\pi}{4}, k \in Z",
                r"\frac{\pi}{4}+n\pi \text{ for any integer } n",
                r"\frac{\pi}{4}+n\pi \text{ where } n \text{ is an integer}",
            ],
            [
                r"\frac{\pi}{4}",
                r"\frac{\pi}{4}+k\pi",
                r"\frac{\pi}{4}+2k\pi, k \in \mathbb{Z}",
                r"\frac{\pi}{4}+k\pi, k \in \mathbb{N}",
                r"\frac{\pi}{4}+k\pi, k \in \mathbb{R}",
                r"\frac{\pi}{4}+k\pi, n \in \mathbb{Z}",
            ],
        ),
        (r"n+k, k\in\mathbb{Z}", [r"n+m, m\in\mathbb{Z}"], [r"k+n, n\in\mathbb{Z}"]),
        (r"2k\pi\pm\frac{\pi}{3}, k\in\mathbb{Z}", [], [r"2k\pi+\frac{\pi}{3}, k\in\mathbb{Z}"]),
    ],
    "units with a prefix": [
        (
            r"550 \text{ nm}",
            ["550", r"0.55\ \mu\mathrm{m}", r"5.5\times10^{-7}\text{ m}"],
            [r"550\text{ mm}"],
        ),
        (
            r"3\,\mathrm{\mu s}",
            ["3", r"3\times10^{-6}\,\mathrm{s}"],
            [r"3\,\mathrm{ms}", r"3\,\mathrm{\mu m}"],
        ),
        (
            r"2.2\,\text{k}\Omega",
            [r"2200\,\Omega", r"2200\text{ ohms}"],
            [r"2.2\,\Omega", r"2.2\,\text{M}\Omega"],
        ),
        (r"12\text{ V}", ["12", r"12000\text{ mV}"], [r"12\text{ A}", r"12\text{ kV}"]),
        (r"4.2\text{ eV}", ["4.2", r"0.0042\text{ keV}"], [r"4.2\text{ MeV}", r"4.2\text{ J}"]),
        (r"5 \mu m", [r"5 m \mu"], [r"5\text{ m}", "5"]),
        (r"2\Omega x", [r"2x\Omega"], ["2x", "2"]),
    ],
    "prices and rates": [
        (
            r"\$15 \text{ per hour}",
            [r"\$15/\text{hour}", r"15 \text{ dollars per hour}"],
            [r"\$15/\text{day}", r"\$16/\text{hour}"],
        ),
        (r"30\text{ mpg}", [r"30\text{ miles per gallon}"], [r"30\text{ mph}"]),
        (r"60/\text{min}", [r"1/\text{s}"], [r"60\text{ min}", r"1/\text{h}"]),
    ],
    "ratios": [
        ("3:5", [r"3\text{ to }5", "a:b=3:5", "6:10"], [r"5\text{ to }3", "a:b=5:3"]),
        ("V_1:V_2=1:8", ["1:8"], ["8:1", "V_2:V_1=1:8"]),
    ],
    "spelling": [
        (r"\text{7:45 a.m.}", [r"7{:}45\text{ AM}"], [r"7{:}45\text{ PM}", r"7{:}54\text{ AM}"]),
        ("42", ["6 x 7", "42_{10}"], ["6 x 8", "42_8"]),
        (r"\frac12", [r"\text{half}", r"\text{one half}"], [r"\text{one third}", r"\text{half a mile}"]),
        (
            r"\begin{cases} x & x>0 \\ -x & x \le 0\end{cases}",
            [r"\begin{cases} x, & x>0 \\ -x, & x \le 0\end{cases}"],
            [r"\begin{cases} x & x>0 \\ x & x \le 0\end{cases}"],
        ),
        (
            r"\frac{4035!}{2017!\,2018!}",
            [r"\binom{4035}{2017}"],
            [r"\binom{4035}{2016}", r"\binom{4034}{2017}"],
        ),
        ("(C) 17", ["(C): 17", "C"], ["(D): 17", "(C): 18"]),
    ],
}

COMPLETIONS: dict[str, tuple[list[str], list[str]]] = {
    "17": (
        [
            "The answer is 17 (not 18).",
            "The answer is 17, not 18.",
            "The answer is the sum of the two, 17.",
            "Answer:\n\n\\[\n17\n\\]",
            "The correct answer is option (C): 17",
            "So the total is 17.",
            "We get a = 3 and b = 17.",
            "The answer is 34/2 = 17.",
        ],
        [
            "The answer is the square root of 17.",
            "The answer is twice 17.",
            "The answer is half of 17.",
            "The answer is log 17.",
            "The answer is sqrt(17).",
            "The answer is √17.",
            "The answer is π/17.",
            "The answer is fewer than 17.",
            "The answer is greater than 17.",
            "The answer is nearly 17.",
            "The answer is the product of 17 and 2.",
            "So x = √17",
            "The total is 3:17",
            "The total is 17 thousand",
            "The total is $17$ thousand",
            "The total is 17:30",
            "$x=18$ or $x=17$",
            "x = 18 or x = 17",
        ],
    ),
    "17, 18": (
        ["The answers are 17 and 18.", "x = 17 and x = 18", "$x = 17$ or $x = 18$", "17 or 18"],
        ["The answers are 17 and 19.", "a = 17 and b = 18", "The answer is 17."],
    ),
    "17000": (["The total is $17$ thousand", "So there are 17 thousand."], ["The total is 17"]),
    "C": (
        ["The correct answer is option (C): 17", "**C**", "So it is **(C)**"],
        ["**D**", "Take **C** and **D**"],
    ),
}


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier(MathConfig(), timeout_s=2.0)


@pytest.mark.parametrize("kind", BOXED)
def test_every_spelling_is_right_and_what_lost_or_changed_a_part_is_wrong(verifier: MathVerifier, kind: str):
    check_boxed(verifier, BOXED[kind])


@pytest.mark.parametrize("truth", COMPLETIONS)
def test_what_surrounds_a_number_in_prose_is_not_lost(verifier: MathVerifier, truth: str):
    right, wrong = COMPLETIONS[truth]
    assert rewards(verifier, truth, right) == dict.fromkeys(right, 1.0)
    assert rewards(verifier, truth, wrong) == dict.fromkeys(wrong, 0.0)
