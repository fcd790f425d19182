r"""The answer in a text that marks none: the last formula, number or bold label, near the word "answer" first."""

from __future__ import annotations

import re

_DENIED = re.compile(r"[^.\n]*\b(?:not|isn't|no)\s+(?:the|an|my)\s+(?:\w+\s+)?answer\b[^.\n]*")
# A dollar behind a sign is a price: of `$40 + $38 = $78` nothing is a formula.
_FORMULA = re.compile(
    r"\$\$([^$]{1,400})\$\$|\\\[((?:[^\\]|\\[^\]]){1,400})\\\]|\\\(((?:[^\\]|\\[^)]){1,400})\\\)"
    r"|(?<![\\$])\$(?=[^\s$])([^$\n]{1,400})(?<=[^\s\\=+*/-])\$(?![0-9])"
)
_SCALE = r"\s*(?:\\?%|(?:percent|hundred|thousand|million|billion|trillion|dozen)\b)"
_NUMBER = re.compile(
    r"(?<![\w.\\^_{√∛π])(?<![0-9]:)(?<![\w)]/)(?<!step )(?<!step)(?<!case )(?<!part )"
    r"([-+−–]?[$€£]?[-−]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|[-−]?\.[0-9]+)"
    rf"(\s*/\s*[0-9]+)?({_SCALE})?(?![\w]|[.:][0-9])",
    re.IGNORECASE,
)
_BOLD_LABEL = re.compile(r"\*\*\(?([A-J])\)?\.?\*\*")
_ANSWER = re.compile(r"\banswer\b", re.IGNORECASE)
_SCALE_BEHIND = re.compile(_SCALE, re.IGNORECASE)
# Between two formulas or numbers that are one answer: `x = 2 or x = 3`, but not `a = 2 and b = 3`.
_JOINER = re.compile(r"\s*,?\s*(or|and)\s+(?:[a-zA-Z]\s*=\s*)?")
_NAME = re.compile(r"\b([a-zA-Z])\s*=")
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
        return ", ".join(_content(match) + _scale(text, match) for match in _joined(text, formulas))
    numbers = list(_NUMBER.finditer(text))
    if numbers:
        return ", ".join(_number(text, match) for match in _joined(text, numbers))
    labels = _BOLD_LABEL.findall(text)
    return labels[-1] if labels else None


def _first(text: str) -> str | None:
    """What stands first and near: a formula before a number, since it holds numbers too."""
    formula, number = _FORMULA.search(text), _NUMBER.search(text)
    near = [match for match in (formula, number) if match and match.start() <= NEAR_CHARS]
    if not near:
        return None
    if formula in near and formula is not None:
        return _content(formula) + _scale(text, formula)
    return _number(text, near[0])


def _joined(text: str, matches: list[re.Match[str]]) -> list[re.Match[str]]:
    """The last of them and those before it that are its alternatives."""
    kept = matches[-1:]
    for match in matches[-2::-1]:
        joiner = _JOINER.fullmatch(text, match.end(), kept[0].start())
        name = _name(text, match)
        if not joiner or (joiner[1] == "and" and (name is None or name != _name(text, kept[0]))):
            break
        kept.insert(0, match)
    return kept


def _name(text: str, match: re.Match[str]) -> str | None:
    """What the formula, or the text before the number, says that it is the value of."""
    before = _content(match) if match.re is _FORMULA else text[max(0, match.start() - 5) : match.start()]
    name = _NAME.search(before)
    return name[1] if name else None


def _scale(text: str, formula: re.Match[str]) -> str:
    """`$17$ thousand`."""
    behind = _SCALE_BEHIND.match(text, formula.end())
    return behind[0] if behind else ""


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


def _number(text: str, match: re.Match[str]) -> str:
    sign = "-" if _MINUS.search(text[: match.start()]) else ""
    return sign + match[0]
