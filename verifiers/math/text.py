r"""Where a completion's answer stands, and what of its text can be judged without a grammar.

Pure and cheap: the format `math` takes the truth of a row with the same functions (verifiers/problems/formats.py), so that
a solution always has the answer that the verifier finds in it. Time is linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_ANSWER_CHARS = 500
"""A longer answer is refused: the parser's time grows faster than its text. MATH's longest have about 200."""
MAX_DEPTH = 10
"""An answer whose brackets nest deeper is refused: each level of `((` can double the parser's time."""
MAX_TAIL_CHARS = 1000
"""A completion that marks no answer is read from here before its end: the patterns' time is not linear."""

# The second alternative is `\boxed 7`, which ends at the next dollar sign, as in some solutions of MATH.
_BOX_TOKEN = re.compile(
    rf"\\(?:boxed|fbox)\s*\{{|\\(?:boxed|fbox)(?![a-zA-Z])\s*([^\s{{$][^$]{{0,{MAX_ANSWER_CHARS}}})\$|\\.|[{{}}]",
    re.DOTALL,
)
_BOX_NAME = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
# No two neighbouring parts can match the same character: with an overlap, a run of spaces takes quadratic time.
_BETWEEN_BOXES = re.compile(r"[\s$]*(?:[,;]\s*(?:(?:and|or)\b)?|(?:and|or)\b)[\s$]*(?:\w{1,5}\s*=[\s$]*)?")
# A number behind "####", as GSM8K has it, and perhaps its unit, or a calculation or a point; "#### 1. First step" and
# "#### (1) First step" are headings.
_HASHES = re.compile(
    r"^####[ \t]*(?!\d+\.\s|\(?\d+\)[ \t]+[^\W\d])([-+−–$€£¥\\(]*(?:\.?[0-9]|[dt]?frac|sqrt|pi\b)[^\n]{0,200})$",
    re.MULTILINE,
)
_DENIAL = re.compile(
    r"(?i)\banswer\s+(?:is\s+not|isn't|can(?:not|'t)\s+be)\b[^\n]*?(?:\.(?=\s)|$)", re.MULTILINE
)
_PHRASE = re.compile(
    r"(?i)\banswers?\**(?:\s+(?:is|are)\b|\s*[:=])[\s*:]*([^\n]*?)(?=\.?[\s*]*$|\.\s)", re.MULTILINE
)
# What follows an answer in its sentence, and words without which it is another answer.
_REASON = re.compile(
    r"(?i)[,;]?\s+(?:because|since|as|which|where|so|when|if|but|for)\b|[,;]\s+(?=[a-z]{2,}\s+[a-z])|,?\s+\(?(?=not\b)"
)
_TURNS = re.compile(
    r"(?i)\b(?:between|not|least|most|less|more|minus|negative|either|neither|below|above|under|over|beyond|than|up to"
    r"|almost|nearly|half|twice|double|triple|square|cube|root|sqrt|cbrt|log|ln|exp|sin|cos|tan|sum|difference|product|quotient"
    r"|plus|times)\b|[√∛π]"
)
_OPENS_FORMULA = {r"\[", r"\(", "$", "$$"}
_BEGINS_ANSWER = re.compile(
    r"(?i)[-+−–$€£`.]*(?:[0-9(\[{\\$]|[a-z]\b|(?:about|approximately|roughly|exactly|option|choice)\b)|(?:\S+\s+){0,2}[^\s0-9]+$"
)
_TAG, _END_TAG = "<answer>", "</answer>"


_TIDY: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile("[−–]"), "-"),
    (re.compile(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))"), ""),
    # Not the second half of a matrix's line break.
    (re.compile(r"(?<!\\)(?:\\!\s*|\\?\$|\\(?:left|right)(?![a-zA-Z]))"), ""),
    (re.compile(r"(?<!\\)\\[,;: ]|~"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
)
_LIST_OR_NUMBER = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+")
_DECIMAL = re.compile(r"[-+]?(?=\.?[0-9])(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?")
_RATIO = re.compile(
    r"([-+]?)(?:\\frac(?:\{(-?[0-9]+)\}\{(-?[0-9]+)\}|([0-9])([0-9]))|([0-9]+)\s*/\s*([0-9]+))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAnswer:
    """Where a completion's answer stands."""

    text: str
    is_marked: bool
    """`text` is the answer and nothing else; otherwise it is prose, in which `prose` looks for one."""


def find_answer(completion: str, *, boxed_only: bool = False) -> FoundAnswer | None:
    r"""The last of what marks an answer, None if there is nothing to read.

    In this order: what the last `<answer>` and `</answer>` enclose, unless a box follows; the last complete
    `\boxed{}` or `\fbox{}`, with those before it that are its equals (`\boxed{3} or \boxed{5}` answers both);
    the last line `#### 42`; the rest of the sentence after the last "answer is" or "answer:", where an answer
    stands there; the end of the completion, as prose. Where boxes were begun and none is complete, or the
    last is empty, there is no answer, whatever else the text says.
    """
    if (tagged := _tagged(completion)) is not None:
        found = _find_untagged(tagged, boxed_only)
        is_whole = found is not None and not found.is_marked and "\n" not in tagged
        return FoundAnswer(text=tagged, is_marked=True) if is_whole else found
    return _find_untagged(completion, boxed_only)


def _tagged(completion: str) -> str | None:
    """What stands in the last pair of tags, if no box comes behind it."""
    if (
        _END_TAG not in completion
        and _END_TAG.title() not in completion
        and _END_TAG.upper() not in completion
    ):
        return None
    lower = completion.lower()
    if len(lower) != len(completion):  # a letter that is two in lower case moves all that follows
        lower = completion
    end = lower.rfind(_END_TAG)
    start = lower.rfind(_TAG, 0, end) if end >= 0 else -1
    if start < 0 or _BOX_NAME.search(completion, end):
        return None
    return completion[start + len(_TAG) : end].strip()


def _find_untagged(completion: str, boxed_only: bool) -> FoundAnswer | None:
    boxes, is_begun = _boxes(completion)
    if boxes or is_begun or boxed_only:
        boxed = _joined(completion, boxes) if boxes else ""
        return FoundAnswer(text=boxed, is_marked=True) if boxed else None
    if hashes := _HASHES.findall(completion):
        return FoundAnswer(text=hashes[-1].rstrip(), is_marked=True)
    tail = _DENIAL.sub("", _tail(completion))
    phrases = _PHRASE.findall(tail)
    if phrases and (phrase := phrases[-1].strip("*_` ")):
        clause = _REASON.split(phrase)[0].strip("*_` ")
        is_answer = _BEGINS_ANSWER.match(clause) is not None or _turns_number(clause)
        if is_answer and clause not in _OPENS_FORMULA:
            return FoundAnswer(text=clause, is_marked=True)
    return FoundAnswer(text=tail, is_marked=False) if tail.strip() else None


def _turns_number(clause: str) -> bool:
    """Whether a number of the clause is not the answer: `the square root of 17`, but not `the sum, 17`."""
    return any(
        _TURNS.search(part) and re.search("[0-9$]", part) is not None for part in re.split("[,;:=]", clause)
    )


def boxed_answer(solution: str) -> str | None:
    r"""What `find_answer` finds boxed in a worked solution; None where the last box is empty or does not end."""
    boxes, _ = _boxes(solution)
    names = [match.start() for match in _BOX_NAME.finditer(solution)]
    if not boxes or not solution[boxes[-1].content].strip() or names[-1] >= boxes[-1].end:
        return None
    return _joined(solution, boxes)


def fits_in_a_box(answer: str) -> bool:
    """Whether a box with this answer ends where it should: not where its braces do not match."""
    text = rf"\boxed{{{answer}}}"
    boxes, _ = _boxes(text)
    return bool(boxes) and (boxes[-1].start, boxes[-1].end) == (0, len(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    start: int
    end: int
    content: slice


def _boxes(text: str) -> tuple[list[_Box], bool]:
    """The complete outermost boxes, and whether any was begun."""
    boxes: list[_Box] = []
    open_braces: list[tuple[int, int] | None] = []  # of a box: where it and where its content starts
    is_begun = False
    for token in _BOX_TOKEN.finditer(text):
        if token[1] is not None:
            boxes.append(_Box(start=token.start(), end=token.end(), content=slice(*token.span(1))))
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}":
            if open_braces and (box := open_braces.pop()):
                start, content_start = box
                content = slice(content_start, token.start())
                inner = []
                while boxes and boxes[-1].start > start:
                    inner.append(boxes.pop())
                if len(inner) == 1 and _is_all_of(inner[0], text, content):
                    content = inner[0].content
                boxes.append(_Box(start=start, end=token.end(), content=content))
        elif len(token[0]) > 2:
            is_begun = True
            open_braces.append((token.start(), token.end()))
    return boxes, is_begun


def _is_all_of(box: _Box, text: str, content: slice) -> bool:
    return not (text[content.start : box.start].strip() or text[box.end : content.stop].strip())


def _joined(text: str, boxes: list[_Box]) -> str:
    """Contents of the last box and of those before it that belong to it, with commas."""
    contents = [text[boxes[-1].content].strip()]
    for box, following in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        if not _BETWEEN_BOXES.fullmatch(text, box.end, following.start):
            break
        contents.append(text[box.content].strip())
    # With a space: 100,200 is one number.
    return ", ".join(filter(None, dict.fromkeys(reversed(contents))))


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
    text = text.strip()
    return (text[:-1] if text.endswith((".", ",")) else text).rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainNumber:
    r"""A number written as 1234, 1,234, -0.5, 3/4 or \frac{3}{4}."""

    value: Fraction
    is_decimal: bool
    """Written with a point, so perhaps rounded."""


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
    """Rounded to so many places if one of them is a decimal, exactly otherwise.

    But a small number, of which half of those places are 0, must agree to so many significant digits, and
    only 0 equals 0.
    """
    if not (true.is_decimal or given.is_decimal):
        return true.value == given.value
    if abs(true.value) * 10 ** (decimal_places // 2) < 1:
        return abs(true.value - given.value) <= abs(true.value) / (2 * 10**decimal_places)
    return round(true.value, decimal_places) == round(given.value, decimal_places)


def is_list_or_number(text: str) -> bool:
    """Whether it is 100,200, which may be one number or two."""
    return _LIST_OR_NUMBER.fullmatch(text) is not None


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
