"""Policies of a few outcomes: exact gradients of values, exact moments of gradient estimates.

Shapes: `G` multisets of samples, `N` samples of each, `V` outcomes. Gradients are with respect to the logits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.objectives.config import ObjectiveConfig
from learner.objectives.table import OBJECTIVES, Groups

Value = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """Outcomes of one prompt: probability, reward, score of the verifier, length in tokens."""

    policy: tuple[float, ...]
    rewards: tuple[float, ...]
    scores: tuple[float, ...]
    lengths: tuple[int, ...]

    @property
    def is_binary(self) -> bool:
        return set(self.rewards) <= {0.0, 1.0}


EASY = Toy(policy=(0.3, 0.2, 0.35, 0.15), rewards=(1, 1, 0, 0), scores=(1, 1, 0, 0), lengths=(4, 8, 8, 16))
HARD = Toy(policy=(0.07, 0.03, 0.6, 0.3), rewards=(1, 1, 0, 0), scores=(1, 1, 0, 0), lengths=(4, 8, 8, 16))
TOYS: dict[str, tuple[Toy, ...]] = {
    "binary, easy": (EASY,),
    "binary, hard": (HARD,),
    "hard and easy": (HARD, EASY),
    "noisy verifier": (
        Toy(
            policy=(0.05, 0.1, 0.1, 0.15, 0.25, 0.35),
            rewards=(1, 1, 0, 1, 0, 0),
            scores=(6, 4, 5, 2, 3, 1),
            lengths=(4, 8, 8, 4, 8, 16),
        ),
    ),
    "poor verifier, ties": (
        Toy(
            policy=(0.15, 0.2, 0.1, 0.25, 0.1, 0.2),
            rewards=(1, 0, 1, 0, 1, 0),
            scores=(3, 3, 2, 2, 1, 1),
            lengths=(4, 8, 8, 4, 8, 16),
        ),
    ),
    "continuous": (
        Toy(
            policy=(0.05, 0.1, 0.15, 0.2, 0.2, 0.3),
            rewards=(1.0, 0.8, 0.5, 0.3, 0.1, 0.0),
            scores=(6, 5, 4, 3, 2, 1),
            lengths=(4, 8, 8, 4, 8, 16),
        ),
    ),
}
"""Name -> prompts; of several prompts the gradients stand side by side, each with logits of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    mean: Tensor
    trace: float  # of the covariance


def vector(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- exact values and their gradients ------------------------------------------------------------------


def best_of(toy: Toy, k: int, *, by_reward: bool = False) -> Value:
    """J_k by the levels of the score: sum of mean reward times (F^k - F-^k)."""
    rewards_V = vector(toy.rewards)
    scores_V = rewards_V if by_reward else vector(toy.scores)

    def value(policy: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for level in scores_V.unique():
            upto, below = policy[scores_V <= level].sum(), policy[scores_V < level].sum()
            at = scores_V == level
            total = total + (upto**k - below**k) * (policy[at] @ rewards_V[at]) / policy[at].sum()
        return total

    return value


def most_frequent_of(toy: Toy, k: int) -> Value:
    """majority@k, every outcome an answer of its own, by the multisets of k outcomes."""
    ys_GK = torch.tensor(list(itertools.combinations_with_replacement(range(len(toy.policy)), k)))
    votes_GV = torch.nn.functional.one_hot(ys_GK, len(toy.policy)).sum(dim=1).double()
    wins_GV = (votes_GV == votes_GV.amax(dim=1, keepdim=True)).double()
    rewards_G = wins_GV @ vector(toy.rewards) / wins_GV.sum(dim=1)
    ways_G = (math.lgamma(k + 1) - (votes_GV + 1).lgamma().sum(dim=1)).exp()
    return lambda policy: (ways_G * policy[ys_GK].prod(dim=1) * rewards_G).sum()


def first_terms_of_log(toy: Toy, num_terms: int) -> Value:
    return lambda policy: sum(
        (best_of(toy, k, by_reward=True)(policy) / k for k in range(1, num_terms + 1)), torch.zeros(())
    )


def own_value(config: ObjectiveConfig, toy: Toy, n: int) -> Value | None:
    """The estimand of the objective's row; None where it has none."""
    if config.name == "bon":
        return best_of(toy, config.fixed_num_select)
    if config.name in ("pass_at_k", "max_at_k"):
        return best_of(toy, config.fixed_num_select, by_reward=True)
    if config.name == "majority":
        return most_frequent_of(toy, config.fixed_num_select)
    if config.name in ("rloo", "rft"):
        return best_of(toy, 1, by_reward=True)
    if config.name == "maxrl":
        return first_terms_of_log(toy, n - 1)
    if config.name == "grpo_passk" and not config.divide_by_std:
        return best_of(toy, n, by_reward=True)
    return None


def gradient(toy: Toy, value: Value) -> Tensor:
    logits = vector(toy.policy).log().requires_grad_()
    (result,) = torch.autograd.grad(value(logits.softmax(0)), logits)
    return result


# --- expectation and covariance of an estimate ----------------------------------------------------------


def multisets(toy: Toy, n: int) -> tuple[Tensor, Tensor]:
    """Outcomes of every multiset of n samples [G, n] and their probabilities [G]."""
    ys_GN = torch.tensor(list(itertools.combinations_with_replacement(range(len(toy.policy)), n)))
    counts_GV = torch.nn.functional.one_hot(ys_GN, len(toy.policy)).sum(dim=1).double()
    policy_V = vector(toy.policy)
    log_G = math.lgamma(n + 1) - (counts_GV + 1).lgamma().sum(dim=1) + counts_GV @ policy_V.log()
    return ys_GN, log_G.exp()


def moments(toy: Toy, ys_GN: Tensor, probability_G: Tensor, weights_GN: Tensor) -> Moments:
    """Of sum_i w_i grad log pi(y_i)."""
    policy_V = vector(toy.policy)
    estimates_GV = torch.zeros(len(ys_GN), len(policy_V), dtype=torch.float64)
    estimates_GV.scatter_add_(1, ys_GN, weights_GN)
    estimates_GV -= weights_GN.sum(dim=1, keepdim=True) * policy_V
    mean_V = probability_G @ estimates_GV
    return Moments(mean=mean_V, trace=float(probability_G @ (estimates_GV - mean_V).square().sum(dim=1)))


def moments_of(config: ObjectiveConfig, toy: Toy, n: int, expert: float = 0.0) -> Moments:
    ys_GN, probability_G = multisets(toy, n)
    groups = Groups(
        scores_BN=vector(toy.scores)[ys_GN],
        rewards_BN=vector(toy.rewards)[ys_GN],
        lengths_BN=torch.tensor(toy.lengths)[ys_GN],
        answers_BN=(ys_GN[:, :, None] == ys_GN[:, None, :]).long().argmax(dim=2),
        demonstration_scores_B=torch.full((len(ys_GN),), expert, dtype=torch.float64),
    )
    return moments(toy, ys_GN, probability_G, OBJECTIVES[config.name].weights(groups, config))


def of_groups(part: Moments, num_groups: int) -> Moments:
    """Of the mean over independent groups."""
    return Moments(mean=part.mean, trace=part.trace / num_groups)


def beside(parts: list[Moments]) -> Moments:
    return Moments(mean=torch.cat([part.mean for part in parts]), trace=sum(part.trace for part in parts))


def compare(estimate: Moments, exact: Tensor) -> dict[str, float]:
    mean, norm = estimate.mean, float(exact.norm())
    return {
        "bias": float((mean - exact).norm()) / norm,
        "cosine": float(mean @ exact / mean.norm()) / norm,
        "variance": estimate.trace / norm**2,
        "noise": estimate.trace / float(mean.norm()) ** 2,
    }
