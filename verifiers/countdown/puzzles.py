"""Countdown: reach a target from given numbers, each used exactly once, with + - * / and parentheses.

The checker reads text that a language model wrote, so it treats it as hostile: no recursion, no
`eval`, time linear in the text (`verifiers/countdown/expressions.py`), and arithmetic only on expressions that
use exactly the given numbers. Values are exact (`Fraction` where a division leaves a remainder).

The generator holds out a tenth of all number multisets: test problems use only those, training
problems and demonstrations only the others, whatever their seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from verifiers.countdown.expressions import (
    MAX_DIGITS,
    PRECEDENCE,
    as_written,
    canonical_form,
    evaluate,
    to_postfix,
)
from verifiers.types import Problem, Verdict

MAX_PRODUCT = 200
"""The generator multiplies only up to here, so that intermediates stay within mental arithmetic."""
MAX_REJECTIONS = 200_000
"""Draws in a row that yield nothing new before the generator gives up."""
CORRUPTIONS = (-10, -3, -2, -1, 1, 2, 3, 10)
"""What a corrupted demonstration's target is off by."""

_UNREADABLE = Verdict(score=0.0, reward=0.0, status="wrong_format")

Weights = tuple[float, float, float, float]
"""Relative odds of + - * /."""
Spelling = Callable[[str], str | None]
"""Writes an expression in another notation; None: that one cannot be, and another is drawn."""
_Tree = tuple[str, Any, Any] | int  # (operator, left tree, right tree) or a number


def verify(problem: Problem, completion: str) -> Verdict:
    """1 if the whole completion is an expression that uses every number once and hits the target.

    `wrong_format` is what does not parse, is longer than `expressions.MAX_CHARS`, or has an integer
    of more than MAX_DIGITS digits. What parses but has the wrong numbers, the wrong value or a
    division by zero is judged, and wrong.

    The answer is the expression's canonical form, so that solutions which differ only in order or
    parentheses vote together. One with the wrong numbers or a division by zero cannot be right but may
    vote: as written, white space aside.
    """
    postfix = to_postfix(completion)
    if postfix is None:
        return _UNREADABLE
    if sorted([item for item in postfix if type(item) is int]) != sorted(problem.truth["numbers"]):
        return Verdict(score=0.0, reward=0.0, answer=as_written(completion))
    value = evaluate(postfix)
    reward = 1.0 if value == problem.truth["target"] else 0.0
    # A form does not show a division by zero: that of 8 / ( 3 / 0 ) is 0 * 8 / 3.
    form = None if value is None else canonical_form(postfix)
    return Verdict(score=reward, reward=reward, answer=form or as_written(completion))


def strategy(completion: str) -> str | None:
    """What kinds of steps a solution takes: its canonical form with every number wiped.

    `( 5 - 2 ) * 7 + 3` and `4 + 9 * ( 8 - 1 )` are both `( n - n ) * n + n`. Two solutions share a
    strategy if they apply the same operators in the same shape. None for what is no expression, and
    for one of more than `expressions.MAX_CANONICAL_NUMBERS` numbers.
    """
    postfix = to_postfix(completion)
    return canonical_form(postfix, label=lambda number: "n") if postfix else None


def check_problem(problem: Problem) -> None:
    """Raise ValueError unless the problem's truth has the `numbers` and the `target` that `verify` needs."""
    numbers, target = problem.truth.get("numbers"), problem.truth.get("target")
    if not (isinstance(numbers, list | tuple) and numbers and all(map(_is_number, numbers))):
        raise ValueError(
            f"problem {problem.id!r}: truth 'numbers' is {numbers!r}, verifier 'countdown' needs a list of "
            f"integers from 0 to {10**MAX_DIGITS - 1}: add it to the problem or set verifier.reward"
        )
    if type(target) is not int:
        raise ValueError(
            f"problem {problem.id!r}: truth 'target' is {target!r}, verifier 'countdown' needs an integer: "
            "add it to the problem or set verifier.reward"
        )


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 10**MAX_DIGITS


def is_held_out(numbers: Sequence[int]) -> bool:
    """Whether this multiset of numbers is for tests only: a tenth of them, the same in every process."""
    key = ",".join(map(str, sorted(numbers))).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % 10 == 0


def generate_problems(
    num: int,
    seed: int,
    *,
    held_out: bool,
    num_operands: int = 4,
    max_number: int = 15,
    min_target: int = 10,
    max_target: int = 99,
    operator_weights: Weights = (1.0, 1.0, 2.0, 2.0),
    spell: Spelling | None = None,
) -> list[Problem]:
    """`num` solvable problems, no two with the same numbers (in any order) and target.

    `difficulty` is the hardest kind of step in the expression the problem was made from: `add`
    (only + and -), `mul` (a product, no division) or `div`. Another solution may need less. That
    expression, in another notation if there is a `spell`, is also the problem's `demonstration`.
    """
    stream = _puzzles(
        Random(f"countdown problems {seed} {held_out}"),
        held_out=held_out,
        num_operands=num_operands,
        max_number=max_number,
        min_target=min_target,
        max_target=max_target,
        operator_weights=operator_weights,
        spell=spell,
    )
    problems: dict[tuple[tuple[int, ...], int], Problem] = {}
    rejections = 0
    while len(problems) < num:
        numbers, target, expression = next(stream)
        key = (tuple(sorted(numbers)), target)
        if key in problems:
            rejections += 1
            if rejections > MAX_REJECTIONS:
                raise ValueError(
                    f"countdown found only {len(problems)} distinct problems of the {num} asked for: "
                    "ask for fewer (problems.num_train, problems.num_test) or raise problems.max_number"
                )
            continue
        rejections = 0
        problems[key] = Problem(
            id=f"countdown:{','.join(map(str, numbers))}={target}",
            prompt=prompt_text(numbers, target),
            truth={"numbers": numbers, "target": target},
            difficulty="div" if "/" in expression else "mul" if "*" in expression else "add",
            demonstration=expression,
        )
    return list(problems.values())


def demonstrations(
    num: int,
    seed: int,
    corruption: float = 0.2,
    operator_weights: Weights = (4.0, 4.0, 1.0, 1.0),
    *,
    num_operands: int = 4,
    max_number: int = 15,
    min_target: int = 10,
    max_target: int = 99,
    spell: Spelling | None = None,
) -> Iterator[tuple[str, str]]:
    """(prompt, completion) pairs for supervised fine-tuning, never from held-out numbers.

    With probability `corruption` the prompt's target is moved by one of CORRUPTIONS (and kept in
    range), so that the expression misses it: a base model with head-room needs an imperfect teacher.
    """
    random = Random(f"countdown demonstrations {seed}")
    stream = _puzzles(
        random,
        held_out=False,
        num_operands=num_operands,
        max_number=max_number,
        min_target=min_target,
        max_target=max_target,
        operator_weights=operator_weights,
        spell=spell,
    )
    for _ in range(num):
        numbers, target, expression = next(stream)
        if random.random() < corruption:
            moved = target + CORRUPTIONS[int(random.random() * len(CORRUPTIONS))]
            target = min(max_target, max(min_target, moved))
        yield prompt_text(numbers, target), expression


def prompt_text(numbers: Sequence[int], target: int) -> str:
    """The prompt of a puzzle, its tokens separated by spaces: `3 5 7 2 = 24 :`."""
    return f"{' '.join(map(str, numbers))} = {target} :"


def _puzzles(
    random: Random,
    *,
    held_out: bool,
    num_operands: int,
    max_number: int,
    min_target: int,
    max_target: int,
    operator_weights: Weights,
    spell: Spelling | None,
) -> Iterator[tuple[list[int], int, str]]:
    """Numbers, target and one expression that reaches it, for ever.

    Only `Random.random` is drawn from: its sequence is the same in every Python version, and it
    is several times faster than `sample` and `choices`.
    """
    draw = random.random
    rejections = 0
    while rejections <= MAX_REJECTIONS:
        rejections += 1
        numbers = [1 + int(draw() * max_number) for _ in range(num_operands)]
        merged = _merge_all(numbers, draw, operator_weights)
        if merged is None or not min_target <= merged[0] <= max_target or is_held_out(numbers) != held_out:
            continue
        expression = _render(merged[1])[0]
        solution = expression if spell is None else spell(expression)
        if solution is None:
            continue
        rejections = 0
        yield numbers, merged[0], solution
    raise ValueError(
        f"countdown found no expression of {num_operands} numbers up to {max_number} with a value from "
        f"{min_target} to {max_target} in {MAX_REJECTIONS} draws: widen the target's range, "
        "raise problems.max_number, or allow more operators"
    )


def _merge_all(
    numbers: list[int], draw: Callable[[], float], operator_weights: Weights
) -> tuple[int, _Tree] | None:
    """Join two random members until one is left; every intermediate is a positive integer.

    A product needs factors above 1 and stays within MAX_PRODUCT; a division is exact and by more
    than 1. None if the weights forbid every step that applies.
    """
    add, subtract, multiply, divide = operator_weights
    items: list[tuple[int, _Tree]] = [(number, number) for number in numbers]
    while len(items) > 1:
        a, left = items.pop(int(draw() * len(items)))
        b, right = items.pop(int(draw() * len(items)))
        steps: list[tuple[float, int, _Tree]] = [(add, a + b, ("+", left, right))]
        if a > b:
            steps.append((subtract, a - b, ("-", left, right)))
        elif b > a:
            steps.append((subtract, b - a, ("-", right, left)))
        if a > 1 and b > 1 and a * b <= MAX_PRODUCT:
            steps.append((multiply, a * b, ("*", left, right)))
        if b > 1 and a % b == 0:
            steps.append((divide, a // b, ("/", left, right)))
        elif a > 1 and b % a == 0:
            steps.append((divide, b // a, ("/", right, left)))
        pick = draw() * sum([weight for weight, _, _ in steps])
        for weight, value, tree in steps:
            pick -= weight
            if pick < 0:
                items.append((value, tree))
                break
        else:
            return None
    return items[0]


def _render(tree: _Tree) -> tuple[str, int]:
    """The tree as text with as few parentheses as possible, and the precedence of its outermost operator."""
    if isinstance(tree, int):
        return str(tree), 3
    operator, left, right = tree
    precedence = PRECEDENCE[operator]
    left_text, left_precedence = _render(left)
    right_text, right_precedence = _render(right)
    if left_precedence < precedence:
        left_text = f"( {left_text} )"
    if right_precedence < precedence or (right_precedence == precedence and operator in "-/"):
        right_text = f"( {right_text} )"
    return f"{left_text} {operator} {right_text}", precedence
