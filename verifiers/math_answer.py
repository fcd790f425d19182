r"""Mathematical answers: is what the completion answers the same value as the truth?

Where the answer stands is decided here (`find_answer`), in time linear in the text. What it means, and
whether it equals the truth, is decided by the library math-verify: LaTeX, fractions, sets, intervals,
matrices, units, percent. Two answers that are the same text, or both plain numbers, do not need it.

The library's own time limits are off: they are signals, which work in a main thread only. Hostile text
(a tower of powers) is ended from outside, by the kill of `verifiers.process`. Nothing here evaluates
text as code: math-verify gives `sympy.parse_expr`, which does, only digits, points, operators, parentheses
and white space.
docs/math.md has the measured false accepts and false rejects.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from verifiers.types import Problem, Verdict

if TYPE_CHECKING:
    from verifiers.math_answer_config import MathConfig

MAX_ANSWER_CHARS = 500
"""A longer answer is refused: the parser's time grows faster than its text. MATH's longest have about 200."""
MAX_DEPTH = 10
"""An answer whose brackets nest deeper is refused: each level of `((` can double the parser's time."""
MAX_TAIL_CHARS = 1000
"""A completion that marks no answer is read from here before its end: the patterns' time is not linear."""
CACHE_SIZE = 4096
"""Verdicts kept. The samples of a group give few different answers."""

_WRONG_FORMAT = Verdict(score=0.0, reward=0.0, status="wrong_format")
_REFUSED = Verdict(score=-math.inf, reward=0.0, status="refused")

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BETWEEN_BOXES = re.compile(r"[\s$]*(?:[,;]|,?\s*(?:and|or)\b)[\s$]*(?:\w{1,5}\s*=\s*)?")
# A number behind "####", as GSM8K has it, and perhaps its unit; "#### 1. First step" is a heading.
_HASHES = re.compile(r"^####[ \t]*(?!\d+\.\s)([-+$\\]*\.?[0-9][^\n]{0,200})$", re.MULTILINE)
_LAST_WORDS = re.compile(r"(?:\s+[a-zA-Z]+)+[\s.]*$")
_PHRASE = re.compile(r"(?i)\banswer(?:\s+is\b|\s*:)[\s*:]*([^\n]*?)(?=\.?[\s*]*$|\.\s)", re.MULTILINE)

_TIDY = (
    # Not the second half of a matrix's line break.
    (re.compile(r"(?<!\\)(?:\\!\s*|\\?\$|\\(?:left|right)(?![a-zA-Z]))"), ""),
    (re.compile(r"(?<!\\)\\[,;: ]|~"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\varnothing"), r"\\emptyset"),
    (re.compile("°"), r"^\\circ"),
    # math-verify sees the imaginary unit only where i stands alone.
    (re.compile(r"(?<=[0-9])i(?![a-zA-Z])"), " i"),
    # It reads a bare word as a product of letters, equal to every anagram.
    (re.compile(r"^\s*(?!infinity)([a-zA-Z]{4,})[\s.]*$"), r"\\text{\1}"),
)
_DECIMAL = re.compile(r"[-+]?(?=\.?[0-9])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?")
_RATIO = re.compile(
    r"([-+]?)(?:\\frac(?:\{(-?[0-9]+)\}\{(-?[0-9]+)\}|([0-9])([0-9]))|([0-9]+)\s*/\s*([0-9]+))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAnswer:
    """Where a completion's answer stands."""

    text: str
    is_marked: bool
    """`text` is the answer and nothing else; otherwise it is prose, in which math-verify looks for one."""


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
            return _REFUSED
        true_expressions = self._parse_truth(truth)
        # Text that the library fails on must not stop a run: a policy wrote it. Whether the library still
        # works at all is checked below, whether it does on this truth was checked above.
        try:
            expressions = self._parse(given, is_marked=found.is_marked)
            if not expressions:
                return _WRONG_FORMAT
            is_equal = (found.is_marked and given == truth) or self._are_equal(true_expressions, expressions)
            return _verdict(is_equal, answer=str(number.value) if number else canonical_text(expressions))
        except Exception:  # noqa: BLE001  counted as refused
            self._check_library()
            return _REFUSED

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
    if why := why_unreadable(tidy(str(answer)), MAX_ANSWER_CHARS):
        raise ValueError(
            f"problem {problem.id!r}: truth 'answer' is {str(answer)[:100]!r}, which {why}: "
            "give the final answer only, or leave the problem out"
        )


def find_answer(completion: str, *, boxed_only: bool = False) -> FoundAnswer | None:
    r"""The last of what marks an answer, None if there is nothing to read.

    In this order: the last complete `\boxed{}` or `\fbox{}`, with those before it that are its equals
    (`\boxed{3} or \boxed{5}` answers both); the last line `#### 42`; the rest of the sentence after the
    last "answer is" or "answer:", if it is one word; the end of the completion, as prose. Where boxes were
    begun and none is complete, or the last is empty, there is no answer, whatever else the text says.
    """
    boxed = _last_boxes(completion)
    if boxed is not None or boxed_only:
        return FoundAnswer(text=boxed, is_marked=True) if boxed else None
    if hashes := _HASHES.findall(completion):
        return FoundAnswer(text=_LAST_WORDS.sub("", hashes[-1]), is_marked=True)
    tail = _tail(completion)
    phrases = _PHRASE.findall(tail)
    if phrases and (phrase := phrases[-1].strip("*_ ")) and not any(map(str.isspace, phrase)):
        return FoundAnswer(text=phrase, is_marked=True)
    return FoundAnswer(text=tail, is_marked=False) if tail.strip() else None


def _last_boxes(text: str) -> str | None:
    """Contents of the last complete box, after those of the boxes that belong to it, with commas.

    Empty if there is no complete box or nothing in it, None if no box was even begun.
    """
    boxes: list[tuple[int, int, str]] = []  # start, end, content
    open_braces: list[tuple[int, int] | None] = []  # of a box: where it and where its content starts
    is_begun = False
    for token in _BOX_TOKEN.finditer(text):
        if token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}":
            if open_braces and (box := open_braces.pop()):
                start, content_start = box
                while boxes and boxes[-1][0] > start:  # boxes inside this one
                    boxes.pop()
                boxes.append((start, token.end(), text[content_start : token.start()].strip()))
        elif len(token[0]) > 2:
            is_begun = True
            open_braces.append((token.start(), token.end()))
    if not boxes:
        return "" if is_begun else None
    start, _, content = boxes[-1]
    contents = [content]
    for previous_start, previous_end, content in reversed(boxes[:-1]):
        if not _BETWEEN_BOXES.fullmatch(text, previous_end, start):
            break
        start = previous_start
        contents.append(content)
    return ",".join(filter(None, dict.fromkeys(reversed(contents))))


def _tail(completion: str) -> str:
    """The completion's end, from the start of a line where it can be: half a `$...$` reads inside out."""
    if len(completion) <= MAX_TAIL_CHARS:
        return completion
    tail = completion[-MAX_TAIL_CHARS:]
    return tail[tail.find("\n") + 1 :]


def tidy(text: str) -> str:
    """The answer without what does not change its meaning: dollar signs, spacing, size of brackets."""
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    return text.strip().removesuffix(".").rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainNumber:
    """A number written as 1234, 1,234, -0.5, 3/4 or \\frac{3}{4}."""

    value: Fraction
    is_decimal: bool


def plain_number(text: str) -> PlainNumber | None:
    """What the tidy text says, None if it is anything but a plain number."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    if match := _DECIMAL.fullmatch(text):
        return PlainNumber(value=Fraction(text.replace(",", "")), is_decimal=match[1] is not None)
    if match := _RATIO.fullmatch(text):
        sign, *parts = match.groups()
        numerator, denominator = (int(part) for part in parts if part is not None)
        if denominator:
            value = Fraction(numerator, denominator)
            return PlainNumber(value=-value if sign == "-" else value, is_decimal=False)
    return None


def equal_numbers(true: PlainNumber, given: PlainNumber, decimal_places: int) -> bool:
    """math-verify's rule: rounded to so many places if one of them is a decimal, exactly otherwise."""
    if true.is_decimal or given.is_decimal:
        return round(true.value, decimal_places) == round(given.value, decimal_places)
    return true.value == given.value


def why_unreadable(text: str, max_chars: int) -> str | None:
    """Why the parser must not see this text, None if it may."""
    if not text:
        return "is empty"
    if len(text) > max_chars:
        return f"has {len(text)} characters, more than {max_chars}"
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            if depth > MAX_DEPTH:
                return f"nests brackets more than {MAX_DEPTH} deep"
        elif character in ")]}":
            depth = max(0, depth - 1)
    return None


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
