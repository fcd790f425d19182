"""An answer that lost a sign, a digit or a letter of the truth is wrong, whichever it is."""

from __future__ import annotations

import json
import re

import pytest

from tests.shared.paths import FIXTURES
from verifiers.math.config import MathConfig
from verifiers.math.verifier import MathVerifier
from verifiers.types import Problem

KINDS = ("variable", "name", "polynomial", "root", "chain", "complex", "matrix", "set", "interval")
TRUTHS = sorted(
    {
        pair["gold"]
        for pair in map(json.loads, (FIXTURES / "math_corpus.jsonl").read_text().splitlines())
        if pair["kind"] in KINDS
    }
)
PARTS = re.compile(r"\\[a-zA-Z]+|[0-9]|[a-zA-Z]|\S")
# Without them the text means the same, or is no longer in one piece.
HARMLESS = {
    r"\left",
    r"\right",
    r"\text",
    r"\mathrm",
    r"\cdot",
    r"\,",
    r"\;",
    "\\",
    "{",
    "}",
    "$",
    "~",
    r"\quad",
    r"\mathbf",
}
# A unit, and the name of a value, may be left out.
MAY_BE_LOST = re.compile(
    r"^[a-zA-Z]\w*\(?[a-zA-Z]?\)? ?= ?|\\text\{[^{}]*\}|\\mathrm\{[^{}]*\}|\\frac\{\\text.*|km|\bcm\b|\+(?=\\infty)"
)


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier(MathConfig(), timeout_s=2.0)


def accepted_without(verifier: MathVerifier, truth: str) -> list[str]:
    """The parts without which the truth is still taken for itself."""
    problem = Problem(id="p", prompt="", truth={"answer": truth})
    may_be_lost = [match.span() for match in MAY_BE_LOST.finditer(truth)]
    lost = []
    for part in PARTS.finditer(truth):
        if part[0] in HARMLESS or any(start <= part.start() < end for start, end in may_be_lost):
            continue
        answer = truth[: part.start()] + " " + truth[part.end() :]
        if answer.strip() and verifier.verify(problem, rf"\boxed{{{answer}}}").reward:
            lost.append(part[0])
    return lost


def test_no_part_of_a_formula_a_list_or_a_set_can_be_lost(verifier: MathVerifier):
    assert len(TRUTHS) > 150
    lost = {truth: accepted_without(verifier, truth) for truth in TRUTHS}
    # .5 is 0.5, a comma before "and" says nothing, what is left of 0 = 0 is 0, and A(1,2) is the point A.
    assert {truth: set(parts) for truth, parts in lost.items() if parts} == {
        "0 = 0": {"0"},
        "0.5 g": {"0"},
        "12, 13, and 14": {","},
        "A=(1,2), B=(3,4)": {"="},
        "P(A)=0.3": {"0"},
        "P(X>2)=0.3": {"0"},
    }
