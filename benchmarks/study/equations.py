"""What an answer that is an equation shows of its strategy and of its numbers. The text is hostile.

The plan of `#### (19 + 4) * 15` is `19+4 r*15`: its calculations in order, where r is the result of an earlier one. Its
operations, `n+n r*n`, are the strategy; an answer with the same operations on other numbers, or on the same in another
order, has made a slip.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from verifiers.countdown import expressions

MAX_CHARS = 1_000
"""Of a text, what is read."""
RESULT, INVENTED, NUMBER = "r", "?", "n"
"""In a plan: the result of an earlier calculation, and a number that the question has not; in operations: any number."""

_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "$": None, "`": None})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NOUGHTS = re.compile(r"(\d)\.0+(?!\d)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_OPERAND = re.compile(r"\d+(?:\.\d+)?|\?")
_RUN = re.compile(r"[\d(](?:[\d()+*/ \t.-]*[\d)])?")
"""Numbers, signs and parentheses within a line, from a number or parenthesis to one."""


def numbers(question: str) -> list[str]:
    """In order, as they come."""
    return _NUMBER.findall(_plain(question))


def plan(question: str, text: str) -> str:
    """The calculations of an answer's last line that has any, in order; empty where it has none.

    The two sides of a sum or product are in one order, so that 4 + 19 and 19 + 4 are one plan, and so are
    (4 + 19) * (7 - 2) and (7 - 2) * (4 + 19).
    """
    given = set(numbers(question))
    for line in reversed(_plain(text).splitlines()):
        for run in reversed(_RUN.findall(line)):
            if steps := _steps(run, given):
                return " ".join(steps)
    return ""


def operations(plan: str) -> str:
    """Of a plan what is left without its numbers: `19+4 r*15` is `n+n r*n`."""
    return _OPERAND.sub(NUMBER, plan)


def operands(plan: str) -> list[str]:
    """Its numbers, and INVENTED for each that the question has not."""
    return _OPERAND.findall(plan)


def _plain(text: str) -> str:
    """Signs as a programmer writes them, numbers without separators and without `.0`."""
    return _NOUGHTS.sub(r"\1", _THOUSANDS.sub("", text[:MAX_CHARS].translate(_SIGNS)))


def _steps(run: str, given: set[str]) -> list[str]:
    """Of one expression; none where it is a number, or cannot be read."""
    found = _NUMBER.findall(run)
    # The parser reads whole numbers: each is named by its place.
    places = iter(range(len(found)))
    postfix = expressions.to_postfix(_NUMBER.sub(lambda _: str(next(places)), run))
    stack: list[_Side] = []
    for item in postfix or ():
        if isinstance(item, int):
            stack.append(_Side(found[item] if found[item] in given else INVENTED, []))
            continue
        right, left = stack.pop(), stack.pop()
        if item in ("+", "*"):
            left, right = sorted((left, right), key=_Side.order)
        stack.append(_Side(RESULT, [*left.steps, *right.steps, f"{left.symbol}{item}{right.symbol}"]))
    # Of what is left open the calculations are those of all parts.
    return [step for side in stack for step in side.steps]


class _Side(NamedTuple):
    """Of a calculation: a number, or the result of earlier steps."""

    symbol: str
    steps: list[str]

    def order(self) -> tuple[object, ...]:
        """Of a sum's or product's two sides: by strategy first, then by numbers."""
        return (self.symbol == RESULT, operations(" ".join(self.steps)), self.symbol, self.steps)
