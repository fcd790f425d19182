"""Objectives that set the samples of a group against each other. Shapes: `B` prompts, `N` samples of each.

In formulas n is the number of samples, mean R and std R are those of a group, c counts its successes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import bon_weights
from learner.objectives.groups import Groups

STD_EPSILON = 1e-6
"""Added to standard deviations, as verl does."""


def rloo(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """Leave-one-out REINFORCE: every sample against the mean of the others. Scores are not used.

    Estimand: J_1 = E[R(y)], the reward of a single sample
    Formula:  w_i = (R_i - mean of the other R) / n
    Unbiased: yes
    Source:   Kool et al. 2019; Ahmadian et al., arXiv 2402.14740
    Use:      if a single answer will be drawn, or as the comparison
    Assumes:  n >= 2 samples, i.i.d. from the policy being trained
    Not promised: that the best of N samples improves: pass@N may fall while pass@1 rises
    """
    return bon_weights(groups.scores_BN, groups.rewards_BN, num_select=1)


def grpo(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """Group-relative policy optimisation as published: standardised rewards, the mean over a sample's tokens.

    Estimand: none; meant is J_1 = E[R(y)]
    Formula:  w_i = (R_i - mean R) / (std R + 1e-6) / (n length_i), std R with n - 1 in the denominator
    Unbiased: no: dividing by std R weighs prompts by how little their rewards vary, dividing by a sample's own
              length favours short successes and long failures
    Source:   DeepSeekMath, arXiv 2402.03300, section 4.1; which std it does not say: this is verl's
    Use:      only to compare with others; rloo is its unbiased counterpart
    Assumes:  n >= 2 samples. The paper's clipped ratio and KL are the learner's settings, not this objective's
    Not promised: the direction of grad J_1, unless all rewards are 0 or 1 and all lengths are equal
    """
    groups.require_samples(config)
    centred_BN = _centred(groups.rewards_BN)
    scale_B1 = groups.rewards_BN.std(dim=1, keepdim=True) + STD_EPSILON
    return centred_BN / scale_B1 / (groups.num_samples * groups.lengths_BN)


def grpo_passk(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """Only the best sample of the group counts, by how far it leads: verl's `grpo_passk`.

    Estimand: J_n = E[max(R_1 .. R_n)] with divide_by_std = false; none with it, verl's default
    Formula:  w_best = R_best - R_second, over std R + 1e-6 if divide_by_std; 0 for all others and for ties
    Unbiased: only with divide_by_std = false, and only for k = n: there it is max_at_k with loo1
    Source:   verl, compute_grpo_passk_outcome_advantage at commit 5689fd7, after arXiv 2503.19595
    Use:      only to compare with verl; max_at_k learns from all samples and takes any k
    Assumes:  n >= 2 samples. verl's mean over the batch's tokens is not part of it
    Not promised: anything about k below n, the number of samples that is drawn
    """
    groups.require_samples(config)
    best_two_B2, order_B2 = groups.rewards_BN.topk(2, dim=1)
    lead_B1 = best_two_B2[:, :1] - best_two_B2[:, 1:]
    if config.divide_by_std:
        lead_B1 = lead_B1 / (groups.rewards_BN.std(dim=1, keepdim=True) + STD_EPSILON)
    return torch.zeros_like(groups.rewards_BN).scatter_(1, order_B2[:, :1], lead_B1)


def pass_at_k_training(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """pass@k against its own estimate, over the deviation of a group's success: Pass@k Training, in closed form.

    Estimand: none; meant is J_k = pass@k, k = num_select
    Formula:  w_i = A_i / n; A = (1 - P) / (s + 1e-6) for a success, (1 - P - C(f-1, k-1) / C(n-1, k-1)) / (s + 1e-6)
              for a failure; P = 1 - C(f, k) / C(n, k), s = sqrt(P (1 - P)), f the failures among n
    Unbiased: no: s weighs prompts by how little their success varies. Without s the expectation is (1/k - 1/n) grad
              J_k, for P holds the sample itself
    Source:   Pass@k Training, arXiv 2508.10751, section 2.4; the 1e-6 is that of the authors' code
    Use:      only to compare with others; pass_at_k is its unbiased counterpart
    Assumes:  rewards 0 and 1; n > k samples: at n = k all weights are 0. How the paper averages over tokens is not
              part of it
    Not promised: the right size of one prompt against another
    """
    groups.require_samples(config)
    successes_BN = groups.successes(config.name)
    n, k = groups.num_samples, config.fixed_num_select
    j_K = torch.arange(k, dtype=torch.float64)
    num_failures_B1 = n - successes_BN.sum(dim=1, keepdim=True)
    all_fail_B1 = ((num_failures_B1 - j_K).clamp(min=0) / (n - j_K)).prod(dim=1, keepdim=True)
    others_fail_B1 = ((num_failures_B1 - 1 - j_K[:-1]).clamp(min=0) / (n - 1 - j_K[:-1])).prod(
        dim=1, keepdim=True
    )
    deviation_B1 = (all_fail_B1 * (1 - all_fail_B1)).sqrt() + STD_EPSILON
    return (all_fail_B1 - (1 - successes_BN) * others_fail_B1) / deviation_B1 / n


def maxrl(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """Maximum-likelihood RL: the weight of a prompt is shared among its successes.

    Estimand: sum_{k=1}^{n-1} pass@k / k, the first terms of log pass@1 = -sum_k (1 - pass@k) / k
    Formula:  w_i = (R_i - mean R) / (n mean R), 0 for a group without success
    Unbiased: yes. Without its baseline it is so for n terms: the baseline is left out of groups without
              success, so that its mean is grad pass@n / n instead of zero
    Source:   MaxRL, arXiv 2602.02710
    Use:      if hard prompts shall count more, without a number of answers in mind; n sets how much
    Assumes:  rewards 0 and 1; n >= 2 samples, i.i.d. from the policy being trained
    Not promised: the estimand of another n: drawing more samples changes what is maximised
    """
    groups.require_samples(config)
    successes_BN = groups.successes(config.name)
    num_successes_B1 = successes_BN.sum(dim=1, keepdim=True)
    return _centred(successes_BN) / num_successes_B1.clamp(min=1)


def rft(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """Rejection-sampling fine-tuning, online: imitate the samples that succeed.

    Estimand: J_1 = E[R(y)]
    Formula:  w_i = 1/n for a success, 0 for a failure
    Unbiased: yes, as REINFORCE without a baseline
    Source:   STaR, arXiv 2203.14465; RFT, arXiv 2308.01825; both repeat over stored samples, this one draws anew
    Use:      as the comparison; rloo has the same expectation and less variance where most samples succeed
    Assumes:  rewards 0 and 1; samples i.i.d. from the policy being trained
    Not promised: that failures become rarer but by successes becoming likelier
    """
    return groups.successes(config.name) / groups.num_samples


def _centred(rewards_BN: Tensor) -> Tensor:
    """R - mean R, exactly 0 where all are equal."""
    above_lowest_BN = rewards_BN - rewards_BN.amin(dim=1, keepdim=True)
    return above_lowest_BN - above_lowest_BN.mean(dim=1, keepdim=True)
