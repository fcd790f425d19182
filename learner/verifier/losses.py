"""What a verifier is trained to minimise, and which candidates a step looks at.

Shapes: `S` sequences, of `P` problems; `C` distinct candidates of one problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional

from learner.verifier.config import VerifierLoss


def pointwise_loss(logits_S: Tensor, labels_S: Tensor, problems_S: Tensor) -> Tensor:
    """Sum over problems of the mean cross-entropy, in nats, of its candidates' `sigmoid(logit)`.

    Args:
        labels_S: in [0, 1]; between: the probability that a sample with this text is correct.
        problems_S: number of each sequence's problem, from 0.
    """
    entropies_S = functional.binary_cross_entropy_with_logits(logits_S, labels_S, reduction="none")
    return (entropies_S / problems_S.bincount()[problems_S]).sum()


def pairwise_loss(logits_S: Tensor, labels_S: Tensor, problems_S: Tensor) -> Tensor:
    """Sum over problems of the mean, over its (correct i, wrong j) pairs, of `-log sigmoid(logit_i - logit_j)`.

    Bradley and Terry's model of preferences, as for reward models (Ouyang et al., arXiv 2203.02155), within a
    problem: whatever is common to a problem's candidates, its difficulty above all, cancels. A problem without
    a pair adds 0.
    """
    num_problems = int(problems_S.max()) + 1
    correct_P = labels_S.new_zeros(num_problems).index_add(0, problems_S, labels_S)
    wrong_P = labels_S.new_zeros(num_problems).index_add(0, problems_S, 1 - labels_S)
    share_S = labels_S / (correct_P * wrong_P).clamp(min=1e-12)[problems_S]
    same_SS = problems_S[:, None] == problems_S
    weights_SS = same_SS * share_S[:, None] * (1 - labels_S)
    return (weights_SS * functional.softplus(logits_S - logits_S[:, None])).sum()


def draw_any(labels_C: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """At most `size` of the candidates, each as likely as any other: their places, int64."""
    return rng.permutation(len(labels_C))[:size]


def draw_both(labels_C: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """At most `size` candidates, half of them correct as far as there are so many of either kind."""
    shuffled = rng.permutation(len(labels_C))
    is_correct = labels_C[shuffled] > 0.5
    correct, wrong = shuffled[is_correct], shuffled[~is_correct]
    num_correct = min(len(correct), max(size // 2, size - len(wrong)))
    return np.concatenate([correct[:num_correct], wrong[: size - num_correct]])


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRow:
    """One way to train: what is minimised, on which candidates, of which problems."""

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    draw: Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
    needs_both_labels: bool
    """Problems whose candidates are all correct, or all wrong, are left out."""


LOSSES: Mapping[VerifierLoss, LossRow] = {
    "pointwise": LossRow(loss=pointwise_loss, draw=draw_any, needs_both_labels=False),
    "pairwise": LossRow(loss=pairwise_loss, draw=draw_both, needs_both_labels=True),
}
