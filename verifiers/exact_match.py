"""Exact match: the completion is the answer, give or take surrounding white space."""

from __future__ import annotations

from verifiers.one_answer import why_no_answer_field
from verifiers.types import Problem, Trial, Verdict


def verify(problem: Problem, completion: str) -> Verdict:
    """1 if the stripped completion equals the truth's `answer` as text. Its answer is that text, if any."""
    given = completion.strip()
    reward = 1.0 if given == str(problem.truth["answer"]).strip() else 0.0
    return Verdict(score=reward, reward=reward, answer=given or None)


def check_problem(problem: Problem) -> None:
    """Raise ValueError unless the problem's truth has an `answer` that a completion can equal."""
    answer = problem.truth.get("answer")
    if "answer" not in problem.truth:
        raise ValueError(why_no_answer_field(problem, "exact_match"))
    if not isinstance(answer, str | int | float) or not str(answer).strip():
        raise ValueError(
            f"problem {problem.id!r}: truth 'answer' is {answer!r}, verifier 'exact_match' needs a text or "
            "a number: add it to the problem or set verifier.reward"
        )


def trials(problem: Problem) -> list[Trial]:
    """The truth itself."""
    return [Trial(completion=str(problem.truth["answer"]), is_right=True)]
