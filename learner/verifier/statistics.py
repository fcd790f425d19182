"""How good scores are at telling right from wrong, and how far they can be read as probabilities.

Shapes: `P` problems, `N` samples of one of them, `M` samples in all, `K` values of k, `S` resamples, `L` distinct
scores, `Q` bins. A score may be -inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from learner.objectives.estimators import bon_value
from learner.objectives.statistics import resampled_means

NUM_AUC_RESAMPLES = 2000
"""Each sorts nothing, but passes over all samples."""
RESAMPLES_AT_A_TIME = 32
NUM_BINS = 10


def auc(scores_M: np.ndarray, labels_M: np.ndarray, weights_SM: np.ndarray) -> np.ndarray:
    """P(a correct sample has a higher score than a wrong one) + P(equal scores) / 2, the area under the ROC curve.

    Args:
        labels_M: 0 or 1.
        weights_SM: how often each sample counts, a row for each answer.

    Returns:
        float64 [S]; NaN where all that counts is correct, or wrong.
    """
    order = np.argsort(scores_M, kind="stable")
    _, starts = np.unique(scores_M[order], return_index=True)
    weights_SM = weights_SM[:, order]
    correct_SL = np.add.reduceat(weights_SM * labels_M[order], starts, axis=1)
    wrong_SL = np.add.reduceat(weights_SM * (1 - labels_M[order]), starts, axis=1)
    below_SL = np.cumsum(wrong_SL, axis=1) - wrong_SL
    won_S = (correct_SL * (below_SL + wrong_SL / 2)).sum(axis=1)
    pairs_S = correct_SL.sum(axis=1) * wrong_SL.sum(axis=1)
    return np.divide(won_S, pairs_S, out=np.full(len(won_S), np.nan), where=pairs_S > 0)


def auc_interval(
    scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], *, seed: int
) -> tuple[float, float, float]:
    """AUC over all samples of all problems, and its 95 % bootstrap interval over problems.

    Args:
        scores, labels: of each problem, [N].
    """
    scores_M, labels_M = np.concatenate(list(scores)), np.concatenate(list(labels))
    problem_M = np.repeat(np.arange(len(scores)), [len(one) for one in scores])
    identity_PP = torch.eye(
        len(scores), dtype=torch.float64
    )  # its resampled mean is how often each was drawn
    drawn_SP = resampled_means(identity_PP, num_resamples=NUM_AUC_RESAMPLES, seed=seed).numpy()
    resampled_S = np.concatenate(
        [
            auc(scores_M, labels_M, drawn_SP[start : start + RESAMPLES_AT_A_TIME][:, problem_M])
            for start in range(0, len(drawn_SP), RESAMPLES_AT_A_TIME)
        ]
    )
    low, high = np.quantile(resampled_S, [0.025, 0.975])
    return float(auc(scores_M, labels_M, np.ones((1, len(scores_M))))[0]), float(low), float(high)


def auc_by_problem(scores: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> np.ndarray:
    """float64 [P]: each problem's own AUC, what ranking its candidates is worth; NaN without both labels."""
    return np.array(
        [
            auc(scores_N, labels_N, np.ones((1, len(scores_N))))[0]
            for scores_N, labels_N in zip(scores, labels, strict=True)
        ]
    )


def best_of_k(
    scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Unbiased accuracy [P, K] of the answer chosen from k: by `chance`, by the `verifier`, by the `oracle` (pass@k)."""
    size = max(map(len, scores))
    mask_PN = torch.tensor([[n < len(one) for n in range(size)] for one in scores])
    scores_PN, labels_PN = (
        torch.tensor(np.stack([np.pad(one, (0, size - len(one))) for one in rows]))
        for rows in (scores, labels)
    )
    selects = {"chance": torch.zeros_like(scores_PN), "verifier": scores_PN, "oracle": labels_PN}
    return {
        name: torch.stack([bon_value(by_PN, labels_PN, k, mask=mask_PN) for k in ks], dim=1).numpy()
        for name, by_PN in selects.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What happened where the verifier said p. Bins hold equally many samples, as far as ties allow."""

    mean_probabilities: tuple[float, ...]  # Q, ascending
    shares_correct: tuple[float, ...]  # Q
    counts: tuple[int, ...]  # Q
    expected_error: float
    """Mean |share correct - mean probability|, bins weighted by their samples (Guo et al., arXiv 1706.04599)."""
    brier: float
    """Mean (probability - label)^2."""
    brier_of_base_rate: float
    """The same for a verifier that always says the share of correct samples."""


def calibration(probabilities_M: np.ndarray, labels_M: np.ndarray, num_bins: int = NUM_BINS) -> Calibration:
    """Reliability of probabilities. Equal ones share a bin: where an edge falls among them, the lower takes all."""
    edges = np.unique(np.quantile(probabilities_M, np.linspace(0, 1, num_bins + 1)[1:-1]))
    bin_M = np.searchsorted(edges, probabilities_M, side="left")
    used_Q, bin_M = np.unique(bin_M, return_inverse=True)
    counts_Q = np.bincount(bin_M, minlength=len(used_Q))
    said_Q = np.bincount(bin_M, weights=probabilities_M) / counts_Q
    happened_Q = np.bincount(bin_M, weights=labels_M) / counts_Q
    base_rate = labels_M.mean()
    return Calibration(
        mean_probabilities=tuple(said_Q.tolist()),
        shares_correct=tuple(happened_Q.tolist()),
        counts=tuple(counts_Q.tolist()),
        expected_error=float((counts_Q * np.abs(happened_Q - said_Q)).sum() / counts_Q.sum()),
        brier=float(((probabilities_M - labels_M) ** 2).mean()),
        brier_of_base_rate=float(base_rate * (1 - base_rate)),
    )
