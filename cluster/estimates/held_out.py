"""The estimates of an evaluation by name: "pass@16", "best_of@16", "majority@16", "reward".

Shapes: `P` problems, `K` values of k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actors.types import Judgement
from cluster.estimates.intervals import Estimate, resample
from cluster.estimates.per_problem import per_problem

PREFIXES = {"pass_at_k": "pass", "best_of_k": "best_of", "majority_at_k": "majority"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Values:
    """What each problem's samples are worth."""

    indices_P: np.ndarray  # int64, the problems' places
    columns: Mapping[str, np.ndarray]
    """Name to float64 [P]; what cannot be estimated is absent."""


def values_of(judgements: Mapping[int, Judgement], ks: Sequence[int]) -> Values:
    """Of problems by index, at least one, with equally many samples each."""
    groups = list(judgements.values())
    columns = {
        f"{PREFIXES[metric]}@{k}": value_PK[:, place]
        for metric, value_PK in per_problem(groups, ks).items()
        for place, k in enumerate(ks)
        if k <= len(groups[0].rewards)
    }
    reward_P = np.array([group.rewards.mean() for group in groups])
    return Values(indices_P=np.array(list(judgements), np.int64), columns={**columns, "reward": reward_P})


def estimates_of(values: Values, *, seed: int) -> dict[str, Estimate]:
    """Means over the problems, with 95 % intervals."""
    return _estimates(values.columns, seed)


def differences_of(values: Values, base: Values, *, seed: int) -> dict[str, Estimate]:
    """Means over the problems that both have, of what the first is above the second; none where they share none."""
    _, ours, theirs = np.intersect1d(values.indices_P, base.indices_P, return_indices=True)
    if not len(ours):
        return {}
    shared = [name for name in values.columns if name in base.columns]
    return _estimates(
        {name: values.columns[name][ours] - base.columns[name][theirs] for name in shared}, seed
    )


def _estimates(columns: Mapping[str, np.ndarray], seed: int) -> dict[str, Estimate]:
    resampled = resample({name: value_P[:, None] for name, value_P in columns.items()}, seed=seed)
    return {name: one.estimates()[0] for name, one in resampled.items()}
