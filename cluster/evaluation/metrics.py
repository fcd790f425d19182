"""From scored groups to all that a report keeps of one cell. Pure: no Ray, no engine, no disk.

Shapes: `P` problems, `N` samples of each, `K` values of k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actors.types import ScoredGroup
from cluster.estimates.per_problem import pass_at_k, per_problem, win_rate_at_k
from cluster.evaluation.store import Cell

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
    """Metric to float64 [P, K]; one that cannot be computed is absent, as is the win rate of the base itself."""
    scores_PN: np.ndarray
    facts: Mapping[str, np.ndarray]
    """Of a problem's n samples: mean tokens, share finished, distinct texts and answers, share not judged
    if there is any; [P] each."""
    fit_ks: tuple[int, ...]
    """Denser than `ks`, up to n, for the law of co-scaling."""
    fit_pass_PK: np.ndarray


def cell_results(
    cell: Cell, groups: Sequence[ScoredGroup], ks: Sequence[int], base: CellResults | None = None
) -> CellResults:
    """Reduce the samples of a cell to its numbers per problem; `base`: the cell that its samples are to beat."""
    num_samples = groups[0].samples.num_samples
    values = per_problem(groups, ks)
    if base is not None:
        values["win_rate_at_k"] = win_rate_at_k(groups, base.scores_PN, ks)
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
        scores_PN=np.stack([group.scores for group in groups]),
        facts={name: np.array(fact, np.float64) for name, fact in facts.items()},
        fit_ks=fit_ks,
        fit_pass_PK=pass_at_k(groups, fit_ks),
    )
