"""What programs printed, compared with what they were to print. Standard library only: the checker does it, inside.

`lines`, as LiveCodeBench has it: as many lines, without white space and empty lines at the ends of the text, and in
each line the same tokens. `tokens`, as CodeContests has it: the same tokens, however they are spread over lines.
Two tokens are the same if their texts are; or if both are decimal numbers without leading zeros and, where the
expected one is written as an integer, equal, else not further apart than TOLERANCE, absolutely or relatively.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from verifiers.sandbox.values import Channel, ValueRefusedError

COMPARISONS = ("lines", "tokens")
TOLERANCE = Decimal("1e-6")
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
MAX_DIGITS = 400
"""Longer tokens are compared as texts."""


def same_output(printed: str, expected: str, compare: str) -> bool:
    if printed == expected:
        return True
    if compare == "tokens":
        rows = [printed.split()], [expected.split()]
    else:
        rows = _lines(printed), _lines(expected)
    return len(rows[0]) == len(rows[1]) and all(
        len(given) == len(wanted) and all(map(_same_token, given, wanted))
        for given, wanted in zip(*rows, strict=True)
    )


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().replace("\r\n", "\n").split("\n")]


def _same_token(printed: str, expected: str) -> bool:
    if printed == expected:
        return True
    if max(len(printed), len(expected)) > MAX_DIGITS:
        return False
    if not (_NUMBER.fullmatch(printed) and _NUMBER.fullmatch(expected)):
        return False
    given, wanted = Decimal(printed), Decimal(expected)
    if _INTEGER.fullmatch(expected):
        return given == wanted
    return abs(given - wanted) <= TOLERANCE * max(Decimal(1), abs(wanted))


def run_cases(job: dict[str, Any], channel: Channel, outcome: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a program that was given each input; EOFError and OSError if its process is gone."""
    failures, cases = 0, job["cases"]
    for number, (given, expected) in enumerate(cases):
        channel.send(given)
        try:
            kind, text = channel.receive()
        except (TypeError, ValueError) as error:
            kind, text = "failed", "no reply of the protocol"
            if isinstance(error, ValueRefusedError):
                text = str(error)
        if kind == "too large":
            return {**outcome, "kind": "too_large", "detail": str(text)[:500]}
        if kind == "printed" and isinstance(text, str):
            if same_output(text, expected, job["compare"]):
                continue
            text = f"{_shown(text)} is printed for {_shown(given)}, not {_shown(expected)}"
        failures += 1
        outcome["detail"] = outcome["detail"] or f"input {number}: {text}"[:500]
        if not job["run_all"]:
            failures += len(cases) - number - 1
            break
    outcome["passed"] = len(cases) - failures
    if not failures:
        outcome |= {"kind": "passed", "detail": ""}
    return outcome


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]} ...")
