"""A verifier of one's own: any of the numbers, each at most once, must reach the goal."""

from collections import Counter

from verifiers.countdown.expressions import evaluate, to_postfix


def score(problem, completion: str) -> float:
    postfix = to_postfix(completion)  # yours to replace; None: it is no expression
    if postfix is None:
        return 0.0
    used = Counter(item for item in postfix if isinstance(item, int))
    allowed = used <= Counter(problem.truth["may_use"])
    return float(allowed and evaluate(postfix) == problem.truth["goal"])
