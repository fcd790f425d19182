"""Weights and log-probs -> the loss whose gradient is the objective's.

Shapes: `T` completion tokens of a micro-batch, `S` sequences of the whole step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from learner.batch import PackedBatch

MAX_LOG_RATIO = 20.0
"""Ratios are reported up to exp(20); what enters the loss is bounded far below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFacts:
    """Sums over the tokens (or sequences) of one micro-batch, to be added up over a step."""

    loss: float = 0.0
    num_tokens: float = 0
    num_sequences: float = 0
    ratio_sum: float = 0.0
    num_truncated: float = 0
    kl_sum: float = 0.0
    """k3 estimate of KL(behaviour -> policy): sum of rho - 1 - log rho, in nats."""
    sequence_deviation_sum: float = 0.0
    """Over sequences: |prod_t rho_t - 1|."""

    def __add__(self, other: LossFacts) -> LossFacts:
        return LossFacts(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


def micro_batch_loss(
    logprobs_T: torch.Tensor, batch: PackedBatch, weights_S: torch.Tensor, num_groups: int, max_ratio: float
) -> tuple[torch.Tensor, LossFacts]:
    """-(1/B) sum_b sum_i w_bi sum_t min(rho_t, max_ratio) logp_t, rho_t = exp(logp_t - behaviour_t) held constant.

    B counts the groups of the whole step, whatever their weights: dividing by the number of groups
    with a signal would re-weight prompts. Log-probs are summed over tokens, never averaged over a
    sequence. Token-level truncated importance weights after ESTIMATORS.md, section F (2): exact on
    policy, off policy a bias bounded by the staleness, in exchange for a bounded variance.
    """
    log_ratios_T = (logprobs_T.detach() - batch.behaviour_logprobs).clamp(max=MAX_LOG_RATIO)
    coefficients_T = weights_S[batch.sequence_ids] * log_ratios_T.clamp(max=math.log(max_ratio)).exp()
    loss = -(coefficients_T * logprobs_T).sum() / num_groups

    ratios_T = log_ratios_T.exp()
    log_ratios_S = torch.zeros_like(weights_S).index_add_(0, batch.sequence_ids, log_ratios_T)
    present_S = torch.zeros_like(weights_S).index_fill_(0, batch.sequence_ids, 1.0)
    sequence_deviations_S = (log_ratios_S.clamp(max=MAX_LOG_RATIO).exp() - 1).abs() * present_S
    sums = torch.stack(
        [
            loss.detach(),
            present_S.sum(),
            ratios_T.sum(),
            (ratios_T > max_ratio).sum(),
            (ratios_T - 1 - log_ratios_T).sum(),
            sequence_deviations_S.sum(),
        ]
    ).tolist()
    return loss, LossFacts(
        loss=sums[0],
        num_tokens=len(log_ratios_T),
        num_sequences=sums[1],
        ratio_sum=sums[2],
        num_truncated=sums[3],
        kl_sum=sums[4],
        sequence_deviation_sum=sums[5],
    )
