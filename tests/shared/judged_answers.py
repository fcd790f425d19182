"""Rewards of the verifier `math`, for tables of a truth, answers that are right, and answers that are wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from verifiers.math.verifier import MathVerifier
from verifiers.types import Problem

Judged = tuple[str, list[str], list[str]]


def rewards(verifier: MathVerifier, truth: str, completions: Sequence[str]) -> dict[str, float]:
    problem = Problem(id="p", prompt="", truth={"answer": truth})
    return {completion: verifier.verify(problem, completion).reward for completion in completions}


def check_boxed(verifier: MathVerifier, table: Iterable[Judged]) -> None:
    """Every truth and right answer gets 1 in a box, and every wrong one 0."""
    for truth, right, wrong in table:
        boxes = [[rf"\boxed{{{answer}}}" for answer in answers] for answers in ([truth, *right], wrong)]
        assert rewards(verifier, truth, boxes[0]) == dict.fromkeys(boxes[0], 1.0), truth
        assert rewards(verifier, truth, boxes[1]) == dict.fromkeys(boxes[1], 0.0), truth
