"""Countdown with every step spelled out: `3 * 5 = 15 15 + 7 = 22 22 + 2 = 24`.

A step takes two of the numbers that are left and puts its result in their place, until only the target is
left. Right or wrong can be told step by step, which is what a small learned verifier can do; an expression
would have it do the sums in its head.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from verifiers.countdown import puzzles
from verifiers.countdown.expressions import (
    MAX_CHARS,
    Postfix,
    as_written,
    canonical_form,
    evaluate,
    to_postfix,
)
from verifiers.types import Problem, Verdict

MAX_SPELLED = 99
"""Largest result that is spelled out: one token of the countdown base model."""

_STEP = re.compile(r"\s*([0-9]{1,9})\s*([-+*/])\s*([0-9]{1,9})\s*=\s*([0-9]{1,9})(?![0-9])")
_Step = tuple[int, str, int, int]

check_problem = puzzles.check_problem


def verify(problem: Problem, completion: str) -> Verdict:
    """1 if every step is true and takes numbers that are there, and only the target is left.

    `wrong_format` is what is not a sequence of steps. The answer is the canonical form of the expression
    that the steps add up to, the one that `countdown` gives; a wrong one votes as it is written.
    """
    steps = read_steps(completion)
    if steps is None:
        return Verdict(score=0.0, reward=0.0, status="wrong_format")
    expression = expression_of(steps, problem.truth["numbers"])
    if expression is None:
        return Verdict(score=0.0, reward=0.0, answer=as_written(completion))
    reward = float(steps[-1][3] == problem.truth["target"])
    return Verdict(score=reward, reward=reward, answer=canonical_form(expression) or as_written(completion))


def read_steps(text: str) -> list[_Step] | None:
    """(a, operator, b, result) of each step; None if the text is anything but steps."""
    if len(text) > MAX_CHARS:
        return None
    steps: list[_Step] = []
    end = 0
    while match := _STEP.match(text, end):
        a, operator, b, result = match.groups()
        steps.append((int(a), operator, int(b), int(result)))
        end = match.end()
    return steps if steps and not text[end:].strip() else None


def expression_of(steps: list[_Step], numbers: list[int]) -> Postfix | None:
    """The expression that the steps compute; None if one is false, or they do not use up the numbers."""
    left = Counter(numbers)
    made: dict[int, list[Postfix]] = defaultdict(list)
    for a, operator, b, result in steps:
        operands: list[Postfix] = []
        for number in (a, b):
            if not left[number]:
                return None
            left[number] -= 1
            operands.append(made[number].pop() if made[number] else [number])
        if evaluate([a, b, operator]) != result:
            return None
        left[result] += 1
        made[result].append([*operands[0], *operands[1], operator])
    return made[steps[-1][3]][-1] if left.total() == 1 else None


def spell_out(expression: str) -> str | None:
    """The steps of an expression, operands first; None if a result is no integer from 0 to MAX_SPELLED."""
    postfix = to_postfix(expression)
    assert postfix is not None
    steps: list[str] = []
    values: list[int] = []
    for item in postfix:
        if isinstance(item, int):
            values.append(item)
            continue
        b, a = values.pop(), values.pop()
        result = evaluate([a, b, item])
        if not isinstance(result, int) or not 0 <= result <= MAX_SPELLED:
            return None
        steps.append(f"{a} {item} {b} = {result}")
        values.append(result)
    return " ".join(steps)


SPELLINGS: dict[str, puzzles.Spelling | None] = {"expression": None, "steps": spell_out}
"""How a demonstration is written, by the name that settings give it."""
