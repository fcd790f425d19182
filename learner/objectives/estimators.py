"""Unbiased estimators of Best-of-N values and of their gradients, for any verifier and any reward.

Shapes: `B` prompts, `N` samples of each. In formulas n is that number of samples, N is `num_select`,
r a score (it selects), R a reward (it is what we want), pi the policy as sampled from, and

    h(I)    = mean R over the members of I with the highest r: what selecting from I is worth
    J_k     = E[h(Y_1 .. Y_k)], Y_i ~ pi: the Best-of-k value of a prompt
    Jhat_k  = average of h(I) over all I of k samples: unbiased for J_k
    s_i^(k) = the same sum over only those I that contain i, still divided by C(n, k)

Equal scores tie and ties are broken uniformly; a NaN score counts as -inf and +inf as the largest
finite number. Everything is float64 and closed form, O(n log n). Evaluation-only statistics live in
`learner.objectives.statistics` and `learner.objectives.majority` and are importable from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from learner.objectives.config import Baseline
from learner.objectives.statistics import (
    CoScaling,
    bootstrap_interval,
    fit_co_scaling,
    pass_at_k,
    require_positive,
)

__all__ = [
    "CoScaling",
    "bon_value",
    "bon_weights",
    "bootstrap_interval",
    "fit_co_scaling",
    "pass_at_k",
    "tilt_lambda",
]


def bon_weights(
    scores: Tensor,
    rewards: Tensor,
    num_select: int,
    *,
    baseline: Baseline = "loo1",
    baseline_k: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Weights of an unbiased gradient of the Best-of-N value: `E[sum_i w_i grad log pi(y_i)] = grad J_N`.

        w_i = s_i^(N) - (N/n) (Jhat_k of the n - 1 samples other than i)

    with k = N for `loo`, max(N - 1, 1) for `loo1`, or `baseline_k`; `none` subtracts nothing. All are
    unbiased because the others do not depend on y_i. With scores = rewards this is pass@N and max@N
    (PKPO, arXiv 2505.15201); with N = 1 it is leave-one-out REINFORCE, (R_i - mean R) / (n - 1).

    Assumes samples that are i.i.d. from pi, and a score that depends on its own sample only. Centring
    the weights again, dividing them by a group's deviation or dropping samples biases the gradient.

    Args:
        scores, rewards: [B, N] of any real dtype; rewards finite.
        mask: [B, N] bool, False where there is no sample (never for a sample that is inconvenient).

    Returns:
        [B, N] float64. A weight that is zero but for rounding is exactly 0. Masked entries are 0, and so
        are rows with fewer than max(N, k + 1) samples.

    Raises:
        ValueError: too few samples per prompt for N and k, or a reward that is NaN or infinite.
    """
    size = _baseline_size(num_select, baseline, baseline_k)
    num_samples = scores.shape[-1]
    num_needed = max(num_select, size + 1)
    if num_samples < num_needed:
        raise ValueError(
            f"num_select = {num_select} with a baseline of {size} other samples needs {num_needed} samples per prompt, "
            f"there are {num_samples}: draw more, or lower num_select or baseline_k"
        )

    groups = _rank(scores, rewards, mask)
    if size > 0:
        # A baseline makes a constant irrelevant. Without it, equal rewards give zeros, not rounding errors.
        groups = _subtract_lowest_reward(groups)
    counts_B1 = groups.counts_B1.clamp(min=1)
    weights_BN = _shares(groups, num_select)
    if size > 0:
        weights_BN = weights_BN - num_select / counts_B1 * _values_of_others(groups, size)
        largest_B1 = num_select / counts_B1 * groups.rewards_BN.amax(dim=1, keepdim=True)
        rounding_B1 = num_samples * torch.finfo(torch.float64).eps * largest_B1
        weights_BN = weights_BN.where(weights_BN.abs() > rounding_B1, 0.0)
    weights_BN = weights_BN.where(groups.valid_BN & (counts_B1 >= num_needed), 0.0)
    return torch.empty_like(weights_BN).scatter_(1, groups.order_BN, weights_BN)


def bon_value(scores: Tensor, rewards: Tensor, k: int, *, mask: Tensor | None = None) -> Tensor:
    """Unbiased estimate Jhat_k of each prompt's Best-of-k value.

    With scores = rewards it is pass@k or max@k. It falls with k where the verifier misleads.

    Args:
        scores, rewards, mask: [B, N], as for `bon_weights`.

    Returns:
        [B] float64, NaN for rows with fewer than k samples: there J_k has no unbiased estimate.
    """
    require_positive("k", k)
    groups = _rank(scores, rewards, mask)
    within_BM = _subset_fractions(groups.counts_B1, groups.num_samples, k)
    value_B = (_wins(groups, within_BM) * groups.rewards_BN).sum(dim=1)
    return value_B.where(groups.counts_B1.squeeze(1) >= k, math.nan)


def tilt_lambda(num_select: int, *, match: Literal["kl", "moment"] = "kl") -> float:
    """Strength l of the tilt `pi(y) exp(l F(y))`, F the CDF of the score, that stands for Best-of-N.

    `kl` gives it the divergence of Best-of-N from pi, `moment` its mean rank, which minimises
    KL(Best-of-N || tilt):

        kl:      l / (1 - e^-l) - 1 - log((e^l - 1) / l) = log N - (N - 1) / N
        moment:  1 / (1 - e^-l) - 1 / l = N / (N + 1)

    Both increase in l and are solved by bisection on [0, 4N + 4]; l is near N + 1, and 0 for N = 1.
    Assumes continuous scores. Source: arXiv 2412.15287.
    """
    require_positive("num_select", num_select)
    if match not in ("kl", "moment"):
        raise ValueError(f"match = {match!r} is unknown: use 'kl' or 'moment'")
    if num_select == 1:
        return 0.0

    def is_too_weak(tilt: float) -> bool:
        mean_rank = -1 / math.expm1(-tilt) - 1 / tilt
        if match == "moment":
            return mean_rank < num_select / (num_select + 1)
        log_normaliser = tilt + math.log1p(-math.exp(-tilt)) - math.log(tilt)
        return tilt * mean_rank - log_normaliser < math.log(num_select) - (num_select - 1) / num_select

    low, high = 0.0, 4.0 * num_select + 4.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if is_too_weak(middle) else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _RankedGroups:
    """Groups in increasing order of score; entries that are no samples stand at the end."""

    order_BN: Tensor  # where each entry came from
    rewards_BN: Tensor  # 0 where there is no sample
    valid_BN: Tensor
    below_BN: Tensor  # number of samples with a lower score
    upto_BN: Tensor  # number of samples with a lower or equal score
    counts_B1: Tensor  # number of samples, float64 like all that is computed from it

    @property
    def num_samples(self) -> int:
        return self.rewards_BN.shape[1]


def _rank(scores: Tensor, rewards: Tensor, mask: Tensor | None) -> _RankedGroups:
    assert scores.ndim == 2 and scores.shape == rewards.shape, (scores.shape, rewards.shape)
    if mask is None:
        mask = torch.ones_like(scores, dtype=torch.bool)
    assert mask.shape == scores.shape and mask.dtype == torch.bool, (mask.shape, mask.dtype)
    rewards_BN = rewards.double().where(mask, 0.0)
    if not torch.all(rewards_BN.isfinite()):
        row, column = (~rewards_BN.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"rewards[{row}, {column}] = {rewards_BN[row, column]} is not finite: "
            f"judge the sample again, or give it the reward of a failure"
        )
    largest = torch.finfo(torch.float64).max
    scores_BN = scores.double().nan_to_num(nan=-math.inf, posinf=largest, neginf=-math.inf)
    sorted_BN, order_BN = scores_BN.where(mask, math.inf).sort(dim=1)
    counts_B1 = mask.sum(dim=1, keepdim=True, dtype=torch.float64)
    return _RankedGroups(
        order_BN=order_BN,
        rewards_BN=rewards_BN.gather(1, order_BN),
        valid_BN=torch.arange(scores.shape[1], device=scores.device) < counts_B1,
        below_BN=torch.searchsorted(sorted_BN, sorted_BN),
        upto_BN=torch.searchsorted(sorted_BN, sorted_BN, right=True),
        counts_B1=counts_B1,
    )


def _subtract_lowest_reward(groups: _RankedGroups) -> _RankedGroups:
    lowest_B1 = groups.rewards_BN.where(groups.valid_BN, math.inf).amin(dim=1, keepdim=True)
    return replace(groups, rewards_BN=(groups.rewards_BN - lowest_B1).where(groups.valid_BN, 0.0))


# Sums over subsets become sums over blocks of tied samples. For sample i, L and H count the samples below
# its block and up to its end, t = H - L. In the order of score, W[m] = C(m, k) / C(n, k) is the fraction
# of k-subsets within the m lowest samples, c[m] = C(m - 1, k - 1) / C(n, k) = k W[m] / m that of those
# which also contain a given one of the m. All results mean nothing for rows of fewer than k samples.


def _wins(groups: _RankedGroups, within_BM: Tensor) -> Tensor:
    """a_i = (W[H] - W[L]) / t, the weight with which i itself is selected: Jhat = sum_i a_i R_i."""
    below_BN, upto_BN = groups.below_BN, groups.upto_BN
    return (within_BM.gather(1, upto_BN) - within_BM.gather(1, below_BN)) / (upto_BN - below_BN)


def _shares(groups: _RankedGroups, k: int) -> Tensor:
    """s_i^(k) [B, N], sorted: i is selected, or another of its block, or one of a higher block.

    d_i = (c[H] - a_i) / (t - 1),   e_j = (c[H_j] - c[L_j]) / t_j
    s_i = a_i R_i + d_i (R of the rest of i's block) + sum_{j of higher blocks} e_j R_j
    """
    rewards_BN, below_BN, upto_BN = groups.rewards_BN, groups.below_BN, groups.upto_BN
    tied_BN = upto_BN - below_BN
    within_BM = _subset_fractions(groups.counts_B1, groups.num_samples, k)
    containing_BM = k * within_BM / torch.arange(groups.num_samples + 1, device=within_BM.device).clamp(min=1)
    containing_BM[:, 0] = 0.0
    wins_BN = _wins(groups, within_BM)
    containing_BN = containing_BM.gather(1, upto_BN)
    rest_wins_BN = ((containing_BN - wins_BN) / (tied_BN - 1)).where(tied_BN > 1, 0.0)
    higher_wins_BN = (containing_BN - containing_BM.gather(1, below_BN)) / tied_BN
    higher_BN = _sums_from(rewards_BN * higher_wins_BN).gather(1, upto_BN)
    return wins_BN * rewards_BN + rest_wins_BN * _rest_of_block(groups) + higher_BN


def _values_of_others(groups: _RankedGroups, k: int) -> Tensor:
    """Jhat_k of the n - 1 samples other than i [B, N], sorted: W of n - 1, one less in i's block and above.

    sum_{j of lower blocks} a_j R_j + (W[H - 1] - W[L]) / (t - 1) (R of the rest of i's block)
        + sum_{j of higher blocks} (W[H_j - 1] - W[L_j - 1]) / t_j R_j
    """
    rewards_BN, below_BN, upto_BN = groups.rewards_BN, groups.below_BN, groups.upto_BN
    tied_BN = upto_BN - below_BN
    within_BM = _subset_fractions(groups.counts_B1 - 1, groups.num_samples, k)
    within_upto_BN = within_BM.gather(1, upto_BN - 1)
    lower_BN = _sums_before(rewards_BN * _wins(groups, within_BM)).gather(1, below_BN)
    rest_wins_BN = ((within_upto_BN - within_BM.gather(1, below_BN)) / (tied_BN - 1)).where(tied_BN > 1, 0.0)
    higher_wins_BN = (within_upto_BN - within_BM.gather(1, (below_BN - 1).clamp(min=0))) / tied_BN
    higher_BN = _sums_from(rewards_BN * higher_wins_BN).gather(1, upto_BN)
    return lower_BN + rest_wins_BN * _rest_of_block(groups) + higher_BN


def _rest_of_block(groups: _RankedGroups) -> Tensor:
    """Sum of the rewards of the samples tied with i, without i."""
    before_BM = _sums_before(groups.rewards_BN)
    return before_BM.gather(1, groups.upto_BN) - before_BM.gather(1, groups.below_BN) - groups.rewards_BN


def _sums_before(values_BN: Tensor) -> Tensor:
    """[B, N + 1]: entry m is the sum of the first m values."""
    return pad(values_BN.cumsum(dim=1), (1, 0))


def _sums_from(values_BN: Tensor) -> Tensor:
    """[B, N + 1]: entry m is the sum of all but the first m values."""
    return pad(values_BN.flip(1).cumsum(dim=1).flip(1), (0, 1))


def _subset_fractions(counts_B1: Tensor, num_samples: int, k: int) -> Tensor:
    """W[b, m] = C(m, k) / C(counts_b, k) for m = 0 .. num_samples, by W[m - 1] = W[m] (m - k) / m."""
    m_N = torch.arange(1, num_samples + 1, device=counts_B1.device)
    ratios_BN = ((m_N - k).clamp(min=0) / m_N.double()).where(m_N <= counts_B1, 1.0)
    return pad(ratios_BN.flip(1).cumprod(dim=1).flip(1), (0, 1), value=1.0)


def _baseline_size(num_select: int, baseline: Baseline, baseline_k: int | None) -> int:
    """How many of the other samples the baseline selects among; 0 for no baseline."""
    require_positive("num_select", num_select)
    if baseline not in get_args(Baseline):
        raise ValueError(f"baseline = {baseline!r} is unknown: use one of {', '.join(get_args(Baseline))}")
    if baseline_k is None:
        return {"none": 0, "loo": num_select, "loo1": max(num_select - 1, 1)}[baseline]
    if baseline == "none":
        raise ValueError(
            f"baseline_k = {baseline_k} has no effect with baseline = 'none': remove one of the two"
        )
    require_positive("baseline_k", baseline_k)
    return baseline_k
