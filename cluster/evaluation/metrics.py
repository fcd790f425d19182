"""From scored groups to numbers per problem. Pure: no Ray, no engine, no disk.

`per_problem` gives a matrix per metric, `cell_results` all that a report keeps of one cell.

Shapes: `P` problems, `K` values of k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.types import ScoredGroup
from cluster.evaluation.store import Cell
from learner.objectives.estimators import bon_value
from learner.objectives.majority import vote_values

NUM_FIT_KS = 24
NOT_JUDGED = ("timeout", "too_large", "refused")
"""Statuses of candidates whose reward is 0 although nobody knows whether they are right."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellResults:
    """What is kept of one cell's samples: a row per problem."""

    cell: Cell
    problem_ids: tuple[str, ...]
    num_samples: int
    num_correct_P: np.ndarray
    """Samples with reward 1."""
    ks: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    """Metric to float64 [P, K]; one that cannot be computed is absent."""
    facts: Mapping[str, np.ndarray]
    """Of a problem's n samples: mean tokens, share finished, distinct texts and answers, share not judged
    if there is any; [P] each."""
    fit_ks: tuple[int, ...]
    """Denser than `ks`, up to n, for the law of co-scaling."""
    fit_pass_PK: np.ndarray


def pass_at_k(groups: Sequence[ScoredGroup], ks: Sequence[int]) -> np.ndarray:
    """[P, K] mean, over all k-subsets of a problem's samples, of the highest reward in the subset."""
    rewards = _stack([group.rewards for group in groups])
    return torch.stack([bon_value(rewards, rewards, k) for k in ks], dim=1).numpy()


def best_of_k(groups: Sequence[ScoredGroup], ks: Sequence[int]) -> np.ndarray:
    """[P, K] the same mean, of the reward of the sample with the highest score, ties averaged."""
    scores, rewards = _stack([group.scores for group in groups]), _stack([group.rewards for group in groups])
    return torch.stack([bon_value(scores, rewards, k) for k in ks], dim=1).numpy()


def vote_at_k(groups: Sequence[ScoredGroup], ks: Sequence[int]) -> np.ndarray | None:
    """[P, K] the same mean, of the reward of the most frequent answer; None if no sample has an answer."""
    if all(answer is None for group in groups for answer in group.answers):
        return None
    return np.stack([vote_values(group.answers, group.rewards, ks) for group in groups])


METRICS: dict[str, Callable[[Sequence[ScoredGroup], Sequence[int]], np.ndarray | None]] = {
    "pass_at_k": pass_at_k,
    "best_of_k": best_of_k,
    "majority_at_k": vote_at_k,
}


def per_problem(groups: Sequence[ScoredGroup], ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Every metric that can be computed, as float64 [P, K]; rows in the order of `groups`."""
    values = {name: metric(groups, ks) for name, metric in METRICS.items()}
    return {name: value for name, value in values.items() if value is not None}


def cell_results(cell: Cell, groups: Sequence[ScoredGroup], ks: Sequence[int]) -> CellResults:
    """Reduce the samples of a cell to its numbers per problem."""
    num_samples = groups[0].samples.num_samples
    values = per_problem(groups, ks)
    facts = {
        "tokens": [np.diff(group.samples.offsets).mean() for group in groups],
        "finished": [group.samples.finish_reasons.count("stop") / num_samples for group in groups],
        "distinct_texts": [len(set(group.samples.texts)) for group in groups],
    }
    if "majority_at_k" in values:
        facts["distinct_answers"] = [len(set(group.answers) - {None}) for group in groups]
    unjudged = [sum(status in NOT_JUDGED for status in group.statuses) / num_samples for group in groups]
    if any(unjudged):
        facts["unjudged"] = unjudged
    fit_ks = tuple(sorted({int(k) for k in np.geomspace(1, num_samples, NUM_FIT_KS).round()}))
    return CellResults(
        cell=cell,
        problem_ids=tuple(group.samples.problem_id for group in groups),
        num_samples=num_samples,
        num_correct_P=np.array([int((group.rewards == 1).sum()) for group in groups]),
        ks=tuple(ks),
        values=values,
        facts={name: np.array(fact, np.float64) for name, fact in facts.items()},
        fit_ks=fit_ks,
        fit_pass_PK=pass_at_k(groups, fit_ks),
    )


def _stack(rows: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows))
