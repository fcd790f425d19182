"""Casting out nines: a verifier with systematic false positives, for the study's imperfect-verifier arms.

It accepts an expression that uses the right numbers and whose value equals the target modulo 9. On
the base model's samples it accepts about a third more than are right, and always the same ones: more
samples do not average its errors away.
"""

from __future__ import annotations

from verifiers.countdown import expressions, puzzles
from verifiers.types import Problem, Verdict

check_problem = puzzles.check_problem


def selects(problem: Problem, completion: str) -> Verdict:
    """Score: what casting out nines says. Reward: the truth."""
    truth = puzzles.verify(problem, completion)
    return Verdict(
        score=_accepts(problem, completion),
        reward=truth.reward,
        status=truth.status,
        answer=truth.answer,
    )


def rewards(problem: Problem, completion: str) -> Verdict:
    """Score and reward: what casting out nines says; nobody knows the truth."""
    accepted = _accepts(problem, completion)
    truth = puzzles.verify(problem, completion)
    return Verdict(score=accepted, reward=accepted, status=truth.status, answer=truth.answer)


def _accepts(problem: Problem, completion: str) -> float:
    postfix = expressions.to_postfix(completion)
    if postfix is None:
        return 0.0
    numbers = sorted(item for item in postfix if isinstance(item, int))
    if numbers != sorted(problem.truth["numbers"]):
        return 0.0
    value = expressions.evaluate(postfix)
    if value is None or value.denominator != 1:
        return 0.0
    return float((value - problem.truth["target"]) % 9 == 0)
