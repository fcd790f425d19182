"""What the learner ascends: an explicit table of objectives, each a function from a group to weights.

Shapes: `B` prompts, `N` samples of each. An entry turns scores_BN, rewards_BN and its config into
weights_BN (float64) for the loss `-(1/B) sum_b sum_i w_bi log pi(y_bi)`, where log pi(y) sums over
tokens and the denominator is the number of prompts, whatever their weights. The expected gradient of
minus this loss is the gradient of the entry's estimand, averaged over prompts.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from learner.estimators import bon_weights
from learner.objective_config import ObjectiveConfig

Objective = Callable[[Tensor, Tensor, ObjectiveConfig], Tensor]


def rloo(scores_BN: Tensor, rewards_BN: Tensor, config: ObjectiveConfig) -> Tensor:
    """Leave-one-out REINFORCE: every sample against the mean of the others. Scores are not used.

    Estimand: J_1 = E[R(y)], the reward of a single sample.
    Formula:  w_i = (R_i - mean_{j != i} R_j) / n.
    Source:   Kool et al. 2019; Ahmadian et al., arXiv 2402.14740.
    Assumes:  n >= 2 samples, i.i.d. from the policy being trained.
    Does not promise that the best of N samples improves: pass@N may fall while pass@1 rises.
    """
    return bon_weights(scores_BN, rewards_BN, num_select=1)


def bon(scores_BN: Tensor, rewards_BN: Tensor, config: ObjectiveConfig) -> Tensor:
    """Best-of-N: every sample by what it adds to the N-subsets the verifier selects from.

    Estimand: J_N = E[R(y*)], y* the sample of highest score among N = config.num_select.
    Formula:  w_i = s_i^(N) - (N/n) (Best-of-k value of the samples other than i), see
              `learner.estimators.bon_weights`; the average over all N-subsets, in closed form.
    Source:   BoN-RL of arXiv 2412.15287 without its plug-in bias; for scores = rewards PKPO,
              arXiv 2505.15201.
    Assumes:  n >= config.num_samples_needed samples, i.i.d. from the policy being trained; a score
              that depends on its own sample only.
    Does not promise that a single sample improves, nor that a verifier cannot be exploited.
    """
    return bon_weights(
        scores_BN, rewards_BN, config.num_select, baseline=config.baseline, baseline_k=config.baseline_k
    )


OBJECTIVES: dict[str, Objective] = {"bon": bon, "rloo": rloo}
