"""Means over problems with their bootstrap intervals, and paired differences of them.

Shapes: `P` problems, `K` values of k, `S` resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from learner.objectives.statistics import resampled_means


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems with its 95 % bootstrap interval; the ends are NaN where there is none."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resampled:
    """A metric's or a fact's mean over problems, and over each resample of them."""

    mean_K: np.ndarray  # float64
    mean_SK: np.ndarray  # float64

    def minus(self, other: Resampled) -> Resampled:
        """The paired difference, where the same problems were drawn for both: one seed, as many problems."""
        return Resampled(mean_K=self.mean_K - other.mean_K, mean_SK=self.mean_SK - other.mean_SK)

    def estimates(self) -> list[Estimate]:
        low_K, high_K = np.quantile(self.mean_SK, [0.025, 0.975], axis=0)
        columns = zip(self.mean_K, low_K, high_K, strict=True)
        return [Estimate(mean=float(mean), low=float(low), high=float(high)) for mean, low, high in columns]


def resample(matrices: Mapping[str, np.ndarray], *, seed: int) -> dict[str, Resampled]:
    """Matrices [P, K], each of its own K, over the same resamples of the problems; one seed draws the same for all calls."""
    columns = np.concatenate(list(matrices.values()), axis=1)
    mean_S = resampled_means(torch.from_numpy(columns), seed=seed).numpy()
    ends = np.cumsum([matrix.shape[1] for matrix in matrices.values()])
    return {
        name: Resampled(mean_K=columns[:, start:end].mean(axis=0), mean_SK=mean_S[:, start:end])
        for name, start, end in zip(matrices, [0, *ends], ends, strict=False)
    }
