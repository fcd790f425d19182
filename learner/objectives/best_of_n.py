"""Objectives that maximise the reward of the best of N samples. Shapes: `B` prompts, `N` samples of each.

In formulas n is the number of samples, N is `num_select`, c and f count successes and failures, p = P(failure).
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import bon_weights
from learner.objectives.groups import Groups


def bon(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """Best-of-N: every sample by what it adds to the N-subsets the verifier selects from.

    Estimand: J_N = E[R(y*)], y* the sample of highest score among N = num_select
    Formula:  w_i = s_i^(N) - (N/n) (Best-of-k value of the samples other than i), s_i^(N) = the sum of the
              rewards selected from all N-subsets that contain i, over C(n, N); in closed form
    Unbiased: yes, for any verifier, any reward and any baseline
    Source:   BoN-RL-V and BoN-RL-S of arXiv 2412.15287, without their plug-in bias
    Use:      the default: N = the number of answers you will draw, n = 2N samples per prompt if you can
    Assumes:  n >= N samples, i.i.d. from the policy being trained; a score that depends on its own sample only
    Not promised: that a single sample improves, nor that the verifier cannot be exploited
    """
    return _subset_weights(groups.scores_BN, groups, config)


def pass_at_k(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """The probability that one of k samples succeeds: `bon` with a perfect verifier and rewards 0 and 1.

    Estimand: J_k = pass@k = 1 - p^k, k = num_select
    Formula:  that of bon with scores := rewards; with baseline loo1 and k >= 2, w_i = (k/n) C(f, k-1) / C(n-1,
              k-1) for a success, 0 for a failure
    Unbiased: yes, with any baseline
    Source:   PKPO, arXiv 2505.15201
    Use:      if k answers can be tried in use and a success is recognised, whatever verifier the run has
    Assumes:  rewards 0 and 1, anything else is an error; n >= k samples, i.i.d. from the policy being trained
    Not promised: that a learned verifier finds the success: its scores are not looked at
    """
    groups.successes(config.name)
    return max_at_k(groups, config)


def max_at_k(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """The largest reward among k samples: `bon` with a perfect verifier.

    Estimand: J_k = E[max(R_1 .. R_k)], k = num_select
    Formula:  that of bon with scores := rewards
    Unbiased: yes, with any baseline
    Source:   PKPO, arXiv 2505.15201
    Use:      as pass_at_k, for rewards that are not just 0 and 1, such as the share of tests passed
    Assumes:  n >= k samples, i.i.d. from the policy being trained
    Not promised: that a single sample improves, nor that a learned verifier finds the best one
    """
    return _subset_weights(groups.rewards_BN, groups, config)


def bon_rlb(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """The paper's closed form for binary rewards, successes up and failures down, p estimated from the group.

    Estimand: none; meant is J_N = 1 - p^N
    Formula:  w_i = (1-P^N) min(g+, max_weight) / c for a success, -P^N min(g-, max_weight) / f for a failure;
              P = (f + 1/2)/(n + 1), g+ = N P^(N-1)/(1-P^N), g- = N P/(1-P)
    Unbiased: no: with the true p and no clip the expectation is (1+p)/(1-p) grad J_N, the right direction but
              hard prompts weigh more without bound; estimating p and clipping add to it (docs/objectives.md)
    Source:   BoN-RLB of arXiv 2412.15287; the mean over the Best-of-N policy taken over all n samples
    Use:      only to compare with the paper; bon is its unbiased counterpart
    Assumes:  rewards 0 and 1; selection by the reward. N may exceed n. Refuses n = 1, where P would tell a
              sample nothing but its own reward
    Not promised: an update whose size the data set: where most samples fail, max_weight sets it
    """
    groups.require_samples(config)
    successes_BN = groups.successes(config.name)
    n, num_select = groups.num_samples, config.fixed_num_select
    num_successes_B1 = successes_BN.sum(dim=1, keepdim=True)
    num_failures_B1 = n - num_successes_B1
    failure_rate_B1 = (num_failures_B1 + 0.5) / (n + 1)
    all_fail_B1 = failure_rate_B1**num_select
    of_success_B1 = num_select * failure_rate_B1 ** (num_select - 1) / (1 - all_fail_B1)
    of_failure_B1 = num_select * failure_rate_B1 / (1 - failure_rate_B1)
    return torch.where(
        successes_BN == 1,
        (1 - all_fail_B1) * of_success_B1.clamp(max=config.max_weight) / num_successes_B1.clamp(min=1),
        -all_fail_B1 * of_failure_B1.clamp(max=config.max_weight) / num_failures_B1.clamp(min=1),
    )


def bon_rlbp(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """The paper's closed form for binary rewards on successes only, p estimated from the group.

    Estimand: none; meant is J_N = 1 - p^N
    Formula:  w_i = N P^(N-1) / n for a success, 0 for a failure, P = f/n: the weight
              gbar = N P^(N-1) (1-P) / (1-P^N) averaged over the Best-of-N policy, which is a success with
              probability 1 - P^N. Averaged over successes alone, gbar / c, it would follow grad log J_N
    Unbiased: no: with the true p it would be; with p from the same group the direction is right, but easy prompts
              weigh too much and hard ones too little (docs/objectives.md)
    Source:   BoN-RLB(P) of arXiv 2412.15287
    Use:      only to compare with the paper; bon with baseline loo1 is its unbiased counterpart
    Assumes:  rewards 0 and 1; selection by the reward. N may exceed n. Refuses n = 1, where all weights are 0
    Not promised: a bound on the factor: for N > 2 it grows without end as prompts become easy
    """
    groups.require_samples(config)
    successes_BN = groups.successes(config.name)
    n, num_select = groups.num_samples, config.fixed_num_select
    failure_rate_B1 = (n - successes_BN.sum(dim=1, keepdim=True)) / n
    return num_select * failure_rate_B1 ** (num_select - 1) / n * successes_BN


def _subset_weights(selected_by_BN: Tensor, groups: Groups, config: ObjectiveConfig) -> Tensor:
    return bon_weights(
        selected_by_BN,
        groups.rewards_BN,
        config.fixed_num_select,
        baseline=config.baseline,
        baseline_k=config.baseline_k,
    )
