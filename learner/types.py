"""What the learner hands on: the outcome of a step and published weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STALENESS_WARNING = 0.2
"""`staleness_ratio` above which samples are too old for what corrects them: docs/off-policy.md."""


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
    `staleness_ratio` ((N - 1) * mean |pi / mu - 1| over sequences / 2, about N - 1 times the total variation
    where samples of all kinds have a weight; N is the objective's num_select, or 1 without one; see
    STALENESS_WARNING);

    over all samples: `kl_reference` (policy to reference, nats a sample, corrected by `learner.importance`;
    0 when learner.kl_coefficient is 0);

    over demonstrations, with an objective that imitates them only: `demonstration_logprob` (mean log-prob of a
    whole demonstration at the run's temperature, nats);

    over tokens whose own version's weights are at hand: `parity_mean`, `parity_max` (|log-prob of the
    learner - log-prob of the engine|, nats) and their number `parity_tokens`;

    `num_groups`, `num_samples`, `positions` (computed in the passes that train),
    `prompt_sharing` (how many times as many they would be with a prompt for each sequence), and seconds
    `forward_s`, `backward_s`, `optimizer_s`, `parity_s`, `publish_s`, `step_s`; `stepped_at_s`, the wall clock
    (Unix time) when the parameters had their new values."""
    parity_by_worker: dict[str, float]
    """Largest log-prob difference, in nats, by rollout worker; only workers with tokens compared."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublishedWeights:
    """One version of the weights as bytes, laid out by the learner's manifest. Never written again."""

    version: int
    fingerprint: int
    buckets: tuple[np.ndarray, ...]  # uint8 [bucket size] each
