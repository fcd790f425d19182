r"""Forms with a notation of their own: times of day, ratios, numbers in a base."""

from __future__ import annotations

import re

from verifiers.math.forms import BaseNumber, Form, Named, Ratio, TimeOfDay
from verifiers.math.formula import parse_formula
from verifiers.math.relations import RELATIONS
from verifiers.math.signs import words
from verifiers.math.splitting import split_at
from verifiers.math.tokens import Token, flat, normal_text, tokenize

NUMBER_NAMES = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)

_TIME = re.compile(r"([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?\s*([aApP]\s?\.?\s?[mM]\s?\.?)?")
_DIGITS = r"\(?(-?[0-9A-F]*[0-9][0-9A-F]*(?:\.[0-9A-F]+)?)\)?"
_BASE = re.compile(
    rf"{_DIGITS}(?:_\{{?\(?(?:base)?|\(?(?:in)?base)([0-9]{{1,2}}|{'|'.join(NUMBER_NAMES[2:])})\)?\}}?"
)


def read_time(tokens: list[Token]) -> Form | None:
    """`4:30 p.m.`, `12:50`, `4 PM`."""
    text = flat(tokens)
    if text.lower() in ("noon", "midnight"):
        return TimeOfDay(43_200 if text.lower() == "noon" else 0, True)
    if text.lower().endswith((" noon", " midnight")):
        return read_time(tokenize(text.lower().replace("noon", "pm").replace("midnight", "am")))
    match = _TIME.fullmatch(text)
    if not match or not (match[2] or match[4]):
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    if minute > 59 or second > 59 or hour > 24:
        return None
    has_half = hour > 12 or hour == 0
    if half := match[4]:
        if has_half:
            return None
        hour = hour % 12 + (12 if half[0] in "pP" else 0)
        has_half = True
    return TimeOfDay(hour * 3600 + minute * 60 + second, has_half)


def read_ratio(tokens: list[Token]) -> Form | None:
    parts = split_at(tokens, (":", "to"))
    if len(parts) < 2 or any(not part for part in parts):
        return None
    if re.fullmatch(r"\([A-J]\)", flat(parts[0])):  # (C): 17
        return None
    if tokens[0].text.startswith("\\begin") or any(token.text in RELATIONS for token in tokens):
        return None
    return Ratio(tuple(parse_formula(part) for part in parts))


def read_named_ratio(tokens: list[Token]) -> Form | None:
    """`a:b = 3:4`."""
    sides = split_at(tokens, ("=",))
    if len(sides) != 2 or not all(sides) or len(split_at(sides[0], (":",))) < 2:
        return None
    ratio = read_ratio(sides[1])
    return Named(normal_text(sides[0]), (), ratio) if ratio else None


def read_base(tokens: list[Token]) -> Form | None:
    text = "".join(token.text.lower() if token.kind == "word" else token.text for token in tokens)
    if not (match := _BASE.fullmatch(text)):
        return None
    base = int(match[2]) if match[2].isdigit() else NUMBER_NAMES.index(match[2])
    if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in match[1] if digit.isalnum()):
        return None
    digits = match[1].lstrip("-").lstrip("0") or "0"
    return BaseNumber(("-" if match[1].startswith("-") else "") + digits, base)
