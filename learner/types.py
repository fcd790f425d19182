"""What the learner hands on: the outcome of a step and published weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Packing = Literal["shared", "packed", "rows"]
"""shared: one row, and the prompt of a group once; packed: one row, each sequence with its prompt; rows: a
row for each sequence, for models whose layers carry a state from one position to the next."""

STALENESS_WARNING = 0.2
"""`staleness_ratio` above which samples are too old for what corrects them: docs/off-policy.md."""


def staleness_ratio(kl: float, num_select: int) -> float:
    """(N - 1) * TV(pi, mu), for N = `num_select` and `kl` nats a sample from sampler mu to policy pi.

    Exact where log (pi / mu) of a sample is normal: as E_mu[pi / mu] = 1 its mean is -kl and its variance 2 kl,
    and TV = P(z < sqrt(2 kl) / 2) - P(z < -sqrt(2 kl) / 2) = erf(sqrt(kl) / 2). Source: docs/off-policy.md.
    """
    return (num_select - 1) * math.erf(math.sqrt(max(0.0, kl)) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParity:
    """How a rollout worker's log-probs differ from the learner's on the same tokens and weights.

    log rho = learner - engine, in nats.
    """

    num_tokens: int
    difference_sum: float  # of |log rho|
    kl_sum: float  # of rho - 1 - log rho: the k3 estimate of KL(engine -> learner)
    largest: float  # |log rho|; grows with the number of tokens, so it is shown and judges nothing

    @property
    def mean(self) -> float:
        return self.difference_sum / self.num_tokens

    @property
    def kl(self) -> float:
        return self.kl_sum / self.num_tokens

    def __add__(self, other: WorkerParity) -> WorkerParity:
        return WorkerParity(
            num_tokens=self.num_tokens + other.num_tokens,
            difference_sum=self.difference_sum + other.difference_sum,
            kl_sum=self.kl_sum + other.kl_sum,
            largest=max(self.largest, other.largest),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepResult:
    """One optimizer step. Shapes: `B` groups in order of their number, `N` samples of each."""

    groups_B: np.ndarray  # int64 [B], group numbers: the rows of weights_BN
    weights_BN: np.ndarray  # float64 [B, N], the objective's coefficient of each sample's log-probability
    version: int  # after the step
    fingerprint: int  # of the weights published as `version`
    facts: dict[str, float]
    """Keys: `loss` (before it is divided by learner.loss_normaliser), `grad_norm` (after that, before clipping),
    `clipped` (1 where the gradient was scaled down to learner.max_grad_norm, else 0), `learning_rate`;

    over trained tokens (of samples with a non-zero weight; of all samples when there is a reference policy):
    `trained_tokens`, `trained_sequences`, `ratio_mean` (pi / mu, before any bound), `ratio_truncated_fraction`
    (share whose ratio was truncated or clipped), `kl` (behaviour to policy, nats a token),
    `staleness_kl` (behaviour to policy, nats a sample, of tokens of older versions, less what rounding makes of
    them; below 0 by chance), `rounding_kl` (what was subtracted: nats a sample, 0 where nothing is old),
    `staleness_ratio` (N - 1 times the total variation that `staleness_kl` means; N is the objective's num_select,
    or 1 without one; see `staleness_ratio` and STALENESS_WARNING);

    over all samples: `kl_reference` (policy to reference, nats a sample, corrected by `learner.importance`;
    0 when learner.kl_coefficient is 0);

    over all samples, with `objective.score_transform` only: `win_rate` and `bon_win_rate` (see `win_rates`);

    over demonstrations, with an objective that imitates them only: `demonstration_logprob` (mean log-prob of a
    whole demonstration at the run's temperature, nats);

    over tokens whose own version's weights are at hand: their number `parity_tokens`, `parity_mean` and
    `parity_max` (|log-prob of the learner - log-prob of the engine|, nats), `parity_kl` (k3 estimate of the KL
    from engine to learner, nats a token); `parity_positions` (computed for the comparison alone);

    `num_groups`, `num_samples`, `positions` (computed in the passes that train),
    `prompt_sharing` (how many times as many they would be with a prompt for each sequence), and seconds
    `forward_s`, `backward_s`, `optimizer_s`, `parity_s`, `publish_s`, `step_s` (passes that the step was begun with
    included, and no time between them); `stepped_at_s`, the wall clock (Unix time) when the parameters had their new
    values."""
    parity_by_worker: dict[str, WorkerParity]
    """By rollout worker; only workers with tokens compared."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublishedWeights:
    """One version of the weights as bytes, laid out by the learner's manifest. Never written again."""

    version: int
    fingerprint: int
    buckets: tuple[np.ndarray, ...]  # uint8 [bucket size] each
