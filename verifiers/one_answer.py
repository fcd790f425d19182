"""Truths whose `answer` is published as a list, for the verifiers that compare with one answer."""

from __future__ import annotations

import dataclasses
from typing import Any

from verifiers.types import Problem


def as_one_answer(answer: Any) -> Any:
    """The one member of a list, `["2"]`; several as one text, `2, 3`. What is no list of texts or numbers stays."""
    if not isinstance(answer, list | tuple) or not answer:
        return answer
    if any(isinstance(member, bool) or not isinstance(member, str | int | float) for member in answer):
        return answer
    return answer[0] if len(answer) == 1 else ", ".join(map(str, answer))


def with_one_answer(problem: Problem) -> Problem:
    """The same problem, its truth's `answer` no list."""
    answer = problem.truth.get("answer")
    single = as_one_answer(answer)
    return (
        problem
        if single is answer
        else dataclasses.replace(problem, truth={**problem.truth, "answer": single})
    )


def why_no_answer_field(problem: Problem, verifier: str) -> str:
    """Of a truth without an `answer`: in one line, what it has and what to set."""
    known = ", ".join(map(repr, problem.truth)) or "nothing"
    return (
        f"problem {problem.id!r}: its truth has no 'answer', which verifier {verifier!r} compares with; it has {known}: set "
        "problems.truth_fields = { answer = FIELD }, or choose another verifier.reward"
    )
