"""What a worked answer shows of its plan, and whether its arithmetic is right. The text is hostile.

A plan is the calculations of an answer without their results: `290 / 2 = 145` is the plan `290/2`, whatever was written
behind the equals sign. Two samples with one plan and different answers differ by a slip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from verifiers.countdown import expressions

MAX_CHARS = 1_000
"""Of a text, what is read."""
RESULT, INVENTED = "r", "?"
"""In a plan: the result of an earlier calculation, and a number that is neither that nor the question's."""

_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "$": None, "`": None})
_LATEX = ((r"\\times|\\cdot", "*"), (r"\\div", "/"), (r"(?<=\d)[ \t]*[xX][ \t]*(?=[\d(])", "*"))
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NOUGHTS = re.compile(r"(\d)\.0+(?!\d)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_RUN = re.compile(r"[\d(](?:[\d()+*/ \t.-]*[\d)])?")
"""Numbers, signs and parentheses within a line, from a number or parenthesis to one."""


def plan(question: str, text: str) -> str:
    """The calculations of an answer, in order: `19+4 r*15`; each once. Empty: it shows none.

    The two numbers of a sum or product are in one order, so that 4 + 19 and 19 + 4 are one plan. `(19 + 4) * 15`
    is the plan of the same in two lines.
    """
    given = set(_NUMBER.findall(_plain(question)))
    steps: dict[str, None] = {}
    results: set[str] = set()
    for line in _plain(text).splitlines():
        for place, part in enumerate(line.split("=")):
            if place:  # behind an equals sign
                results.update(_NUMBER.findall(part)[:1])
            for run in _RUN.findall(part):
                steps |= dict.fromkeys(_steps(run, given, results))
    return " ".join(steps)


def has_slip(text: str) -> bool:
    """Whether a calculation that it writes is false: `12 - 5 = 8`. What is no calculation of numbers is not judged.

    A result with a point is rounded as far as it has digits: 10 / 3 = 3.33 is no slip.
    """
    return not all(_calculations(text))


def adds_up(text: str) -> bool:
    """Whether it writes a calculation, and none that is false: what a calculator can tell of an answer, knowing no truth."""
    found = list(_calculations(text))
    return bool(found) and all(found)


def _calculations(text: str) -> Iterator[bool]:
    """Of each whether it is right."""
    for line in _plain(text).splitlines():
        parts = line.split("=")
        for left, right in pairwise(parts):
            before, behind = _RUN.findall(left), _RUN.findall(right)
            if not (before and left.rstrip().endswith(before[-1])):
                continue
            if not (behind and right.lstrip().startswith(behind[0])):
                continue
            one, other = _value(before[-1]), _value(behind[0])
            is_calculation = len(_NUMBER.findall(before[-1])) + len(_NUMBER.findall(behind[0])) > 2
            if is_calculation and one is not None and other is not None:
                yield _agree(one, other, behind[0])


def _plain(text: str) -> str:
    """Signs as a programmer writes them, numbers without separators and without `.0`."""
    text = text[:MAX_CHARS].translate(_SIGNS)
    for pattern, sign in _LATEX:
        text = re.sub(pattern, sign, text)
    return _NOUGHTS.sub(r"\1", _THOUSANDS.sub("", text))


def _steps(run: str, given: set[str], results: set[str]) -> list[str]:
    """Of one expression; none where it is a number, or cannot be read."""
    numbers = _NUMBER.findall(run)
    # The parser reads whole numbers: each is named by its place.
    places = iter(range(len(numbers)))
    postfix = expressions.to_postfix(_NUMBER.sub(lambda _: str(next(places)), run))
    stack: list[str] = []
    steps = []
    for item in postfix or ():
        if isinstance(item, int):
            number = numbers[item]
            stack.append(number if number in given else RESULT if number in results else INVENTED)
            continue
        right, left = stack.pop(), stack.pop()
        if item in ("+", "*"):
            left, right = sorted((left, right))
        steps.append(f"{left}{item}{right}")
        stack.append(RESULT)
    return steps


def _value(run: str) -> Fraction | None:
    """None: it cannot be read, or divides by zero."""
    if "." in run:
        return Fraction(run) if _NUMBER.fullmatch(run) else None
    postfix = expressions.to_postfix(run)
    value = expressions.evaluate(postfix) if postfix else None
    return None if value is None else Fraction(value)


def _agree(one: Fraction, other: Fraction, written: str) -> bool:
    digits = len(written.partition(".")[2])
    return one == other if not digits else abs(one - other) <= Fraction(1, 2 * 10**digits)
