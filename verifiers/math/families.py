r"""Answers for every whole number: `\frac{\pi}{4} + k\pi, k \in \mathbb{Z}`, which is the same with n for k."""

from __future__ import annotations

import re
from dataclasses import replace

from verifiers.math.tokens import Token

PARAMETER = "ℤ"
"""The letter that stands for the number, whatever the text calls it; no text has it: `\\mathbb{Z}` is written for it."""

_DOMAINS = {
    **dict.fromkeys((r"\mathbbZ", "Z", "integer", "whole number"), "Z"),
    **dict.fromkeys((r"\mathbbN", "N"), "N"),
    **dict.fromkeys((r"\mathbbN^*", "N^*", r"\mathbbN_+", r"\mathbbN^+", "N_+", r"\mathbbZ^+", "Z^+"), "N^*"),
}
_CONDITION = re.compile(
    r"(?:,|\(|,?(?:for|where)(?:any|all|every|some)?)(?:(?:any|all|every)?integers?([a-z])|([a-z])(?:\\in|is(?:an|any))"
    r"(integer|wholenumber|\\?(?:mathbb)?[ZN](?:[\^_](?:\{[*+]\}|[*+]))?))"
)


def without_parameter(tokens: list[Token]) -> tuple[list[Token], str] | None:
    """What stands before the condition, with PARAMETER for its letter, and the numbers it ranges over."""
    for start in range(1, len(tokens)):
        if tokens[start].text not in (",", "(", "for", "where"):
            continue
        condition, body = tokens[start:], tokens[:start]
        if condition[0].text == "(" and condition[-1].text == ")":
            condition = condition[:-1]
        match = _CONDITION.fullmatch("".join(token.text for token in condition))
        if match is None:
            continue
        letter = match[1] or match[2]
        renamed = [
            replace(token, kind="letter", text=PARAMETER) if _is_letter(token, letter) else token
            for token in body
        ]
        domain = _DOMAINS.get((match[3] or "Z").replace("{", "").replace("}", ""))
        return (renamed, domain) if domain and renamed != body else None
    return None


def _is_letter(token: Token, letter: str) -> bool:
    return token.kind in ("letter", "word") and token.text == letter
