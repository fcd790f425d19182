r"""The answer in a text that marks none: the last formula or number, near the word "answer" first."""

from __future__ import annotations

import re

_DENIED = re.compile(r"[^.\n]*\b(?:not|isn't|no)\s+(?:the|an|my)\s+(?:\w+\s+)?answer\b[^.\n]*")
_FORMULA = re.compile(
    r"\$\$([^$]{1,400})\$\$|\\\[((?:[^\\]|\\[^\]]){1,400})\\\]|\\\(((?:[^\\]|\\[^)]){1,400})\\\)"
    r"|(?<![\\$])\$(?=[^\s$])([^$\n]{1,400})(?<=[^\s\\])\$(?![0-9])"
)
_NUMBER = re.compile(
    r"(?<![\w.\\^_{])(?<!step )(?<!step)(?<!case )(?<!part )"
    r"([-+−–]?[$€£]?[-−]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|[-−]?\.[0-9]+)"
    r"(\s*/\s*[0-9]+)?(\s*(?:\\?%|percent\b))?(?![\w]|\.[0-9])",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"\banswer\b", re.IGNORECASE)
_MINUS = re.compile(r"\b(?:minus|negative)\s+$", re.IGNORECASE)
NEAR_CHARS = 60


def answer_in_prose(text: str) -> str | None:
    """The text of that formula or number, None where there is none. Of an equation, all of it."""
    text = _DENIED.sub("", text)
    marks = list(_ANSWER.finditer(text))
    if marks:
        nearby = text[marks[-1].end() :]
        found = _first(nearby)
        if found is not None:
            return found
    formulas = [match for match in _FORMULA.finditer(text)]
    if formulas:
        return _content(formulas[-1])
    numbers = list(_NUMBER.finditer(text))
    return _number(text, numbers[-1]) if numbers else None


def _first(text: str) -> str | None:
    """What stands first and near: a formula before a number, since it holds numbers too."""
    formula, number = _FORMULA.search(text), _NUMBER.search(text)
    near = [match for match in (formula, number) if match and match.start() <= NEAR_CHARS]
    if not near:
        return None
    if formula in near:
        return _content(formula)
    return _number(text, near[0])


def _content(match: re.Match[str] | None) -> str:
    assert match
    return next(group for group in match.groups() if group is not None)


def _number(text: str, match: re.Match[str]) -> str:
    sign = "-" if _MINUS.search(text[: match.start()]) else ""
    return sign + match[0]
