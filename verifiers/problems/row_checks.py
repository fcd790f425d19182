"""Rows of a published format of which no verifier could judge a candidate rightly.

Each function says in one line what is wrong with the problem and what to do, None if nothing is.
"""

from __future__ import annotations

import ast
import re
import warnings
from fractions import Fraction

from verifiers.math.text import find_answer, is_list_or_number, plain_number, tidy
from verifiers.types import Problem


def why_not_demonstrated(problem: Problem) -> str | None:
    """Of numbers only: whether other answers are equal, the verifier decides."""
    answer = str(problem.truth["answer"])
    found = find_answer(problem.demonstration) if problem.demonstration is not None else None
    if found is None or not found.is_marked:
        return None
    true_numbers, given_numbers = _exact_numbers(answer), _exact_numbers(found.text)
    if true_numbers is None or given_numbers is None or true_numbers == given_numbers:
        return None
    return (
        f"its solution answers {found.text!r}, and the answer to be found is {answer!r}: correct the row, or "
        "raise problems.max_invalid_rows"
    )


def _exact_numbers(answer: str) -> set[Fraction] | None:
    """Of a list of whole numbers and fractions; None for anything else, and for 100,200, which may be one."""
    text = tidy(answer)
    numbers = [plain_number(part.strip()) for part in text.split(",")]
    if is_list_or_number(text) or any(number is None or number.is_decimal for number in numbers):
        return None
    return {number.value for number in numbers if number}


def why_not_tested(problem: Problem) -> str | None:
    """Of MBPP: whether its tests can fail. What does not parse is left to the verifier's check."""
    tests = problem.truth["test_list"]
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse("\n".join(tests))
    except (SyntaxError, TypeError, ValueError):
        return None
    for statement in tree.body:
        if not _can_fail(statement):
            return (
                f"test_list has {ast.unparse(statement)!r}, which asserts nothing about the program: correct "
                "it, or raise problems.max_invalid_rows"
            )
    return None


def _can_fail(statement: ast.stmt) -> bool:
    """False for an assertion of constants, or of a tuple, and for a comparison that nothing asserts."""
    if isinstance(statement, ast.Assert):
        names_something = any(isinstance(node, ast.Name) for node in ast.walk(statement.test))
        return names_something and not isinstance(statement.test, ast.Tuple)
    return not (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Compare | ast.BoolOp | ast.Constant)
    )


def why_not_begun(problem: Problem) -> str | None:
    """Of HumanEval: whether the prompt begins the function that is tested."""
    prompt, entry_point = problem.truth["prompt"], problem.truth["entry_point"]
    if not (isinstance(prompt, str) and isinstance(entry_point, str)):
        return None  # told by the verifier's check
    function = entry_point.rpartition(".")[2]  # of Solution().f
    if re.search(rf"\b(?:def|class)\s+{re.escape(function)}\b", prompt):
        return None
    return (
        f"its prompt does not define entry_point {entry_point!r}: correct the row, or raise "
        "problems.max_invalid_rows"
    )
