"""The objective that maximises the reward of the most frequent answer, and its weights.

Shapes: `B` prompts, `N` samples of each, `A` answers, and behind them a place for samples without any; `M` sizes, the
numbers of samples that gave one answer as far as they occur in the batch; `Y` nodes of a quadrature, `X` points of a
circle, `C` = Y X both at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import bon_weights
from learner.objectives.groups import Groups
from learner.objectives.majority import majority_values, quadrature

PRECISION = 1e-11
"""Largest error of a weight, as a share of k / n times the range of the prompt's rewards.

What cancels is larger than what is left by max |E / F|, which is below 1e5 for up to 512 samples.
"""
SMALLEST_FACTOR = 1e-150
"""A product with a smaller one is nothing. Its inverse is finite, so that it can be divided out again."""


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
    (int (1 - y) y^(t-1) dy = 1/t - 1/(t+1)) or ahead of them (int y^t dy = 1/(t+1)): docs/objectives.md. Gauss-Legendre
    quadrature in y is exact. The coefficient is a mean over points of a circle in x, where K_ab is computed for all
    prompts at once, by products of matrices: prod_c F_c from its logarithm, without F_a by division, and
    sum_b (R_a - R_b) E_b / F_b as the difference of two sums over all answers, in which a itself cancels.

    Args:
        answers_BN: int64 from 0 to N - 1, equal where two samples of a prompt answer the same; -1 without an answer.
        rewards_BN: float64. Where those of one answer differ, R_a is their mean, and (R_i - R_a) / (m_a - 1) times
            (1 - k/n) P_k + (k/n) P_(k-1) is added, P_k the probability that a wins among k of the samples but i.

    Returns:
        [B, N] float64; a weight that is zero within PRECISION is exactly 0.
    """
    n = answers_BN.shape[1]
    votes_BN = answers_BN >= 0
    if k == 1:
        return bon_weights(torch.zeros_like(rewards_BN), rewards_BN.where(votes_BN, 0.0), num_select=1)
    if not torch.any(votes_BN):
        return torch.zeros_like(rewards_BN)
    ballots = _Ballots.count(answers_BN, rewards_BN)
    own_BM, others_BM = _turned(ballots, n, k)
    answer_BN = answers_BN.where(votes_BN, ballots.num_answers)
    size_BN = ballots.sizes_BA.gather(1, answer_BN)
    reward_BN = ballots.means_BA.gather(1, answer_BN)
    turned_BN = (reward_BN - ballots.lowest_B1) * own_BM.gather(1, size_BN) - others_BM.gather(1, size_BN)
    turned_BN = turned_BN.where(turned_BN.abs() > PRECISION * ballots.range_B1, 0.0)
    weights_BN = k / n * (turned_BN + reward_BN * _silence(ballots.num_silent_B1, n, k))
    for b, a in ballots.is_mixed_BA.nonzero().tolist():
        apart_N = (rewards_BN[b] - reward_BN[b]).where(answer_BN[b] == a, 0.0)
        weights_BN[b] += apart_N * _weight_apart(ballots, b, a, n, k)
    return weights_BN.where(votes_BN, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ballots:
    """The votes of each prompt's samples, by answer and by size of answer."""

    num_silent_B1: Tensor  # samples without an answer
    counts_BA: Tensor  # int64, samples that gave each answer; 0: there is no such answer
    means_BA: Tensor  # of their rewards
    is_mixed_BA: Tensor  # whether these differ
    lowest_B1: Tensor  # of the means; 0 without an answer
    range_B1: Tensor  # from there to the highest
    counts_M: Tensor  # int64, ascending: the sizes
    sizes_BA: Tensor  # index of each answer's size, of any where there is no answer
    answers_BM: Tensor  # float64, number of answers of each size
    rewards_BM: Tensor  # sum of their means above the lowest

    @property
    def num_answers(self) -> int:
        """The largest number of different answers to a prompt; also the place of samples without any."""
        return self.counts_BA.shape[1] - 1

    @staticmethod
    def count(answers_BN: Tensor, rewards_BN: Tensor) -> _Ballots:
        silent = int(answers_BN.max()) + 1
        answer_BN = answers_BN.where(answers_BN >= 0, silent)
        counts_BA = _sums_by(answer_BN, silent + 1).long()
        num_silent_B1 = counts_BA[:, silent:].clone()
        counts_BA[:, silent] = 0
        is_answer_BA = counts_BA > 0
        one_BA = torch.zeros(counts_BA.shape, dtype=torch.float64).scatter_(1, answer_BN, rewards_BN)
        differs_BN = (rewards_BN != one_BA.gather(1, answer_BN)).double()
        is_mixed_BA = (_sums_by(answer_BN, silent + 1, differs_BN) > 0) & is_answer_BA
        # Equal rewards have themselves as their mean, not what rounding makes of it.
        sums_BA = _sums_by(answer_BN, silent + 1, rewards_BN)
        means_BA = (sums_BA / counts_BA.clamp(min=1)).where(is_mixed_BA, one_BA)
        lowest_B1 = means_BA.where(is_answer_BA, math.inf).amin(dim=1, keepdim=True).nan_to_num(posinf=0.0)
        above_BA = (means_BA - lowest_B1).where(is_answer_BA, 0.0)

        counts_M = torch.bincount(counts_BA.flatten())[1:].nonzero()[:, 0] + 1
        num_sizes = len(counts_M)
        sizes_BA = torch.searchsorted(counts_M, counts_BA)
        column_BA = sizes_BA.where(is_answer_BA, num_sizes)
        return _Ballots(
            num_silent_B1=num_silent_B1,
            counts_BA=counts_BA,
            means_BA=means_BA,
            is_mixed_BA=is_mixed_BA,
            lowest_B1=lowest_B1,
            range_B1=above_BA.amax(dim=1, keepdim=True),
            counts_M=counts_M,
            sizes_BA=sizes_BA,
            answers_BM=_sums_by(column_BA, num_sizes + 1)[:, :num_sizes],
            rewards_BM=_sums_by(column_BA, num_sizes + 1, above_BA)[:, :num_sizes],
        )


def _sums_by(column_BX: Tensor, num_columns: int, values_BX: Tensor | None = None) -> Tensor:
    """[B, num_columns] of each row the sums of the values in each column, or their number; float64."""
    num_rows = len(column_BX)
    flat = (torch.arange(num_rows)[:, None] * num_columns + column_BX).flatten()
    weights = None if values_BX is None else values_BX.flatten()
    return torch.bincount(flat, weights, minlength=num_rows * num_columns).view(num_rows, -1).double()


def _turned(ballots: _Ballots, n: int, k: int) -> tuple[Tensor, Tensor]:
    """[B, M] sum_b K_ab and sum_b R_b K_ab for an answer a of each size, R the mean reward above the prompt's lowest.

    b = a is in both: it cancels where the second is subtracted from R_a times the first.
    """
    own_BM, others_BM = torch.zeros_like(ballots.answers_BM), torch.zeros_like(ballots.answers_BM)
    circle = _circle(n, k)
    # The outcome turns between two answers that can have v votes each, and only where their rewards differ; and k - 1
    # samples of whom no more than v answer the same must exist.
    second_B = ballots.counts_BA.topk(2, dim=1).values[:, 1].where(ballots.range_B1[:, 0] > 0, 0)
    most_votes = min(k // 2, int(second_B.max()))
    fewer_MX = torch.zeros(len(ballots.counts_M), len(circle.turns_X), dtype=torch.complex128)
    for votes in range(1, most_votes + 1):
        fewer_MX = fewer_MX + circle.terms(ballots.counts_M, votes - 1)
        most_B = ballots.answers_BM @ ballots.counts_M.clamp(max=votes).double() + ballots.num_silent_B1[:, 0]
        rows = ((second_B >= votes) & (most_B >= k - 1)).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        start = int(torch.searchsorted(ballots.counts_M, votes))  # sizes from here on can have so many votes
        counts_M1 = ballots.counts_M[start:, None].double()
        answers_BM, rewards_BM = ballots.answers_BM[rows, start:], ballots.rewards_BM[rows, start:]
        most_ties = min(k // votes, int(answers_BM.sum(dim=1).max())) - 1
        table = _table(ballots.counts_M[start:], votes, fewer_MX[start:], most_ties, circle)
        # Answers that cannot have so many votes are limited by nothing: with the silent they are one factor.
        factors_BM = torch.cat([answers_BM, n - answers_BM @ counts_M1], dim=1)
        sizes_BC, angles_BC = (factors_BM @ table.logs_MC.real).exp(), factors_BM @ table.logs_MC.imag
        products_BC = torch.complex(sizes_BC * angles_BC.cos(), sizes_BC * angles_BC.sin())
        for result_BM, weights_BM in ((own_BM, answers_BM), (others_BM, rewards_BM)):
            sums_BC = _complex(weights_BM @ _real(table.equal_MC))
            result_BM[rows, start:] += _real(products_BC * sums_BC) @ _real(table.own_MC.conj()).T
    return own_BM, others_BM


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Circle:
    """Points x = odds e^(i angle) of the upper half of a circle; those of the lower half are conjugate to them.

    Divided by (1 + odds)^m, C(m, j) |x|^j is the probability of j among m samples that are each taken with these odds.
    """

    odds: float
    turns_X: Tensor  # e^(i angle)
    weights_X: Tensor  # the real part of sum_X weights f is the coefficient of x^(k-1) over C(n-1, k-1), f of n-1 samples

    def terms(self, counts_M: Tensor, num: int) -> Tensor:
        """[M, X] C(m, num) x^num / (1 + odds)^m."""
        m_M = counts_M.double()
        logs_M = torch.lgamma(m_M + 1) - math.lgamma(num + 1) - torch.lgamma((m_M - num + 1).clamp(min=1))
        logs_M = logs_M + num * math.log(self.odds) - m_M * math.log1p(self.odds)
        return logs_M.exp().where(m_M >= num, 0.0)[:, None] * self.turns_X**num


@lru_cache(maxsize=64)
def _circle(n: int, k: int) -> _Circle:
    """As many points as it takes to tell x^(k-1) from the other powers up to n - 1, but for a share of PRECISION.

    An even number, and none of them real: on the negative axis a factor F could vanish.
    """
    odds = (k - 1) / (n - k + 1)  # k - 1 samples are about the likeliest number, also at k = n
    j = torch.arange(n, dtype=torch.float64)
    logs_N = math.lgamma(n) - torch.lgamma(j + 1) - torch.lgamma(n - j) + j * math.log(odds)
    probability_N = (logs_N - (n - 1) * math.log1p(odds)).exp()
    probability = float(probability_N[k - 1])
    num_points = 2
    while float(probability_N[(k - 1) % num_points :: num_points].sum()) > (1 + PRECISION / 2) * probability:
        num_points += 2
    angles_X = 2 * math.pi / num_points * (torch.arange(num_points // 2, dtype=torch.float64) + 0.5)
    turns_X = torch.polar(torch.ones_like(angles_X), angles_X)
    return _Circle(odds=odds, turns_X=turns_X, weights_X=2 / (num_points * probability) * turns_X ** (1 - k))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    """Of answers of each size, at every node and point."""

    logs_MC: Tensor  # log F, and in one more row that of 1 + x
    equal_MC: Tensor  # E / F
    own_MC: Tensor  # e / F, times the weights of node and point


def _table(counts_M: Tensor, votes: int, fewer_MX: Tensor, most_ties: int, circle: _Circle) -> _Table:
    """For `votes` the most votes, shared by up to `most_ties` answers besides a sample's own."""
    nodes, weights = quadrature(most_ties // 2 + 1)  # exact up to y^most_ties
    y_Y1, weights_Y1 = torch.from_numpy(nodes)[:, None], torch.from_numpy(weights)[:, None]
    equal_MX = circle.terms(counts_M, votes)
    factors_MYX = fewer_MX[:, None] + y_Y1 * equal_MX[:, None]
    factors_MYX = factors_MYX.where(factors_MYX.abs() > SMALLEST_FACTOR, SMALLEST_FACTOR)
    level_MX = circle.terms(counts_M - 1, votes - 1)
    ahead_MX = circle.terms(counts_M - 1, votes)
    own_MYX = (1 - y_Y1) * level_MX[:, None] + y_Y1 * ahead_MX[:, None]
    anyone_X = ((1 + circle.odds * circle.turns_X) / (1 + circle.odds)).log()
    anyone_1YX = anyone_X.expand(1, len(nodes), -1)
    return _Table(
        logs_MC=torch.cat([factors_MYX.log(), anyone_1YX]).flatten(1),
        equal_MC=(equal_MX[:, None] / factors_MYX).flatten(1),
        own_MC=(own_MYX / factors_MYX * weights_Y1 * circle.weights_X).flatten(1),
    )


def _real(numbers_XC: Tensor) -> Tensor:
    """Complex [X, C] as float64 [X, 2 C]."""
    return torch.view_as_real(numbers_XC.resolve_conj()).flatten(1)


def _complex(numbers_XC: Tensor) -> Tensor:
    """The inverse of `_real`."""
    return torch.view_as_complex(numbers_XC.unflatten(1, (-1, 2)))


def _silence(num_silent_B1: Tensor, n: int, k: int) -> Tensor:
    """[B, 1] probability that none of k - 1 of the n - 1 samples other than one that votes has an answer."""
    j_K = torch.arange(k - 1)
    return ((num_silent_B1 - j_K).clamp(min=0).double() / (n - 1 - j_K)).prod(dim=1, keepdim=True)


def _weight_apart(ballots: _Ballots, b: int, a: int, n: int, k: int) -> float:
    """Of a sample of answer a of prompt b, for each unit by which its reward lies above the answer's mean.

    For one answer at a time: with most verifiers the answer decides over the reward, and this is never asked for.
    """
    counts_A = ballots.counts_BA[b].clone()
    counts_A[a] -= 1  # the sample itself
    num_others = int(counts_A[a])
    is_own_A = torch.arange(len(counts_A)) == a
    there_A = counts_A > 0
    wins_low, wins_high = majority_values(
        counts_A[there_A].tolist(),
        is_own_A[there_A].double().tolist(),
        [k - 1, k],
        num_silent=int(ballots.num_silent_B1[b]),
    )
    return (k / n * wins_low + ((1 - k / n) * wins_high if k < n else 0.0)) / num_others
