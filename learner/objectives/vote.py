"""The objective that maximises the reward of the most frequent answer, and its weights.

Shapes: `B` prompts, `N` samples of each, `A` answers of one prompt.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import bon_weights
from learner.objectives.groups import Groups
from learner.objectives.majority import majority_values

PROMPTS_AT_ONCE = 64
"""That a thread takes: about a millisecond's work at 128 samples."""


def majority(groups: Groups, config: ObjectiveConfig) -> Tensor:
    """Majority vote: every sample by what its vote adds to the answer that most of k samples give.

    Estimand: majority@k = E[R of the most frequent of k answers], ties averaged, k = num_select
    Formula:  w_i = (k/n) mean of h(J with i) - h(J) over the (k-1)-subsets J of the other samples, h the reward of
              the most frequent answer, 0 without any; all samples of an answer share one weight
    Unbiased: yes: h(J), the baseline, is of the other samples alone
    Source:   derived in docs/objectives.md
    Use:      if k answers will be drawn and the most frequent one taken: no verifier is needed then
    Assumes:  a verifier that names answers; n >= k samples, i.i.d. from the policy being trained. A sample without an
              answer is drawn but does not vote, as in the evaluation
    Not promised: a signal where the right answer is far from winning: there no single vote turns the outcome
    """
    groups.require_samples(config)
    return majority_weights(groups.answers_BN, groups.rewards_BN, config.fixed_num_select)


def majority_weights(answers_BN: Tensor, rewards_BN: Tensor, k: int) -> Tensor:
    """Weights of an unbiased gradient of majority@k: `E[sum_i w_i grad log pi(y_i)] = grad majority@k`.

        w_i = (k/n) mean of h(J with i) - h(J) over J,   J all subsets of k - 1 of the n - 1 other samples

    and for k = 1 those of leave-one-out REINFORCE. h(J) is the mean reward of J's samples with its most frequent
    answer, averaged over ties; 0 where none of J has an answer. With m_a samples of answer a, all of reward R_a,

        w_i = (k/n) (P(none of J has an answer) R_a + sum_{b != a} (R_a - R_b) K_ab)
        K_ab = (1 / C(n-1, k-1)) sum_v int_0^1 [x^(k-1)] e_a E_b prod_{c != a, b} F_c (1 + x)^silent dy
        E_c = C(m_c, v) x^v,   F_c = sum_{j<v} C(m_c, j) x^j + y E_c
        e_a = (1 - y) C(m_a - 1, v - 1) x^(v-1) + y C(m_a - 1, v) x^v

    where v is the most votes in J, b one of the t answers that have them, and i brings a level with those
    (int (1 - y) y^(t-1) dy = 1/t - 1/(t+1)) or ahead of them (int y^t dy = 1/(t+1)): docs/objectives.md. The integral is
    a Gauss-Legendre quadrature and the coefficient a mean over points of a circle; there prod_c F_c is without F_a by
    division, and sum_b (R_a - R_b) E_b / F_b the difference of two sums over all answers, in which a itself cancels.

    Args:
        answers_BN: int64 from 0 to N - 1, equal where two samples of a prompt answer the same; -1 without an answer.
        rewards_BN: float64. Where those of one answer differ, R_a is their mean, and (R_i - R_a) / (m_a - 1) times
            (1 - k/n) P_k + (k/n) P_(k-1) is added, P_k the probability that a wins among k of the samples but i.

    Returns:
        [B, N] float64; a weight that is zero within `vote_kernel.PRECISION` is exactly 0.

    Raises:
        ValueError: the shapes differ, k is not from 1 to N, or an answer is N or more.
    """
    n = answers_BN.shape[1]
    # Compiled loops look at no bounds.
    if rewards_BN.shape != answers_BN.shape:
        raise ValueError(
            f"rewards {tuple(rewards_BN.shape)} of answers {tuple(answers_BN.shape)}: give each one"
        )
    if not 1 <= k <= n:
        raise ValueError(f"num_select = {k} of {n} samples: choose it from 1 to {n}")
    if torch.any(answers_BN >= n):
        raise ValueError(
            f"answer {int(answers_BN.max())} among {n} samples: number answers from 0 to {n - 1}"
        )
    rewards_BN = rewards_BN.detach().double()
    votes_BN = answers_BN >= 0
    if k == 1:
        return bon_weights(torch.zeros_like(rewards_BN), rewards_BN.where(votes_BN, 0.0), num_select=1)
    from learner.objectives.vote_kernel import circle, weigh  # it imports Numba, and compiles for seconds

    at_k = circle(n, k)
    weights_BN, means_BN = torch.zeros_like(rewards_BN), torch.zeros_like(rewards_BN)
    is_mixed_BN = torch.zeros_like(votes_BN)
    columns = (answers_BN.long().contiguous(), rewards_BN.contiguous(), weights_BN, means_BN, is_mixed_BN)
    parts = zip(*(column.split(PROMPTS_AT_ONCE) for column in columns), strict=True)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(lambda part: weigh(k, at_k, *(column.numpy() for column in part)), parts))
    apart_of: dict[tuple[int, int], float] = {}
    for b, i in is_mixed_BN.nonzero().tolist():
        of_answer = b, int(answers_BN[b, i])
        if of_answer not in apart_of:
            apart_of[of_answer] = _weight_apart(answers_BN[b], of_answer[1], k)
        weights_BN[b, i] += (rewards_BN[b, i] - means_BN[b, i]) * apart_of[of_answer]
    return weights_BN


def _weight_apart(answers_N: Tensor, answer: int, k: int) -> float:
    """Of a sample of this answer, for each unit by which its reward lies above the answer's mean.

    For one answer at a time: with most verifiers the answer decides over the reward, and this is never asked for.
    """
    n = len(answers_N)
    counts_A = torch.bincount(answers_N[answers_N >= 0])
    counts_A[answer] -= 1  # the sample itself
    num_others = int(counts_A[answer])
    is_own_A = torch.arange(len(counts_A)) == answer
    there_A = counts_A > 0
    wins_low, wins_high = majority_values(
        counts_A[there_A].tolist(),
        is_own_A[there_A].double().tolist(),
        [k - 1, k],
        num_silent=int((answers_N < 0).sum()),
    )
    return (k / n * wins_low + ((1 - k / n) * wins_high if k < n else 0.0)) / num_others
