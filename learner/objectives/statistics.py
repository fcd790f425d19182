"""Statistics of an evaluation: pass@k, intervals over prompts, the law of co-scaling.

Shapes: `P` prompts, `K` values of k, `S` resamples. A value that cannot be estimated (k above the
number of samples) is NaN, never an extrapolation. Best-of-k is `learner.objectives.estimators.bon_value`,
majority@k is in `learner.objectives.majority`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def pass_at_k(num_samples: Tensor | int, num_correct: Tensor | int, k: int) -> Tensor:
    """Unbiased estimate of P(at least one of k samples is correct), `1 - C(n - c, k) / C(n, k)`.

    Computed as `1 - prod_{i = n-c+1 .. n} (1 - k / i)`, which cannot overflow.
    Source: Chen et al., arXiv 2107.03374.

    Args:
        num_samples, num_correct: n and c, integers of shapes that broadcast.

    Returns:
        float64 of the broadcast shape, NaN where n < k.
    """
    require_positive("k", k)
    samples, correct = torch.broadcast_tensors(torch.as_tensor(num_samples), torch.as_tensor(num_correct))
    if torch.any((correct < 0) | (correct > samples)):
        raise ValueError(
            f"num_correct between {int(correct.min())} and {int(correct.max())} is not within 0 and num_samples "
            f"of its prompt: pass the number of correct samples"
        )
    most = int(samples.max()) if samples.numel() else 0
    i_N = torch.arange(1, most + 1, dtype=torch.float64, device=samples.device)
    taken_PN = (i_N > (samples - correct).unsqueeze(-1)) & (i_N <= samples.unsqueeze(-1))
    none_correct_P = (1 - k / i_N).where(taken_PN, 1.0).prod(dim=-1)
    return (1 - none_correct_P).where(samples >= k, math.nan)


def bootstrap_interval(
    per_prompt: Tensor,
    *,
    statistic: Callable[[Tensor], Tensor] | None = None,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Percentile bootstrap interval, over prompts, of the mean of per-prompt estimates.

    Prompts are drawn with replacement, the same ones for every k. To compare two models pass the
    per-prompt difference: that is the paired comparison. Sampling noise within a prompt is included.

    Args:
        per_prompt: [P] or [P, K]; a missing value (NaN) makes the interval of its column NaN.
        statistic: a function of the resampled means [S] or [S, K] that keeps their first dimension,
            e.g. `lambda means_SK: torch.stack(fit_co_scaling(ks, means_SK), dim=1)`.

    Returns:
        The lower and the upper end, float64, of the shape of one mean (or one statistic).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence} is not between 0 and 1: pass a probability such as 0.95")
    resampled = resampled_means(per_prompt, num_resamples=num_resamples, seed=seed)
    if statistic is not None:
        resampled = statistic(resampled)
    tail = (1 - confidence) / 2
    low, high = resampled.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return low, high


def resampled_means(per_prompt: Tensor, *, num_resamples: int = 10_000, seed: int = 0) -> Tensor:
    """Means of per-prompt estimates [P] or [P, K] over prompts drawn with replacement: float64 [S] or [S, K].

    One seed draws the same prompts for every column: a difference of two columns is a paired one.
    """
    require_positive("num_resamples", num_resamples)
    num_prompts = len(per_prompt)
    if num_prompts == 0:
        raise ValueError(
            "per_prompt has no rows, so there is nothing to resample: evaluate at least one prompt"
        )
    per_prompt = per_prompt.to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for chunk in torch.arange(num_resamples).split(1000):  # bounds the memory
        drawn_SP = torch.randint(num_prompts, (len(chunk), num_prompts), generator=generator)
        ones_SP = torch.ones(drawn_SP.shape, dtype=torch.float64)
        times_drawn_SP = torch.zeros_like(ones_SP).scatter_add_(1, drawn_SP, ones_SP)
        means.append(times_drawn_SP @ per_prompt / num_prompts)
    return torch.cat(means)


class CoScaling(NamedTuple):
    """The law `pass@k = exp(a k^b)`: a = log pass@1 and b are negative. Float64 scalars, or [S] each."""

    a: Tensor
    b: Tensor


def fit_co_scaling(ks: Sequence[int], pass_at_k: Tensor) -> CoScaling:
    """Fit `pass@k = exp(a k^b)`, a law of a data set: not of one prompt, nor of a verifier's Best-of-k.

    Least squares in pass@k by damped Gauss-Newton on (log -a, b), started from the regression of
    log(-log pass@k) on log k. Points at different k share samples, so the standard errors of a
    regression are wrong: for intervals, refit inside `bootstrap_interval`. Source: arXiv 2412.15287.

    Args:
        pass_at_k: [K] or [S, K], means over prompts at each of `ks`.

    Raises:
        ValueError: a curve with a missing value, or with fewer than 3 values strictly between 0 and 1.
    """
    log_k_K = torch.as_tensor(ks, dtype=torch.float64).log()
    curve_SK = torch.as_tensor(pass_at_k, dtype=torch.float64)
    inside_SK = (curve_SK > 0) & (curve_SK < 1)
    num_inside = int(inside_SK.sum(dim=-1).min())
    if num_inside < 3 or curve_SK.isnan().any():
        raise ValueError(
            f"pass_at_k has a missing value or only {num_inside} values strictly between 0 and 1: "
            f"the law needs 3 of them, pass more values of k that are at most the number of samples"
        )

    weights_SK = inside_SK / inside_SK.sum(dim=-1, keepdim=True)
    hazards_SK = (-curve_SK.where(inside_SK, 0.5).log()).log()
    centred_SK = log_k_K - (weights_SK * log_k_K).sum(dim=-1, keepdim=True)
    slope_S = (weights_SK * centred_SK * hazards_SK).sum(dim=-1) / (weights_SK * centred_SK**2).sum(dim=-1)
    intercept_S = (weights_SK * (hazards_SK - slope_S.unsqueeze(-1) * log_k_K)).sum(dim=-1)
    line_S2 = torch.stack([intercept_S, slope_S], dim=-1)

    design_K2 = torch.stack([torch.ones_like(log_k_K), log_k_K], dim=-1)
    tiny_22 = 1e-30 * torch.eye(2, dtype=torch.float64)  # keeps a flat curve's system solvable
    damping_S = torch.full_like(slope_S, 1e-3)
    for _ in range(100):
        hazard_SK = (line_S2 @ design_K2.T).exp()
        residual_SK = curve_SK - (-hazard_SK).exp()
        jacobian_SK2 = (-hazard_SK * (-hazard_SK).exp()).unsqueeze(-1) * design_K2
        normal_S22 = jacobian_SK2.mT @ jacobian_SK2
        damped_S22 = (
            normal_S22 + damping_S[..., None, None] * normal_S22.diagonal(dim1=-2, dim2=-1).diag_embed()
        )
        gradient_S2 = (jacobian_SK2 * residual_SK.unsqueeze(-1)).sum(dim=-2)
        proposal_S2 = line_S2 + torch.linalg.solve(damped_S22 + tiny_22, gradient_S2)
        proposed_SK = (-(proposal_S2 @ design_K2.T).exp()).exp()
        better_S = ((curve_SK - proposed_SK) ** 2).sum(dim=-1) < (residual_SK**2).sum(dim=-1)
        line_S2 = torch.where(better_S.unsqueeze(-1), proposal_S2, line_S2)
        damping_S = torch.where(better_S, damping_S / 10, damping_S * 10)
    return CoScaling(a=-line_S2[..., 0].exp(), b=line_S2[..., 1])


def require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} = {value} is not positive: pass at least 1")
