"""What k samples of a problem are worth, by problem.

Shapes: `P` problems, `K` values of k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch

from actors.types import Judgement
from learner.objectives.estimators import bon_value
from learner.objectives.majority import vote_values


def pass_at_k(judgements: Sequence[Judgement], ks: Sequence[int]) -> np.ndarray:
    """[P, K] mean, over all k-subsets of a problem's samples, of the highest reward in the subset."""
    rewards = _stack([judgement.rewards for judgement in judgements])
    return torch.stack([bon_value(rewards, rewards, k) for k in ks], dim=1).numpy()


def best_of_k(judgements: Sequence[Judgement], ks: Sequence[int]) -> np.ndarray:
    """[P, K] the same mean, of the reward of the sample with the highest score, ties averaged."""
    scores, rewards = _stack([one.scores for one in judgements]), _stack([one.rewards for one in judgements])
    return torch.stack([bon_value(scores, rewards, k) for k in ks], dim=1).numpy()


def win_rate_at_k(
    judgements: Sequence[Judgement], base_scores_PN: np.ndarray, ks: Sequence[int]
) -> np.ndarray:
    """[P, K] the same mean, of the share of the base's samples of the problem that have a lower score than the highest in the
    subset, ties by half; NaN from k = n on.

    Sample i of a model and of its base are drawn with the same seed, and may be alike. So a subset is compared with the base's
    samples of other numbers alone. With the samples in the order of their scores, of which r are before the one at place
    r, it is the highest of C(r, k - 1) subsets; one before it is outside of (r - k + 1) / r of them, one behind it of all:

        (1 / C(n, k)) sum_r C(r, k - 1) / (n - k) ((r - k + 1) / r sum_{p < r} W_rp + sum_{p > r} W_rp)

    W_rp being 1, 1/2 or 0 as the base's sample with the number of the one at place p has a lower score, the same or a
    higher one.
    """
    return np.stack(
        [
            _win_rates(one.scores, base_scores_N, ks)
            for one, base_scores_N in zip(judgements, base_scores_PN, strict=True)
        ]
    )


def _win_rates(scores_N: np.ndarray, base_scores_N: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """[K] of one problem."""
    n = len(scores_N)
    order = np.argsort(scores_N, kind="stable")
    scores_R1, base_1R = scores_N[order][:, None], base_scores_N[order][None]
    wins_RR = (base_1R < scores_R1) + (base_1R == scores_R1) / 2
    before_R, behind_R = np.tril(wins_RR, -1).sum(axis=1), np.triu(wins_RR, 1).sum(axis=1)
    places_R = np.arange(n)
    rates_K = np.full(len(ks), np.nan)
    for column, k in enumerate(ks):
        if k < n:
            outside_R = np.maximum(places_R - k + 1, 0) / np.maximum(places_R, 1)
            rates_K[column] = _highest(n, k) @ (outside_R * before_R + behind_R) / (n - k)
    return rates_K


@lru_cache
def _highest(n: int, k: int) -> np.ndarray:
    """[R] in what share of the k-subsets of n ordered samples the one at each place is the highest."""
    return np.array([math.comb(r, k - 1) / math.comb(n, k) for r in range(n)])


def vote_at_k(judgements: Sequence[Judgement], ks: Sequence[int]) -> np.ndarray | None:
    """[P, K] the same mean, of the reward of the most frequent answer; None if no sample has an answer."""
    if all(answer is None for judgement in judgements for answer in judgement.answers):
        return None
    return np.stack([vote_values(one.answers, one.rewards, ks) for one in judgements])


METRICS: dict[str, Callable[[Sequence[Judgement], Sequence[int]], np.ndarray | None]] = {
    "pass_at_k": pass_at_k,
    "best_of_k": best_of_k,
    "majority_at_k": vote_at_k,
}
"""Those that need no other samples."""


def per_problem(judgements: Sequence[Judgement], ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Every metric that can be computed, as float64 [P, K]; rows in the order of `judgements`."""
    values = {name: metric(judgements, ks) for name, metric in METRICS.items()}
    return {name: value for name, value in values.items() if value is not None}


def _stack(rows: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows))
