r"""Mathematical answers: is what the completion answers the same value as the truth?

Where the answer stands is decided by `text.find_answer`, in time linear in the text. What it means,
and whether it equals the truth, is decided by the library math-verify: LaTeX, fractions, sets, intervals,
matrices, units, percent. Two answers that are the same text, or both plain numbers, do not need it.

The library's own time limits are off: they are signals, which work in a main thread only. Hostile text
(a tower of powers) is ended from outside, by the kill of `verifiers.process.killable`. Nothing here evaluates
text as code: math-verify gives `sympy.parse_expr`, which does, only digits, points, operators, parentheses
and white space.
docs/math.md has the measured false accepts and false rejects.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from verifiers.math.text import (
    MAX_ANSWER_CHARS,
    MAX_TAIL_CHARS,
    FoundAnswer,
    equal_numbers,
    find_answer,
    is_list_or_number,
    plain_number,
    tidy,
    why_no_answer,
    why_unreadable,
)
from verifiers.types import REFUSED, Problem, Trial, Verdict

if TYPE_CHECKING:
    from verifiers.math.config import MathConfig

CACHE_SIZE = 4096
"""Verdicts kept. The samples of a group give few different answers."""

UNLIKELY_ANSWER = "271.828"
"""A truth is compared with it, so that one that cannot be compared is found before a run."""
_WRONG_FORMAT = Verdict(score=0.0, reward=0.0, status="wrong_format")
_NO_NUMBERS = {"nan", "+nan", "-nan", "inf", "+inf", "-inf"}
"""How JSON's and a table's missing values and overflows arrive."""


class MathVerifier:
    """1 for an answer equal in value to `truth["answer"]`, else 0.

    `wrong_format`: no answer was found. `refused`: the answer is longer than MAX_ANSWER_CHARS, nests
    deeper than MAX_DEPTH, or is something that sympy cannot compare. What takes too long is ended by
    the process that holds this object (`timeout_s` is that process's). A truth that cannot be read is
    a ValueError.

    The verdict's `answer` depends on the completion only, never on the truth: see `canonical_text`.
    """

    def __init__(self, config: MathConfig, *, timeout_s: float) -> None:
        del timeout_s  # kept by the kill from outside
        import logging

        import math_verify

        # It warns once that its time limits are off.
        logging.getLogger("math_verify").setLevel(logging.ERROR)
        self._config = config
        self._library = math_verify
        self._latex = (math_verify.LatexExtractionConfig(boxed_match_priority=0),)
        self._prose = (*self._latex, math_verify.ExprExtractionConfig())
        self._parse = lru_cache(CACHE_SIZE)(self._parse_uncached)
        self._parse_truth = lru_cache(CACHE_SIZE)(self._parse_truth_uncached)
        self._judge = lru_cache(CACHE_SIZE)(self._judge_uncached)
        self._check_library()

    def verify(self, problem: Problem, completion: str) -> Verdict:
        """Judge one completion."""
        found = find_answer(completion, boxed_only=self._config.require_boxed)
        if found is None:
            return _WRONG_FORMAT
        return self._judge(tidy(str(problem.truth["answer"])), found)

    def _judge_uncached(self, truth: str, found: FoundAnswer) -> Verdict:
        given = tidy(found.text) if found.is_marked else found.text
        number = plain_number(given) if found.is_marked else None
        true_number = plain_number(truth)
        if number is not None and true_number is not None:
            is_equal = equal_numbers(true_number, number, self._config.decimal_places)
            return _verdict(is_equal, answer=str(number.value))
        if why_unreadable(given, MAX_ANSWER_CHARS if found.is_marked else MAX_TAIL_CHARS):
            return REFUSED
        if found.is_marked and given != truth and why_no_answer(given):
            return _verdict(False, answer=" ".join(given.split()))
        true_expressions = self._parse_truth(truth)
        # Text that the library fails on must not stop a run: a policy wrote it. Whether the library still
        # works at all is checked below, whether it does on this truth was checked above.
        try:
            expressions = self._parse(given, is_marked=found.is_marked)
            if not expressions:
                return _WRONG_FORMAT
            is_equal = (found.is_marked and given == truth) or self._are_equal(true_expressions, expressions)
            if not is_equal and is_list_or_number(truth):
                true_expressions = self._parse_truth(truth.replace(",", ", "))
                is_equal = self._are_equal(true_expressions, expressions)
            return _verdict(is_equal, answer=str(number.value) if number else canonical_text(expressions))
        except Exception:  # noqa: BLE001  counted as refused
            self._check_library()
            return REFUSED

    def _parse_truth_uncached(self, truth: str) -> list[Any]:
        """What the library reads in it; ValueError where that is nothing, or undefined such as 1/0."""
        try:
            expressions = self._parse(truth, is_marked=True)
            is_readable = bool(expressions) and self._are_equal(expressions, expressions)
        except Exception as error:
            raise ValueError(f"truth 'answer' {truth!r}: {error}: leave the problem out") from error
        if not is_readable:
            raise ValueError(f"truth 'answer' {truth!r} cannot be read: leave the problem out")
        return expressions

    def _parse_uncached(self, text: str, *, is_marked: bool) -> list[Any]:
        """What math-verify reads: sympy's expression, if it parses, and the text itself. Empty: nothing."""
        import sympy

        readings = self._library.parse(
            rf"\boxed{{{text}}}" if is_marked else text,
            self._latex if is_marked else self._prose,
            parsing_timeout=None,
            raise_on_error=True,
        )
        imaginary = sympy.Symbol("i", real=False)
        return [
            reading.xreplace({imaginary: sympy.I}) if hasattr(reading, "xreplace") else reading
            for reading in readings
        ]

    def _are_equal(self, true_expressions: list[Any], expressions: list[Any]) -> bool:
        return self._library.verify(
            true_expressions,
            expressions,
            float_rounding=self._config.decimal_places,
            allow_set_relation_comp=True,
            timeout_seconds=None,
            raise_on_error=True,
        )

    def _check_library(self) -> None:
        """ValueError unless math-verify compares: it takes what it cannot parse for text, without a word."""
        for first, second, expected in [
            (r"\frac{1}{2}", "0.5", True),
            ("x^2-1", "(x-1)(x+1)", True),
            (r"\sqrt{2}", r"\sqrt{3}", False),
        ]:
            pair = (self._parse(text, is_marked=True) for text in (first, second))
            if self._are_equal(*pair) is not expected:
                raise ValueError(
                    f"verifier 'math': math-verify does not compare {first!r} with {second!r} correctly: "
                    "install the versions of the lock file"
                )


def check_problem(problem: Problem) -> None:
    """Raise ValueError unless the problem's truth has an `answer` that can be read as mathematics or text."""
    answer = problem.truth.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise ValueError(  # noqa: TRY004  a fault of the data, like the others
            f"problem {problem.id!r}: truth 'answer' is {answer!r}, verifier 'math' needs a text or a number: "
            "add it to the problem or set verifier.reward"
        )
    if str(answer).strip().lower() in _NO_NUMBERS:
        raise ValueError(
            f"problem {problem.id!r}: truth 'answer' is {answer!r}, which is no number (infinity is \\infty): "
            "give the final answer, or leave the problem out"
        )
    if why := why_unreadable(tidy(str(answer)), MAX_ANSWER_CHARS):
        raise ValueError(
            f"problem {problem.id!r}: truth 'answer' is {str(answer)[:100]!r}, which {why}: "
            "give the final answer only, or leave the problem out"
        )


def trials(problem: Problem) -> list[Trial]:
    """The truth itself in a box, and another answer: only then the truth is read as mathematics."""
    answers = ((str(problem.truth["answer"]), True), (UNLIKELY_ANSWER, False))
    return [Trial(completion=rf"\boxed{{{answer}}}", is_right=is_right) for answer, is_right in answers]


def canonical_text(expressions: list[Any]) -> str:
    r"""One text for spellings of one answer, cheaply: 0.5 and \frac12, x=5 and 5, {1,2} and {2,1}.

    No simplification: \sqrt{8} and 2\sqrt{2} remain two answers.
    """
    import sympy

    expression = expressions[0]
    if isinstance(expression, str):
        return " ".join(expression.split())
    if isinstance(expression, sympy.Eq) and expression.lhs.is_Symbol:
        expression = expression.rhs
    # A Float of the parser prints as it was written, so this is exact.
    exact = {number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)}
    return str(expression.xreplace(exact))


def _verdict(is_equal: bool, *, answer: str) -> Verdict:
    reward = 1.0 if is_equal else 0.0
    return Verdict(score=reward, reward=reward, answer=answer)
