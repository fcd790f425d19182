"""A policy of a few outcomes: gradients of estimands by autograd, expected gradients by full enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.objectives.config import ObjectiveConfig
from learner.objectives.table import OBJECTIVES, Groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """One prompt: outcomes with probability softmax(logits), each with its score, reward, length and answer."""

    logits: tuple[float, ...]
    rewards: tuple[float, ...]
    scores: tuple[float, ...]
    lengths: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()

    @property
    def policy(self) -> Tensor:
        return row(self.logits)[0].softmax(0)


def row(values: Sequence[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def groups(
    rewards: Sequence[Sequence[float]], scores=None, lengths=None, demonstration_scores=None, answers=None
) -> Groups:
    """Groups from rows; scores are the rewards, lengths 1 and samples of one reward one answer where it does not matter."""
    rewards_BN = torch.as_tensor(rewards, dtype=torch.float64)
    return Groups(
        scores_BN=rewards_BN if scores is None else torch.as_tensor(scores, dtype=torch.float64),
        rewards_BN=rewards_BN,
        lengths_BN=torch.ones_like(rewards_BN).long() if lengths is None else torch.as_tensor(lengths),
        answers_BN=numbered(rewards_BN if answers is None else torch.as_tensor(answers)),
        demonstration_scores_B=None
        if demonstration_scores is None
        else torch.as_tensor(demonstration_scores, dtype=torch.float64),
    )


def numbered(answers_BN: Tensor) -> Tensor:
    """[B, N] number of the prompt's first sample with an equal answer; -1 stays."""
    firsts_BN = (answers_BN[:, :, None] == answers_BN[:, None, :]).long().argmax(dim=2)
    return firsts_BN.where(answers_BN != -1, -1)


def weigh(
    config: ObjectiveConfig, rewards, scores=None, lengths=None, demonstration_scores=None, answers=None
) -> Tensor:
    """The objective's weights [B, N] of these groups."""
    given = groups(rewards, scores, lengths, demonstration_scores, answers)
    return OBJECTIVES[config.name].weights(given, config)


def expected_gradient(
    toy: Toy, num_samples: int, config: ObjectiveConfig, demonstration_score: float | None = None
) -> Tensor:
    """E[sum_i w_i grad log pi(y_i)] with respect to the logits, over every group of `num_samples` outcomes."""

    def weigh_all(ys_BN: Tensor) -> Tensor:
        return weigh(
            config,
            row(toy.rewards)[0][ys_BN],
            row(toy.scores)[0][ys_BN],
            torch.tensor(toy.lengths)[ys_BN] if toy.lengths else None,
            None if demonstration_score is None else [demonstration_score] * len(ys_BN),
            torch.tensor(toy.answers)[ys_BN] if toy.answers else None,
        )

    return expectation(toy, num_samples, weigh_all)


def expectation(toy: Toy, num_samples: int, weigh_all: Callable[[Tensor], Tensor]) -> Tensor:
    """The same for any function from outcomes [B, N] to weights [B, N]."""
    policy = toy.policy
    ys_BN = torch.cartesian_prod(*[torch.arange(len(policy))] * num_samples).reshape(-1, num_samples)
    weights_BN = weigh_all(ys_BN)
    probability_B = policy[ys_BN].prod(dim=1)
    scores_BNV = torch.eye(len(policy), dtype=torch.float64)[ys_BN] - policy
    return torch.einsum("b,bn,bnv->v", probability_B, weights_BN, scores_BNV)


def exact_gradient(toy: Toy, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient of value(policy) with respect to the logits, by autograd."""
    logits = row(toy.logits)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(value(logits.softmax(0)), logits)
    return gradient


def best_of(num_select: int, scores: Sequence[float], rewards: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """E[reward of the sample with the highest score among num_select], by enumeration of tuples."""

    def value(policy: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for ys in itertools.product(range(len(scores)), repeat=num_select):
            best = max(scores[y] for y in ys)
            winners = [rewards[y] for y in ys if scores[y] == best]
            total = total + policy[list(ys)].prod() * sum(winners) / len(winners)
        return total

    return value


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def assert_close(actual: Tensor, expected, tolerance: float = 1e-13) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=tolerance)
