"""Weights and log-probs -> the loss whose gradient is the objective's.

Shapes: `T` completion tokens of a micro-batch, the first `U` of them sampled and the others
demonstrations', `S` sequences of the whole step, the first `M` of them samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch

from learner.config import Importance, LearnerConfig
from learner.gang import Gang
from learner.step.batch import PackedBatch
from learner.types import staleness_ratio

MAX_LOG_RATIO = 20.0
"""Ratios are followed up to exp(20), beyond which no sample carries information."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ratios:
    """log (pi / mu) of the sampled tokens of a micro-batch, policy over sampler, held constant."""

    log_token_U: torch.Tensor  # float32, at most MAX_LOG_RATIO
    log_sequence_U: torch.Tensor  # float32, summed over the token's whole sequence, at most MAX_LOG_RATIO
    weights_U: torch.Tensor  # float32, the objective's weight of the token's sample


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factors:
    """What the terms of a sampled token are multiplied by, to make up for its having been sampled from mu."""

    policy_U: torch.Tensor  # float32
    reference_U: torch.Tensor  # float32, of the divergence to the reference, which has no weight's sign
    is_cut_U: torch.Tensor  # bool, truncated or clipped


def token(ratios: Ratios, config: LearnerConfig) -> Factors:
    """min(rho_t, max_importance_ratio), one factor a token.

    Source: truncated importance sampling, docs/off-policy.md.
    Corrects each token given those before it, not the distribution of those before it.
    """
    factors_U = ratios.log_token_U.clamp(max=math.log(config.max_importance_ratio)).exp()
    is_cut_U = ratios.log_token_U.exp() > config.max_importance_ratio
    return Factors(policy_U=factors_U, reference_U=factors_U, is_cut_U=is_cut_U)


def sequence(ratios: Ratios, config: LearnerConfig) -> Factors:
    """min(prod_t rho_t, max_importance_ratio), one factor a sample.

    Source: docs/off-policy.md. Below the bound the sample's own mismatch is corrected exactly; its
    variance grows with the length, so it is of use while log prod_t rho_t has a deviation below 1.
    """
    factors_U = ratios.log_sequence_U.clamp(max=math.log(config.max_importance_ratio)).exp()
    is_cut_U = ratios.log_sequence_U > math.log(config.max_importance_ratio)
    return Factors(policy_U=factors_U, reference_U=factors_U, is_cut_U=is_cut_U)


def ppo_clip(ratios: Ratios, config: LearnerConfig) -> Factors:
    """rho_t, or 0 where w > 0 and rho_t > 1 + clip_high, and where w < 0 and rho_t < 1 - clip_low.

    Source: the gradient of PPO's clipped surrogate min(rho w, clip(rho) w), arXiv 1707.06347;
    clip_high of its own: DAPO, arXiv 2503.14476. Where w < 0 the factor has no upper bound.
    The divergence to the reference has no sign to clip by: min(rho_t, 1 + clip_high).
    """
    ratios_U = ratios.log_token_U.exp()
    is_cut_U = ((ratios.weights_U > 0) & (ratios_U > 1 + config.clip_high)) | (
        (ratios.weights_U < 0) & (ratios_U < 1 - config.clip_low)
    )
    return Factors(
        policy_U=ratios_U.masked_fill(is_cut_U, 0.0),
        reference_U=ratios_U.clamp(max=1 + config.clip_high),
        is_cut_U=is_cut_U,
    )


def none(ratios: Ratios, config: LearnerConfig) -> Factors:
    """1: samples of another policy are taken for the policy's own. Biased as soon as they are stale."""
    ones_U = torch.ones_like(ratios.log_token_U)
    return Factors(policy_U=ones_U, reference_U=ones_U, is_cut_U=torch.zeros_like(ones_U, dtype=torch.bool))


IMPORTANCE: dict[Importance, Callable[[Ratios, LearnerConfig], Factors]] = {
    "token": token,
    "sequence": sequence,
    "ppo_clip": ppo_clip,
    "none": none,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFacts:
    """Sums over one micro-batch, to be added up over a step. Counts and ratios are of samples only."""

    loss: float = 0.0
    num_tokens: float = 0
    num_sequences: float = 0
    ratio_sum: float = 0.0
    num_cut: float = 0
    kl_sum: float = 0.0
    """k3 estimate of KL(behaviour -> policy): sum of rho - 1 - log rho, in nats."""
    num_stale: float = 0
    """Tokens sampled under older versions than the policy's."""
    stale_kl_sum: float = 0.0
    """The part of `kl_sum` that is theirs."""
    kl_reference: float = 0.0
    """The term of the loss without its coefficient: nats a sample, divided by the samples of the whole step."""
    demonstration_logprob: float = 0.0
    """Log-prob of a whole demonstration in nats, divided by the groups of the whole step."""

    def __add__(self, other: LossFacts) -> LossFacts:
        return LossFacts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(LossFacts)}
        )

    def over(self, gang: Gang) -> LossFacts:
        """Those of all ranks together, on each of them."""
        values = np.array([getattr(self, f.name) for f in fields(self)])
        return LossFacts(**dict(zip((f.name for f in fields(self)), gang.sum(values).tolist(), strict=True)))

    def means(self, num_select: int, rounding_kl: float) -> dict[str, float]:
        """The facts of a step as `learner.types.StepResult` describes them, but for `demonstration_logprob`.

        `rounding_kl`: what tokens show that were compared under their own version, k3 in nats a token.
        Source: docs/off-policy.md#how-stale-is-too-stale.
        """
        num_tokens, num_sequences = max(1, self.num_tokens), max(1, self.num_sequences)
        rounding_kl_sum = rounding_kl * self.num_stale
        staleness_kl = (self.stale_kl_sum - rounding_kl_sum) / num_sequences
        return {
            "loss": self.loss,
            "trained_tokens": float(self.num_tokens),
            "trained_sequences": float(self.num_sequences),
            "ratio_mean": self.ratio_sum / num_tokens if self.num_tokens else 1.0,
            "ratio_truncated_fraction": self.num_cut / num_tokens,
            "kl": self.kl_sum / num_tokens,
            "kl_reference": self.kl_reference,
            "rounding_kl": rounding_kl_sum / num_sequences,
            "staleness_kl": staleness_kl,
            "staleness_ratio": staleness_ratio(staleness_kl, num_select),
        }


def micro_batch_loss(
    logprobs_T: torch.Tensor,
    batch: PackedBatch,
    weights_M: torch.Tensor,
    num_groups: int,
    config: LearnerConfig,
    reference_logprobs_T: torch.Tensor | None = None,
    version: int | None = None,
    num_samples: int | None = None,
) -> tuple[torch.Tensor, LossFacts]:
    """-(1/B) [sum_b sum_i w_bi sum_t f_t logp_t + sum_b log pi(y*_b)] + kl_coefficient (1/M) sum_b sum_i sum_t g_t k3_t.

    f_t and g_t come from `IMPORTANCE`, held constant, with rho_t = exp(logp_t - behaviour_t);
    k3_t = rho - 1 - log rho with rho = pi_ref / pi, only with reference log-probs; y*_b the batch's
    demonstrations, which were not sampled and have no ratio. B = `num_groups` and M = `num_samples` (None: those of
    `weights_M`) count the groups and samples of the whole step, whatever their weights: dividing by those with a signal
    would re-weight prompts. Log-probs are summed over tokens, never averaged over a sequence.
    Source, and what is biased and by how much: docs/off-policy.md.
    """
    num_sampled = batch.num_sampled_tokens
    sequence_ids_U, logprobs_U = batch.sequence_ids[:num_sampled], logprobs_T[:num_sampled]
    log_ratios_U = (logprobs_U.detach() - batch.behaviour_logprobs).clamp(max=MAX_LOG_RATIO)
    log_ratios_M = torch.zeros_like(weights_M).index_add_(0, sequence_ids_U, log_ratios_U)
    log_ratios_M = log_ratios_M.clamp(max=MAX_LOG_RATIO)
    weights_U = weights_M[sequence_ids_U]
    factors = IMPORTANCE[config.importance](
        Ratios(log_token_U=log_ratios_U, log_sequence_U=log_ratios_M[sequence_ids_U], weights_U=weights_U),
        config,
    )
    demonstrated = logprobs_T[num_sampled:].sum()
    loss = -((weights_U * factors.policy_U * logprobs_U).sum() + demonstrated) / num_groups
    kl_reference = torch.zeros_like(loss)
    if reference_logprobs_T is not None:
        log_rho_U = (reference_logprobs_T[:num_sampled] - logprobs_U).clamp(max=MAX_LOG_RATIO)
        kl_reference = (factors.reference_U * (log_rho_U.expm1() - log_rho_U)).sum() / (
            num_samples or len(weights_M)
        )
        loss = loss + config.kl_coefficient * kl_reference

    ratios_U = log_ratios_U.exp()
    present_M = torch.zeros_like(weights_M).index_fill_(0, sequence_ids_U, 1.0)
    k3_U = ratios_U - 1 - log_ratios_U
    is_stale_U = torch.ones_like(factors.is_cut_U) if version is None else batch.versions != version
    sums = torch.stack(
        [
            loss.detach(),
            present_M.sum(),
            ratios_U.sum(),
            factors.is_cut_U.sum(),
            k3_U.sum(),
            is_stale_U.sum(),
            k3_U[is_stale_U].sum(),
            kl_reference.detach(),
            demonstrated.detach() / num_groups,
        ]
    ).tolist()
    return loss, LossFacts(
        loss=sums[0],
        num_tokens=num_sampled,
        num_sequences=sums[1],
        ratio_sum=sums[2],
        num_cut=sums[3],
        kl_sum=sums[4],
        num_stale=sums[5],
        stale_kl_sum=sums[6],
        kl_reference=sums[7],
        demonstration_logprob=sums[8],
    )
