r"""Mathematical answers: is what the completion answers the same value as the truth?

Where the answer stands is decided by `text.find_answer`, in time linear in the text. Two answers that are one text,
or both plain numbers, are compared at once. What another text means is read by `reading` into one of `forms`, all of
it or not at all, and `comparison` decides by type. Nothing here evaluates text as code, and no time limit decides:
work is bounded by the size of what is computed. docs/math.md has the measured false accepts and false rejects.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from verifiers.math.comparison import Comparison
from verifiers.math.evaluation import prepare
from verifiers.math.forms import Form, Words
from verifiers.math.prose import answer_in_prose
from verifiers.math.reading import read
from verifiers.math.spelling import spell
from verifiers.math.text import (
    MAX_ANSWER_CHARS,
    FoundAnswer,
    equal_numbers,
    find_answer,
    fits_in_a_box,
    is_list_or_number,
    plain_number,
    tidy,
    why_unreadable,
)
from verifiers.one_answer import why_no_answer_field
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

    `wrong_format`: no answer was found. `refused`: the answer is longer than MAX_ANSWER_CHARS or nests
    deeper than MAX_DEPTH. A truth is never wrong in a box; one of such length, or empty, is a ValueError.

    The verdict's `answer` depends on the completion only, never on the truth: see `spelling`.
    """

    def __init__(self, config: MathConfig, *, timeout_s: float) -> None:
        del timeout_s  # kept by the kill from outside
        prepare()
        self._config = config
        self._comparison = Comparison(config.decimal_places)
        self._read = lru_cache(CACHE_SIZE)(_read)
        self._judge = lru_cache(CACHE_SIZE)(self._judge_uncached)

    def verify(self, problem: Problem, completion: str) -> Verdict:
        """Judge one completion."""
        found = find_answer(completion, boxed_only=self._config.require_boxed)
        if found is None:
            return _WRONG_FORMAT
        return self._judge(str(problem.truth["answer"]), found)

    def _judge_uncached(self, truth: str, found: FoundAnswer) -> Verdict:
        text = found.text if found.is_marked else answer_in_prose(found.text)
        if text is None:
            return _WRONG_FORMAT
        given, true = tidy(text), tidy(truth)
        number, true_number = plain_number(given), plain_number(true)
        if number is not None and true_number is not None:
            is_equal = equal_numbers(true_number, number, self._config.decimal_places)
            return _verdict(is_equal, answer=str(number.value))
        if why := why_unreadable(true, MAX_ANSWER_CHARS):
            raise ValueError(f"truth 'answer' {truth[:100]!r} {why}: leave the problem out")
        if given == true:
            return _verdict(True, answer=self._vote(text))
        if why_unreadable(given, MAX_ANSWER_CHARS):
            return REFUSED
        readings = [truth, true.replace(",", ", ")] if is_list_or_number(true) else [truth]
        true_forms = [self._read(reading) for reading in readings]
        try:
            form = self._read(text)
            is_equal = any(self._comparison.is_right(true_form, form) for true_form in true_forms)
            return _verdict(is_equal, answer=spell(form))
        except (ArithmeticError, LookupError, RecursionError):
            # An answer that breaks the comparison must not stop a run: a policy wrote it.
            return REFUSED

    def _vote(self, text: str) -> str:
        return spell(self._read(text))


def _read(text: str) -> Form:
    """A text that breaks the reader is what it says, so that no truth fails against itself."""
    try:
        return read(text)
    except (ArithmeticError, LookupError, RecursionError):
        return Words(" ".join(text.split()))


def check_problem(problem: Problem) -> None:
    """Raise ValueError unless the problem's truth has an `answer` that can be read as mathematics or text."""
    answer = problem.truth.get("answer")
    if "answer" not in problem.truth:
        raise ValueError(why_no_answer_field(problem, "math"))
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
    if not fits_in_a_box(str(answer)):
        raise ValueError(
            f"problem {problem.id!r}: truth 'answer' is {str(answer)[:100]!r}, whose braces do not match, so that no "
            "box can hold it: correct it, or leave the problem out"
        )


def trials(problem: Problem) -> list[Trial]:
    """The truth itself in a box, and another answer: only then the truth is read as mathematics."""
    answers = ((str(problem.truth["answer"]), True), (UNLIKELY_ANSWER, False))
    return [Trial(completion=rf"\boxed{{{answer}}}", is_right=is_right) for answer, is_right in answers]


def _verdict(is_equal: bool, *, answer: str) -> Verdict:
    reward = 1.0 if is_equal else 0.0
    return Verdict(score=reward, reward=reward, answer=answer)
