"""The estimates of an evaluation by name, "pass@16" or "reward".

Shapes: `P` problems, `K` values of k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from actors.types import Judgement
from cluster.estimates.intervals import Estimate, resample
from cluster.estimates.per_problem import per_problem

PREFIXES = {"pass_at_k": "pass", "best_of_k": "best_of", "majority_at_k": "majority"}


def estimates_of(judgements: Mapping[int, Judgement], ks: Sequence[int], *, seed: int) -> dict[str, Estimate]:
    """Means over the problems, whose judgements are given by index, with 95 % intervals."""
    return _estimates(_matrices(list(judgements.values()), ks), ks, seed)


def differences_of(
    judgements: Mapping[int, Judgement], base: Mapping[int, Judgement], ks: Sequence[int], *, seed: int
) -> dict[str, Estimate]:
    """Means over the problems that both have, of what the first is above the second; none where they share none."""
    shared = [index for index in judgements if index in base]
    num_samples = min((len(base[index].rewards) for index in shared), default=0)
    ks = [k for k in ks if k <= num_samples]
    if not ks:
        return {}
    ours, theirs = (_matrices([one[index] for index in shared], ks) for one in (judgements, base))
    return _estimates({name: ours[name] - theirs[name] for name in ours if name in theirs}, ks, seed)


def _matrices(judgements: Sequence[Judgement], ks: Sequence[int]) -> dict[str, np.ndarray]:
    """[P, K] of each metric, and [P, 1] of the mean reward."""
    reward_P = np.array([judgement.rewards.mean() for judgement in judgements])
    return {**per_problem(judgements, ks), "reward": reward_P[:, None]}


def _estimates(matrices: Mapping[str, np.ndarray], ks: Sequence[int], seed: int) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for metric, resampled in resample(matrices, seed=seed).items():
        names = [f"{PREFIXES[metric]}@{k}" for k in ks] if metric in PREFIXES else [metric]
        found |= dict(zip(names, resampled.estimates(), strict=True))
    return found
