"""What k samples of a problem are worth, by problem.

Shapes: `P` problems, `K` values of k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from actors.types import Judgement
from learner.objectives.calibration import rank_vs_base
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
    judgements: Sequence[Judgement], base_scores_PM: np.ndarray, ks: Sequence[int]
) -> np.ndarray:
    """[P, K] the same mean, of the share of the base's samples of the problem that have a lower score, ties by half."""
    scores = _stack([one.scores for one in judgements])
    ranks = rank_vs_base(scores, torch.from_numpy(base_scores_PM))
    return torch.stack([bon_value(scores, ranks, k) for k in ks], dim=1).numpy()


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
