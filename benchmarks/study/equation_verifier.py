"""A verifier of equations that is learned from samples and knows no truth: logistic regression on what question and equation show.

It reads which operations an equation has, beside which words of the question, and on which of its numbers. Small enough
to be learned anew wherever its samples are: the same samples give the same verifier.

Shapes: `A` different answers of all questions, `F` features.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit

from benchmarks.study.equations import INVENTED, numbers, operands, operations, plan

PENALTY = 30.0
"""Half of it times the sum of the squared weights is added to the loss, which is summed over samples. Of 1 to 100 the best on a
fifth of the training problems, when learned from the others.
"""
MAX_STEPS = 300


class EquationVerifier:
    """Scores an equation by the log-odds that it is right."""

    def __init__(
        self, questions: Sequence[str], texts: Sequence[Sequence[str]], rewards: Sequence[Any]
    ) -> None:
        """Learn from the samples of each question and their rewards, right above 0.

        Raises ValueError where all are right, or all wrong.
        """
        counts = Counter(
            (question, text, reward > 0)
            for question, own, judged in zip(questions, texts, rewards, strict=True)
            for text, reward in zip(own, judged, strict=True)
        )
        self._places: dict[str, int] = {}
        rows = [
            [self._places.setdefault(one, len(self._places)) for one in features(q, t)] for q, t, _ in counts
        ]
        right_A = np.array([is_right for *_, is_right in counts], float)
        if right_A.min() == right_A.max():
            raise ValueError("of samples that are all right or all wrong no verifier can be learned")
        matrix_AF, num_A = self._matrix(rows), np.array(list(counts.values()), float)

        def loss(weights_F: np.ndarray) -> tuple[float, np.ndarray]:
            logits_A = matrix_AF @ weights_F
            losses_A = np.logaddexp(0, logits_A) - right_A * logits_A
            slopes_A = num_A * (expit(logits_A) - right_A)
            penalty = 0.5 * PENALTY * float(weights_F @ weights_F)
            return float(num_A @ losses_A) + penalty, matrix_AF.T @ slopes_A + PENALTY * weights_F

        start_F = np.zeros(len(self._places))
        found = minimize(loss, start_F, jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS})
        self._weights_F = found.x

    def scores(self, question: str, texts: Sequence[str]) -> np.ndarray:
        """float64 [n], of each text."""
        known = [
            [self._places[one] for one in features(question, text) if one in self._places] for text in texts
        ]
        return np.asarray(self._matrix(known) @ self._weights_F, np.float64)

    def _matrix(self, rows: Sequence[Sequence[int]]) -> csr_matrix:
        indices = [place for row in rows for place in row]
        starts = np.cumsum([0, *map(len, rows)])
        return csr_matrix((np.ones(len(indices)), indices, starts), shape=(len(rows), len(self._places)))


def features(question: str, text: str) -> Iterator[str]:
    """What is there, by name; each once."""
    given = numbers(question)
    planned = plan(question, text)
    used = operands(planned)
    strategy = operations(planned) or "none"
    places = [str(given.index(one)) if one in given else INVENTED for one in used]
    yield "any"  # what a strategy never seen is worth
    yield strategy
    yield f"{strategy} on {' '.join(places)} of {len(given)}"
    yield f"on {' '.join(sorted(places))} of {len(given)}"
    yield f"{len(used) - len(set(used))} twice, {len(set(given) - set(used))} left, {used.count(INVENTED)} invented"
    if len(used) > 1 and INVENTED not in used[:2]:
        yield f"{strategy} greater first: {float(used[0]) > float(used[1])}"
    asked = re.split(r"[.!,]", question)[-1]
    for name, part in (("says", question), ("asks", asked)):
        for word in dict.fromkeys(re.findall(r"[a-z]+", part.lower())):
            yield f"{strategy} {name} {word}"
    words = re.findall(r"[a-z]+", asked.lower())
    for pair in dict.fromkeys(pairwise(words)):
        yield f"{strategy} asks {' '.join(pair)}"
