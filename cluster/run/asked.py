"""The held-out problems that a run is evaluated on while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster.config.schema import RunConfig
from verifiers.types import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Problems with the token ids of their prompts, and each one's place in the test split; none: no evaluation."""

    problems: tuple[Problem, ...] = ()
    prompts: tuple[tuple[int, ...], ...] = ()
    indices: tuple[int, ...] = ()


def choose(config: RunConfig, problems: Sequence[Problem], prompts: Sequence[tuple[int, ...]]) -> Asked:
    """`evaluation.during_problems` of the test split, always the same ones, in its order; all where it has no more."""
    evaluation = config.evaluation
    if evaluation is None or not evaluation.every:
        return Asked()
    order = np.random.default_rng(evaluation.seed).permutation(len(problems))
    indices = sorted(order[: evaluation.during_problems].tolist())
    return Asked(
        problems=tuple(problems[index] for index in indices),
        prompts=tuple(prompts[index] for index in indices),
        indices=tuple(indices),
    )
