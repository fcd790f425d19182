"""The loops behind the weights of the majority vote, compiled by Numba: `vote.majority_weights` says what they compute.

Loops and not tensors, because the work goes by a prompt's own answers: tensors would have it for those of all prompts.

Shapes: `N` samples of a prompt, `A` its answers, `G` the different numbers of samples that gave one of them, descending;
`X` points of a circle, `Y` nodes of a quadrature, `C` = Y X both at once. `M` goes over numbers of samples, `V` over
numbers of votes, `T` over numbers of ties. Where a sum over C ends in a coefficient, its real part is taken.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from learner.objectives.majority import probabilities, quadrature

PRECISION = 1e-11
"""Largest error of a weight, as a share of k / n times the range of the prompt's rewards; rounding of rewards apart.

What cancels is larger than what is left by max |E / F|, which is below 1e5 for up to 512 samples.
"""
SMALLEST_SQUARE = 1e-300
"""Of the size of a factor F. A product with a smaller one is nothing, and has to stay so when F is divided out again."""

compiled = njit(nogil=True, error_model="numpy")
# Sums may be reordered, so that several terms are added at once.
compiled_sums = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})


class Circle(NamedTuple):
    """Points x = odds e^(i angle) of the upper half of a circle; those of the lower half are conjugate to them.

    Divided by (1 + odds)^m, C(m, v) odds^v is the probability of v among m samples that are each taken with these odds.
    """

    probability_MV: np.ndarray  # these probabilities
    turns_VX: np.ndarray  # e^(i v angle)
    # With these weights a sum over X of f / e^(i (2v - 1) angle) is f's coefficient of x^(k-1) over C(n-1, k-1).
    weights_VX: np.ndarray
    anyone_MX: np.ndarray  # ((1 + x) / (1 + odds))^m
    num_nodes_T: np.ndarray  # of the quadrature, by the most answers that may tie with a sample's own
    nodes_YY: np.ndarray  # in row Y those of Y nodes
    node_weights_YY: np.ndarray


@lru_cache(maxsize=16)
def circle(n: int, k: int) -> Circle:
    """As many points as it takes to tell x^(k-1) from the other powers up to n - 1, but for a share of PRECISION.

    An even number, and none of them real: on the negative axis a factor F could vanish.
    """
    odds = (k - 1) / (n - k + 1)  # k - 1 samples are about the likeliest number, also at k = n
    most_votes = k // 2
    likely_N = probabilities(n - 1, n - 1, odds)
    num_points = 2
    while likely_N[(k - 1) % num_points :: num_points].sum() > (1 + PRECISION / 2) * likely_N[k - 1]:
        num_points += 2
    turns_X = np.exp(2j * np.pi / num_points * (np.arange(num_points // 2) + 0.5))
    votes_V1 = np.arange(most_votes + 1)[:, None]
    num_nodes_T = _num_nodes(k)
    nodes_YY, node_weights_YY = np.zeros((2, num_nodes_T[-1] + 1, num_nodes_T[-1]))
    for num_nodes in set(num_nodes_T.tolist()):
        nodes_YY[num_nodes, :num_nodes], node_weights_YY[num_nodes, :num_nodes] = quadrature(num_nodes)
    return Circle(
        probability_MV=np.stack([probabilities(m, most_votes, odds) for m in range(n + 1)]),
        turns_VX=turns_X**votes_V1,
        weights_VX=2 / (num_points * likely_N[k - 1]) * turns_X ** (2 * votes_V1 - k),
        anyone_MX=((1 + odds * turns_X) / (1 + odds)) ** np.arange(n + 1)[:, None],
        num_nodes_T=num_nodes_T,
        nodes_YY=nodes_YY,
        node_weights_YY=node_weights_YY,
    )


def _num_nodes(num_powers: int) -> np.ndarray:
    """[T] for each T the fewest nodes that integrate y^0 to y^T for a weight within PRECISION / 10.

    Where t others are level, y^t counts up to t + 1 times: once for each b.
    """
    t = np.arange(num_powers)
    num_nodes_T = np.zeros(num_powers, np.int64)
    num_nodes = 0
    while np.any(num_nodes_T == 0):
        num_nodes += 1
        nodes, weights = quadrature(num_nodes)
        errors_T = np.abs(nodes ** t[:, None] @ weights - 1 / (t + 1))
        is_enough_T = np.maximum.accumulate((t + 1) * errors_T) < PRECISION / 10
        num_nodes_T[is_enough_T & (num_nodes_T == 0)] = num_nodes
    return num_nodes_T


@compiled
def weigh(
    k: int,
    circle: Circle,
    answers_BN: np.ndarray,
    rewards_BN: np.ndarray,
    weights_BN: np.ndarray,
    means_BN: np.ndarray,
    is_mixed_BN: np.ndarray,
) -> None:
    """Write each sample's weight, its answer's mean reward and whether rewards of the answer differ; else leave zeros.

    What differing rewards add to the weight is not in it yet.
    """
    for b in range(len(answers_BN)):
        _weigh_prompt(k, circle, answers_BN[b], rewards_BN[b], weights_BN[b], means_BN[b], is_mixed_BN[b])


@compiled
def _weigh_prompt(k, circle, answers_N, rewards_N, weights_N, means_N, is_mixed_N):
    n = len(answers_N)
    counts_A = np.zeros(n, np.int64)
    means_A, is_mixed_A = np.zeros(n), np.zeros(n, np.bool_)
    for i in range(n):
        a = answers_N[i]
        if a < 0:
            continue
        is_mixed_A[a] |= counts_A[a] > 0 and rewards_N[i] != means_A[a]
        counts_A[a] += 1
        means_A[a] += (rewards_N[i] - means_A[a]) / counts_A[a]  # of equal rewards exactly these
    silent = n - counts_A.sum()
    lowest, highest = np.inf, -np.inf
    for a in range(n):
        if counts_A[a] > 0:
            lowest, highest = min(lowest, means_A[a]), max(highest, means_A[a])

    numbers_M, rewards_M = np.zeros(n + 1, np.int64), np.zeros(n + 1)
    for a in range(n):
        if counts_A[a] > 0:
            numbers_M[counts_A[a]] += 1
            rewards_M[counts_A[a]] += means_A[a] - lowest
    own_M, others_M = np.zeros(n + 1), np.zeros(n + 1)
    if highest > lowest:  # else no outcome is better than another
        sizes_G = np.nonzero(numbers_M)[0][::-1].copy()
        own_G, others_G = _turned(sizes_G, numbers_M[sizes_G], rewards_M[sizes_G], silent, k, circle)
        own_M[sizes_G], others_M[sizes_G] = own_G, others_G

    silence = 1.0  # the probability that none of k - 1 samples other than one that votes has an answer
    for j in range(k - 1):
        silence *= max(silent - j, 0) / (n - 1 - j)
    for i in range(n):
        a = answers_N[i]
        if a < 0:
            continue
        turned = (means_A[a] - lowest) * own_M[counts_A[a]] - others_M[counts_A[a]]
        if abs(turned) <= PRECISION * (highest - lowest):
            turned = 0.0
        weights_N[i] = k / n * (turned + means_A[a] * silence)
        means_N[i] = means_A[a]
        is_mixed_N[i] = is_mixed_A[a]


@compiled_sums
def _turned(sizes_G, numbers_G, rewards_G, silent, k, circle):
    """[G] sum_b K_ab and sum_b R_b K_ab for an answer a of each size, R the mean reward above the prompt's lowest.

    b = a is in both: it cancels where the second is subtracted from R_a times the first.
    """
    probability_MV, turns_VX, weights_VX, anyone_MX, num_nodes_T, nodes_YY, node_weights_YY = circle
    num_sizes, num_points = len(sizes_G), turns_VX.shape[1]
    own_G, others_G = np.zeros(num_sizes), np.zeros(num_sizes)
    fewer_GX = np.zeros((num_sizes, num_points), np.complex128)
    most_columns = nodes_YY.shape[1] * num_points
    # Conjugate inverses: the real parts of their products with other numbers are then sums of products.
    inverse_GC = np.empty((num_sizes, most_columns), np.complex128)
    product_C, factor_C = np.empty_like(inverse_GC[0]), np.empty_like(inverse_GC[0])
    own_C, others_C = np.empty_like(product_C), np.empty_like(product_C)
    own_level_C, others_level_C = np.empty_like(product_C), np.empty_like(product_C)
    own_ahead_C, others_ahead_C = np.empty_like(product_C), np.empty_like(product_C)
    # The outcome turns between two answers that can have v votes each.
    second = sizes_G[0] if numbers_G[0] > 1 else sizes_G[1]
    for v in range(1, min(k // 2, second) + 1):
        num_able, num_able_sizes, unlimited, most = 0, 0, silent, silent
        for g in range(num_sizes):
            m = sizes_G[g]
            most += numbers_G[g] * min(m, v)
            if m < v:  # limited by nothing: with the silent a factor (1 + x)^m
                unlimited += numbers_G[g] * m
                continue
            num_able += numbers_G[g]
            num_able_sizes = g + 1
            for x in range(num_points):
                fewer_GX[g, x] += probability_MV[m, v - 1] * turns_VX[v - 1, x]
        if most < k - 1:  # of k - 1 samples some answer has more votes
            continue

        num_nodes = num_nodes_T[min(k // v, num_able) - 1]
        num_columns = num_nodes * num_points
        for y in range(num_nodes):
            for x in range(num_points):
                product_C[y * num_points + x] = (
                    node_weights_YY[num_nodes, y] * weights_VX[v, x] * anyone_MX[unlimited, x]
                )
        own_C[:num_columns], others_C[:num_columns] = 0, 0
        for g in range(num_able_sizes):
            equal = probability_MV[sizes_G[g], v]
            for y in range(num_nodes):
                equal_y = equal * nodes_YY[num_nodes, y]
                for x in range(num_points):
                    factor = fewer_GX[g, x] + equal_y * turns_VX[v, x]
                    square = max(factor.real * factor.real + factor.imag * factor.imag, SMALLEST_SQUARE)
                    factor_C[y * num_points + x] = factor
                    inverse_GC[g, y * num_points + x] = factor * (1.0 / square)
            equals, rewarded = numbers_G[g] * equal, rewards_G[g] * equal
            for c in range(num_columns):
                own_C[c] += equals * inverse_GC[g, c]
                others_C[c] += rewarded * inverse_GC[g, c]
            _multiply(product_C, factor_C, numbers_G[g], num_columns)

        for y in range(num_nodes):
            node = nodes_YY[num_nodes, y]
            for x in range(num_points):
                c = y * num_points + x
                own, others = own_C[c].conjugate() * product_C[c], others_C[c].conjugate() * product_C[c]
                own_level_C[c], others_level_C[c] = (1 - node) * own, (1 - node) * others
                ahead = node * turns_VX[1, x]
                own_ahead_C[c], others_ahead_C[c] = ahead * own, ahead * others
        for g in range(num_able_sizes):
            own_level, own_ahead, others_level, others_ahead = 0.0, 0.0, 0.0, 0.0
            for c in range(num_columns):
                own_level += _product(inverse_GC[g, c], own_level_C[c])
                own_ahead += _product(inverse_GC[g, c], own_ahead_C[c])
                others_level += _product(inverse_GC[g, c], others_level_C[c])
                others_ahead += _product(inverse_GC[g, c], others_ahead_C[c])
            level, ahead = probability_MV[sizes_G[g] - 1, v - 1], probability_MV[sizes_G[g] - 1, v]
            own_G[g] += level * own_level + ahead * own_ahead
            others_G[g] += level * others_level + ahead * others_ahead
    return own_G, others_G


@compiled_sums
def _multiply(product_C, base_C, exponent, num_columns):
    """Multiply the first columns by a power of `base_C`, which is lost."""
    while True:
        if exponent & 1:
            for c in range(num_columns):
                product_C[c] *= base_C[c]
        exponent >>= 1
        if exponent == 0:
            return
        for c in range(num_columns):
            base_C[c] *= base_C[c]


@compiled_sums
def _product(conjugate, number):
    """The real part of a product, one of whose factors is given as its conjugate."""
    return conjugate.real * number.real + conjugate.imag * number.imag
