"""Exact match: the completion is the answer, give or take surrounding white space."""

from __future__ import annotations

from verifiers.types import Problem, Verdict

_RIGHT = Verdict(score=1.0, reward=1.0)
_WRONG = Verdict(score=0.0, reward=0.0)


def verify(problem: Problem, completion: str) -> Verdict:
    """1 if the stripped completion equals the truth's `answer` as text."""
    return _RIGHT if completion.strip() == str(problem.truth["answer"]).strip() else _WRONG


def check_problem(problem: Problem) -> None:
    """Raise ValueError unless the problem's truth has an `answer` that a completion can equal."""
    answer = problem.truth.get("answer")
    if not isinstance(answer, str | int | float) or not str(answer).strip():
        raise ValueError(
            f"problem {problem.id!r}: truth 'answer' is {answer!r}, verifier 'exact_match' needs a text or "
            "a number: add it to the problem or set verifier.name"
        )
