"""Objectives that imitate an expert's demonstration. Shapes: `B` prompts, `N` samples of each.

The demonstration y* has weight 1 in the loss; an objective says what the samples weigh beside it. In formulas
n is the number of samples, N is `num_select`, r* the demonstration's score, l = lambda_N the strength of the
tilt that stands for Best-of-N (`learner.objectives.estimators.tilt_lambda`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import tilt_lambda
from learner.objectives.groups import Groups


def sft(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """Supervised fine-tuning: only the demonstration counts.

    Estimand: log pi(y*)
    Formula:  w_i = 0
    Unbiased: yes
    Source:   maximum likelihood
    Use:      as the comparison with bon_sft; a single sample per prompt is enough
    Assumes:  a demonstration for every problem
    Not promised: that the best of N samples improves
    """
    return torch.zeros_like(groups.scores_BN)


def bon_sft(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """Imitate the expert with the best of N samples: let samples that the verifier ranks below it stay likely.

    Estimand: log pi_N(y*), pi_N the tilted policy that stands for Best-of-N
    Formula:  tie_smoothed: w_i = (l/n) (v_i - mean of the others' v), v = 1 below r*, kappa(l q_i) at r*, 0 above;
              q_i = the share of the others at r*, kappa(x) = 1/(1-e^-x) - 1/x.
              paper: w_i = (l/n) ([r_i <= r*] - G_i) - (o_i - 1/n), o = softmax(l Q), Q_i = the share of the others
              not above i, G_i = the share, by o, of the others not below i. l is the tilt of N by tilt_match, about N + 1. Both times sample_weight
    Unbiased: tie_smoothed: exactly so where no sample ties with the demonstration, else its bias falls like 1/n
              (0.5 to 4 % at N = n = 4, much more at n < N); paper: no, with or without ties its bias falls like 1/n
    Source:   BoN-SFT of arXiv 2412.15287; tie_smoothed breaks ties at random, so that the tilt's normaliser is a
              constant
    Use:      if there are demonstrations and N answers will be drawn, beside sft, which did better in docs/study.md;
              the samples together weigh up to about N + 1 times as much as the demonstration: lower sample_weight if
              they drown it
    Assumes:  a demonstration for every problem, scored by the verifier; n >= 2 samples from the policy
    Not promised: that the reward improves: samples the expert beats are pushed up
    """
    groups.require_samples(config)
    assert groups.demonstration_scores_B is not None
    scores_BN = _comparable(groups.scores_BN)
    expert_B1 = _comparable(groups.demonstration_scores_B)[:, None]
    tilt = tilt_lambda(config.fixed_num_select, match=config.tilt_match)
    weights = {"tie_smoothed": tie_smoothed_weights, "paper": published_weights}[config.tilt]
    return config.sample_weight * weights(scores_BN, expert_B1, tilt)


def tie_smoothed_weights(scores_BN: Tensor, expert_B1: Tensor, tilt: float) -> Tensor:
    """w_i [B, N] of `tilt = "tie_smoothed"`, all of the group but i estimating what i is set against.

    Estimates l E[(1{r < r*} + kappa(l q*) 1{r = r*}) grad log pi], q* = P(r = r*): the gradient of
    log pi_N(y*) - log pi(y*) for pi_N(y) = pi(y) (e^(l F) - e^(l F-)) / ((F - F-) (e^l - 1)), F and F- the
    probabilities of a score not above and below that of y.
    """
    num_others = scores_BN.shape[1] - 1
    below_BN = (scores_BN < expert_B1).double()
    tied_BN = (scores_BN == expert_B1).double()
    others_tied_BN = (tied_BN.sum(dim=1, keepdim=True) - tied_BN) / num_others
    others_below_BN = (below_BN.sum(dim=1, keepdim=True) - below_BN) / num_others
    share_BN = _share_of_tie(tilt * others_tied_BN)
    own_BN = below_BN + share_BN * tied_BN
    of_others_BN = others_below_BN + share_BN * others_tied_BN
    return tilt / scores_BN.shape[1] * (own_BN - of_others_BN)


def _share_of_tie(x_BN: Tensor) -> Tensor:
    """kappa(x) = 1/(1 - e^-x) - 1/x for x >= 0, in [1/2, 1); 1/2 + x/12 where the difference would cancel."""
    large_BN = x_BN.clamp(min=1e-3)
    return torch.where(x_BN < 1e-3, 0.5 + x_BN / 12, -1 / torch.expm1(-large_BN) - 1 / large_BN)


def published_weights(scores_BN: Tensor, expert_B1: Tensor, tilt: float) -> Tensor:
    """w_i [B, N] of `tilt = "paper"`, by pairs of samples.

    Estimates the gradient of l F(y*) - log Z, Z = E[e^(l F)], with respect to F as well.
    """
    n = scores_BN.shape[1]
    not_above_BNN = (scores_BN[:, None, :] <= scores_BN[:, :, None]).double()  # [b, i, j]: r_j <= r_i
    ranks_BN = (not_above_BNN.sum(dim=2) - 1) / (n - 1)
    tilted_BN = (tilt * ranks_BN).softmax(dim=1)
    # Among the others: their shares are a softmax of their own, lest 1 - o_i cancel where one sample has it all.
    is_self_NN = torch.eye(n, dtype=torch.bool, device=scores_BN.device)
    of_others_BNN = (tilt * ranks_BN)[:, None, :].masked_fill(is_self_NN, -math.inf).softmax(dim=2)
    not_below_BN = (of_others_BNN * not_above_BNN.transpose(1, 2)).sum(dim=2)
    beaten_BN = (scores_BN <= expert_B1).double()
    return tilt / n * (beaten_BN - not_below_BN) - (tilted_BN - 1 / n)


def _comparable(scores: Tensor) -> Tensor:
    """NaN as the lowest score, as in `learner.objectives.estimators`."""
    return scores.nan_to_num(nan=-math.inf, posinf=torch.finfo(torch.float64).max, neginf=-math.inf)
