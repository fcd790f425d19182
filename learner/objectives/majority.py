"""majority@k: the reward of the most frequent of k answers, exactly, in milliseconds a prompt.

Shapes: `A` answers of one prompt, `K` values of k, `V` nodes of a quadrature, `C` classes of answers
that equally many samples gave, `X` coefficients of a polynomial in x, from x^0 on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

LOG_SMALLEST_PROBABILITY = math.log(1e-200)
"""Of a k, under the odds that it is computed with: what float64 loses below 1e-308 is nothing beside it."""


def majority_values(
    answer_counts: Sequence[int], answer_rewards: Sequence[float], ks: Sequence[int], *, num_silent: int = 0
) -> np.ndarray:
    """Unbiased estimates of E[reward of the answer with most votes among k samples]; one prompt.

    Ties are broken uniformly. The k samples are drawn from all n, those without an answer included:
    they cost as much as the others, but do not vote. If none of the k votes, the reward is 0. With
    rewards of 0 and 1 it is the probability that the winner is right; several answers may be.

    It is the exact average over all k-subsets of the n samples: the sum over answers a of
    `answer_rewards[a]` times

        P(a wins) = (1 / C(n, k)) sum_v C(m_a, v) int_0^1 [x^(k-v)] (1 + x)^m_silent prod_{b != a} F_b(x, y) dy
        F_b(x, y) = sum_{j<v} C(m_b, j) x^j + y C(m_b, v) x^v

    where a has v votes, y marks the answers that tie with it, and int y^t dy = 1 / (t + 1) is a's
    share among t + 1 winners. The integrand is a polynomial in y, so Gauss-Legendre quadrature is
    exact; no term is negative, so float64 loses nothing to cancellation. Answers that fewer than v
    samples gave are one binomial, (1 + x)^m; answers that equally many gave win equally often.

    Binomials of thousands of samples exceed float64. Therefore C(m, j) is computed as the probability
    C(m, j) s^j / (1 + s)^m, with odds s near k / (n - k): the powers of s and 1 + s cancel at the end.

    Args:
        answer_counts: [A] m_a, how many samples gave each distinct answer; positive.
        answer_rewards: [A] mean reward of those samples.
        num_silent: samples without an answer.

    Returns:
        float64 [K], NaN where there are fewer than k samples.
    """
    if min(ks) < 1:
        raise ValueError(f"k = {min(ks)} is not positive: pass at least 1")
    num_samples = sum(answer_counts) + num_silent
    num_equal = Counter(answer_counts)
    rewards = dict.fromkeys(num_equal, 0.0)
    for count, reward in zip(answer_counts, answer_rewards, strict=True):
        rewards[count] += reward
    value_of: dict[int, float] = {}
    for part, odds in _parts_with_odds(sorted({k for k in ks if k <= num_samples}), num_samples):
        value_of |= _values(part, odds, num_equal, rewards, num_silent)
    return np.array([value_of.get(k, math.nan) for k in ks])


def vote_values(
    answers: Sequence[str | None], rewards: Sequence[float] | np.ndarray, ks: Sequence[int]
) -> np.ndarray:
    """The same of one prompt's samples: [K], of the reward of the answer with most votes; None is no vote."""
    rewards_of: dict[str, list[float]] = {}
    for answer, reward in zip(answers, rewards, strict=True):
        if answer is not None:
            rewards_of.setdefault(answer, []).append(float(reward))
    return majority_values(
        [len(of_answer) for of_answer in rewards_of.values()],
        [float(np.mean(of_answer)) for of_answer in rewards_of.values()],
        ks,
        num_silent=list(answers).count(None),
    )


def _values(
    ks: Sequence[int], odds: float, num_equal: Counter[int], rewards: Mapping[int, float], num_silent: int
) -> dict[int, float]:
    """The value at each of the ascending `ks`; `rewards` is the sum over the answers of each count."""
    winners = [count for count, reward in rewards.items() if reward != 0]
    value_X = np.zeros(ks[-1] + 1)
    for votes in range(1, min(max(winners, default=0), ks[-1]) + 1):
        most_samples = num_silent + sum(min(count, votes) * num for count, num in num_equal.items())
        if most_samples < ks[0]:  # so few votes do not win among so many samples
            continue
        able = [count for count in winners if count >= votes]
        wins_CX = _ways_to_win(votes, able, num_equal, num_silent, ks[-1], odds)
        weights_C = [rewards[count] * probabilities(count, ks[-1], odds)[votes] for count in able]
        value_X[votes:] += weights_C @ wins_CX
    all_X = probabilities(num_silent + sum(num_equal.elements()), ks[-1], odds)
    return {k: float(value_X[k] / all_X[k]) for k in ks}


def _ways_to_win(
    votes: int, able: Sequence[int], num_equal: Counter[int], num_silent: int, largest_k: int, odds: float
) -> np.ndarray:
    """[C, X]: for an answer of each count in `able`, the integral above for `votes`, by powers of x."""
    rivals = [count for count in num_equal if count >= votes]
    num_votes_below = num_silent + sum(count * number for count, number in num_equal.items() if count < votes)
    most_ties = min(sum(num_equal[count] for count in rivals), largest_k // votes) - 1
    nodes_V, weights_V = quadrature(most_ties // 2 + 1)
    num_terms = largest_k + 1 - votes
    below_X = probabilities(num_votes_below, largest_k, odds)[:num_terms]
    product_CVX = np.broadcast_to(below_X, (len(able), len(nodes_V), num_terms))
    for count in rivals:
        probabilities_X = probabilities(count, largest_k, odds)
        factor_VX = np.zeros((len(nodes_V), num_terms))
        factor_VX[:, :votes] = probabilities_X[:votes][:num_terms]
        if votes < num_terms:
            factor_VX[:, votes] = nodes_V * probabilities_X[votes]
        others_VX = _power(factor_VX, num_equal[count] - 1)
        all_VX = _times(others_VX, factor_VX)
        factor_CVX = np.stack([others_VX if winner == count else all_VX for winner in able])
        product_CVX = _times(product_CVX, factor_CVX)
    return np.einsum("cvx,v->cx", product_CVX, weights_V)


def _times(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Products of polynomials [..., X], without the powers from x^X on."""
    num_terms = right.shape[-1]
    padded = np.zeros((*right.shape[:-1], 2 * num_terms - 1))
    padded[..., num_terms - 1 :] = right
    return np.einsum("...ij,...j->...i", sliding_window_view(padded, num_terms, axis=-1), left[..., ::-1])


def _power(base: np.ndarray, exponent: int) -> np.ndarray:
    """`base` [..., X] to a power, by repeated squaring."""
    result = np.zeros_like(base)
    result[..., 0] = 1.0
    while exponent:
        if exponent % 2:
            result = _times(result, base)
        exponent //= 2
        if exponent:
            base = _times(base, base)
    return result


@cache
def quadrature(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]; exact for polynomials of degree 2 num_nodes - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return (nodes + 1) / 2, weights / 2


def _parts_with_odds(ks: Sequence[int], num_samples: int) -> list[tuple[Sequence[int], float]]:
    """Ascending `ks` in parts, each with odds under which none of its ks has a vanishing probability."""
    if not ks:
        return []
    low, high = ks[0], ks[-1]
    if low == high:
        log_odds = math.log(low / (num_samples + 1 - low))
    else:  # both ends equally probable, and all between more so
        log_odds = (_log_binomial(num_samples, low) - _log_binomial(num_samples, high)) / (high - low)
    log_probability = (
        _log_binomial(num_samples, low) + low * log_odds - num_samples * math.log1p(math.exp(log_odds))
    )
    if low == high or log_probability > LOG_SMALLEST_PROBABILITY:
        return [(ks, math.exp(log_odds))]
    half = len(ks) // 2
    return _parts_with_odds(ks[:half], num_samples) + _parts_with_odds(ks[half:], num_samples)


def _log_binomial(m: int, j: int) -> float:
    return math.lgamma(m + 1) - math.lgamma(j + 1) - math.lgamma(m - j + 1)


@lru_cache(maxsize=4096)
def probabilities(m: int, largest_k: int, odds: float) -> np.ndarray:
    """[largest_k + 1] C(m, j) odds^j / (1 + odds)^m, by the ratios of neighbours outwards from the largest."""
    j = np.arange(1, m + 1)
    ratios = (m - j + 1) / j * odds
    mode = int((ratios > 1).sum())
    falling = np.cumprod(1 / ratios[:mode][::-1])[::-1]
    all_X = np.concatenate([falling, [1.0], np.cumprod(ratios[mode:])])
    row_X = np.zeros(largest_k + 1)
    row_X[: m + 1] = (all_X / all_X.sum())[: largest_k + 1]
    return row_X
