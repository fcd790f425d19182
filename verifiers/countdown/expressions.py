"""Arithmetic expressions as a language model writes them: parsed, evaluated, brought into one form.

The text is hostile, so the parser is its own, without recursion or `eval`, in time linear in the
text. An expression is kept in postfix order: `2 * ( 3 + 4 )` is [2, 3, 4, "+", "*"].
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MAX_CHARS = 10_000
"""A longer text is not read."""
MAX_DIGITS = 9
"""A longer integer is no number."""
MAX_CANONICAL_NUMBERS = 64
"""An expression of more numbers has no canonical form: what hostile text can cost stays bounded."""
PRECEDENCE = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2}

_TOKEN = re.compile(r"[0-9]+|[^ \t\r\n]")
_DIGITS = frozenset("0123456789")

Postfix = list[int | str]
"""Numbers and operators, each operator after its two operands; never empty."""


def to_postfix(text: str) -> Postfix | None:
    """The expression (Dijkstra's shunting yard), None if the text is not one."""
    if len(text) > MAX_CHARS:
        return None
    output: Postfix = []
    operators: list[str] = []
    operand_next = True
    for token in _TOKEN.findall(text):
        if operand_next:
            if token == "(":
                operators.append(token)
            elif token[0] in _DIGITS and len(token) <= MAX_DIGITS:
                output.append(int(token))
                operand_next = False
            else:
                return None
        elif token == ")":
            while operators and operators[-1] != "(":
                output.append(operators.pop())
            if not operators:
                return None
            operators.pop()
        elif token != "(" and token in PRECEDENCE:
            precedence = PRECEDENCE[token]
            while operators and PRECEDENCE[operators[-1]] >= precedence:
                output.append(operators.pop())
            operators.append(token)
            operand_next = True
        else:
            return None
    if operand_next or "(" in operators:
        return None
    output.extend(reversed(operators))
    return output


def evaluate(postfix: Postfix) -> int | Fraction | None:
    """Exact value, None after a division by zero."""
    stack: list[Any] = []
    for item in postfix:
        if type(item) is int:
            stack.append(item)
            continue
        right, left = stack.pop(), stack.pop()
        if item == "+":
            stack.append(left + right)
        elif item == "-":
            stack.append(left - right)
        elif item == "*":
            stack.append(left * right)
        elif right == 0:
            return None
        else:
            quotient, remainder = divmod(left, right)
            stack.append(quotient if remainder == 0 else Fraction(left) / right)
    return stack[0]


def as_written(text: str) -> str:
    """The tokens of a text, one space between them."""
    return " ".join(_TOKEN.findall(text))


def canonical_form(postfix: Postfix, label: Callable[[int], str] = str) -> str | None:
    """One text for all expressions that differ only in order, grouping and parentheses.

    Sums and differences are flattened into added and subtracted terms, products and quotients into
    factors and divisors, each list sorted as text: `4 * ( 3 + 2 )` and `( 2 + 3 ) * 4` are
    `( 2 + 3 ) * 4`; `8 - ( 3 + 2 )` and `8 - 3 - 2` are `8 - 2 - 3`. Nothing is computed, so the form
    is itself an expression of the same numbers, and of the same value if there is one: `8 / ( 3 / 0 )`
    becomes `0 * 8 / 3`. None beyond MAX_CANONICAL_NUMBERS. `label` writes a number.
    """
    if len(postfix) >= 2 * MAX_CANONICAL_NUMBERS:
        return None
    stack: list[str | _Joined] = []
    plain: list[str]
    inverted: list[str]
    for item in postfix:
        if type(item) is int:
            stack.append(label(item))
            continue
        right, left = stack.pop(), stack.pop()
        operator = "+" if item == "+" or item == "-" else "*"
        if isinstance(left, str):
            plain, inverted = [left], []
        elif left[0] == operator:
            _, plain, inverted = left
        else:
            plain, inverted = [_as_part(left)], []
        same, opposite = (plain, inverted) if item == operator else (inverted, plain)
        if isinstance(right, str):
            same.append(right)
        elif right[0] == operator:
            same += right[1]
            opposite += right[2]
        else:
            same.append(_as_part(right))
        stack.append((operator, plain, inverted))
    whole = stack[0]
    return whole if isinstance(whole, str) else _written(whole)


_Joined = tuple[str, list[str], list[str]]
"""+ with added and subtracted parts, or * with factors and divisors. The first list is never empty:
the leftmost number of an expression is neither subtracted nor divided by.
"""


def _as_part(operand: _Joined) -> str:
    """A sum among factors, or a product among terms."""
    return f"( {_written(operand)} )" if operand[0] == "+" else _written(operand)


def _written(operand: _Joined) -> str:
    operator, plain, inverted = operand
    plain.sort()
    inverted.sort()
    between, before = (" + ", " - ") if operator == "+" else (" * ", " / ")
    return before.join([between.join(plain), *inverted])
