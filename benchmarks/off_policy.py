"""Bias and deviation of the Best-of-N gradient from stale groups, by importance mode: exact, by enumeration.

A toy: answers of 3 binary tokens, groups of 6, N = 3, a verifier whose score is not the reward. The policy has
moved from the sampler along the gradient of its own Best-of-N value, until its ratios to the sampler deviate by
`sd_ratio` from 1. Expectation and covariance are over every possible group; the figures are means over toys.
The modes are the learner's own code at its default bounds. `group_product` weighs every subset of N samples by the
product of its ratios: unbiased, and for comparison only.

OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.off_policy > benchmarks/results/off_policy.json

Shapes: `Y` answers of `T` tokens, `P` parameters, `G` groups (multisets of answers) of `N` samples.
"""

from __future__ import annotations

import itertools
import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.config import LearnerConfig
from learner.objectives.estimators import bon_weights
from learner.step.loss import IMPORTANCE, Ratios

LENGTH, SAMPLES, SELECT, TOYS = 3, 6, 3, 20
SHIFTS = (0.0, 0.1, 0.2, 0.4, 0.8)
ANSWERS = torch.tensor(list(itertools.product((0, 1), repeat=LENGTH)))
STATES = torch.stack(  # [Y, T]: each prefix has a logit of its own
    [2**t - 1 + (ANSWERS[:, :t] * 2 ** torch.arange(t)).sum(dim=1) for t in range(LENGTH)], dim=1
)
GROUPS = torch.tensor(list(itertools.combinations_with_replacement(range(len(ANSWERS)), SAMPLES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """Scores with ties, rewards that they predict poorly, and the sampler."""

    scores_Y: Tensor
    rewards_Y: Tensor
    sampler_P: Tensor


def make_toy(seed: int) -> Toy:
    torch.manual_seed(seed)
    rewards_Y = torch.rand(len(ANSWERS), dtype=torch.float64)
    noise_Y = 0.5 * torch.randn(len(ANSWERS), dtype=torch.float64)
    return Toy(
        scores_Y=(4 * (rewards_Y + noise_Y)).round(),
        rewards_Y=rewards_Y,
        sampler_P=torch.randn(2**LENGTH - 1, dtype=torch.float64),
    )


def token_logprobs(parameters_P: Tensor) -> Tensor:
    """[Y, T]."""
    return torch.nn.functional.logsigmoid(parameters_P[STATES] * (2 * ANSWERS - 1))


def subset_value(toy: Toy, answers: Tensor) -> Tensor:
    """Mean reward of those with the highest score, over the last dimension."""
    scores = toy.scores_Y[answers]
    best = (scores == scores.amax(dim=-1, keepdim=True)).double()
    return (best * toy.rewards_Y[answers]).sum(dim=-1) / best.sum(dim=-1)


def gradient_of_best_of_n(toy: Toy, parameters_P: Tensor) -> Tensor:
    """[P]: autograd of the exact expectation."""
    parameters_P = parameters_P.detach().requires_grad_()
    tuples = torch.cartesian_prod(*[torch.arange(len(ANSWERS))] * SELECT)
    probabilities = token_logprobs(parameters_P).sum(dim=1)[tuples].sum(dim=1).exp()
    return torch.autograd.grad((probabilities * subset_value(toy, tuples)).sum(), parameters_P)[0]


def deviation(mu_Y: Tensor, ratios_Y: Tensor) -> float:
    """Standard deviation of the ratio, whose mean is 1."""
    return math.sqrt(float(mu_Y @ (ratios_Y - 1).square()))


def moved_policy(toy: Toy, sd_ratio: float) -> Tensor:
    """The sampler moved along its gradient until the answers' ratios deviate by `sd_ratio` from 1."""
    direction_P = gradient_of_best_of_n(toy, toy.sampler_P)
    mu_Y = token_logprobs(toy.sampler_P).sum(dim=1).exp()
    shortest, longest = 0.0, 1e3 / float(direction_P.norm())
    for _ in range(100):
        middle = (shortest + longest) / 2
        ratios_Y = token_logprobs(toy.sampler_P + middle * direction_P).sum(dim=1).exp() / mu_Y
        is_near = deviation(mu_Y, ratios_Y) < sd_ratio
        shortest, longest = (middle, longest) if is_near else (shortest, middle)
    return toy.sampler_P + shortest * direction_P


def of_mode(config: LearnerConfig) -> Callable[[Toy, Tensor], Tensor]:
    """What the learner multiplies the gradient of each token's log-prob by: [G, N, T]."""

    def coefficients(toy: Toy, log_ratios_YT: Tensor) -> Tensor:
        weights_GN = bon_weights(toy.scores_Y[GROUPS], toy.rewards_Y[GROUPS], SELECT)
        weights_GNT = weights_GN[..., None].expand(*GROUPS.shape, LENGTH)
        log_ratios_GNT = log_ratios_YT[GROUPS]
        of_sequences_GNT = log_ratios_GNT.sum(dim=2, keepdim=True).expand_as(log_ratios_GNT)
        ratios = Ratios(log_token_U=log_ratios_GNT, log_sequence_U=of_sequences_GNT, weights_U=weights_GNT)
        return weights_GNT * IMPORTANCE[config.importance](ratios, config).policy_U

    return coefficients


def group_product(toy: Toy, log_ratios_YT: Tensor) -> Tensor:
    """(1/C(n,N)) sum over subsets I with i of prod_{j in I} rho_j [h(I) - h(I without i)]: [G, N, 1]."""
    ratios_Y = log_ratios_YT.sum(dim=1).exp()
    coefficients_GN = torch.zeros(GROUPS.shape, dtype=torch.float64)
    for subset in itertools.combinations(range(SAMPLES), SELECT):
        answers = GROUPS[:, subset]
        product_G = ratios_Y[answers].prod(dim=1)
        for i in subset:
            others = GROUPS[:, [j for j in subset if j != i]]
            coefficients_GN[:, i] += product_G * (subset_value(toy, answers) - subset_value(toy, others))
    return coefficients_GN[..., None] / math.comb(SAMPLES, SELECT)


METHODS: dict[str, Callable[[Toy, Tensor], Tensor]] = {
    **{mode: of_mode(LearnerConfig(importance=mode)) for mode in IMPORTANCE},
    "group_product": group_product,
}


def measure(toy: Toy, sd_ratio: float) -> dict[str, float]:
    """Of every method |bias| / |g|, cosine of expectation and g, sqrt(trace of covariance) / |g|."""
    policy_P = moved_policy(toy, sd_ratio)
    target_P = gradient_of_best_of_n(toy, policy_P)
    sampler_YT, policy_YT = token_logprobs(toy.sampler_P), token_logprobs(policy_P)
    scores_YTP = torch.autograd.functional.jacobian(token_logprobs, policy_P)
    mu_Y, ratios_Y = sampler_YT.sum(dim=1).exp(), (policy_YT - sampler_YT).sum(dim=1).exp()
    assert abs(deviation(mu_Y, ratios_Y) - sd_ratio) < 1e-6
    counts_GY = torch.nn.functional.one_hot(GROUPS, len(ANSWERS)).sum(dim=1).double()
    log_multiplicity_G = math.lgamma(SAMPLES + 1) - torch.lgamma(counts_GY + 1).sum(dim=1)
    probability_G = (log_multiplicity_G + counts_GY @ mu_Y.log()).exp()
    assert abs(float(probability_G.sum()) - 1) < 1e-9
    figures = {
        "sd_ratio": sd_ratio,
        "staleness_ratio": (SELECT - 1) * float(mu_Y @ (ratios_Y - 1).abs()) / 2,
    }
    for name, method in METHODS.items():
        coefficients_GNT = method(toy, policy_YT - sampler_YT).expand(*GROUPS.shape, LENGTH)
        estimate_GP = torch.einsum("gnt,gntp->gp", coefficients_GNT, scores_YTP[GROUPS])
        mean_P = probability_G @ estimate_GP
        variance = float(probability_G @ (estimate_GP - mean_P).square().sum(dim=1))
        bias = float((mean_P - target_P).norm() / target_P.norm())
        assert bias < 1e-8 or not (name == "group_product" or sd_ratio == 0), (name, sd_ratio, bias)
        figures[f"{name}_bias"] = bias
        figures[f"{name}_cosine"] = float(torch.nn.functional.cosine_similarity(mean_P, target_P, dim=0))
        figures[f"{name}_sd"] = math.sqrt(variance) / float(target_P.norm())
    return figures


def main() -> None:
    toys = [make_toy(seed) for seed in range(TOYS)]
    rows = []
    for shift in SHIFTS:
        measured = [measure(toy, shift) for toy in toys]
        rows.append({name: round(sum(row[name] for row in measured) / TOYS, 4) for name in measured[0]})
    result = {
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "toys": TOYS,
        "samples": SAMPLES,
        "select": SELECT,
        "tokens": LENGTH,
        "rows": rows,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
