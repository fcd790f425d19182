"""What a batch says of the policy that was sampled: pure functions of scored groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from actors.types import ScoredGroup
from learner.objectives.calibration import base_scores_of, rank_vs_base
from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import bon_value
from learner.objectives.majority import vote_values


def batch_facts(
    groups: Sequence[ScoredGroup], objective: ObjectiveConfig, *, version: int
) -> dict[str, float]:
    """Means over a batch of B groups of n samples, trained by the learner at `version` with a step's objective.

    `reward` over all samples; `bon`, `pass_at_n` and, with the objective majority only, `majority_at_n` are unbiased
    estimates (docs/evaluation.md) at `num_select`, the objective's N, or n where a group is smaller; staleness in
    versions, over groups, by each group's oldest token.
    """
    rewards = np.stack([group.rewards for group in groups])
    scores = np.stack([group.scores for group in groups])
    staleness = np.array([version - group.samples.oldest_version for group in groups])
    k = min(objective.fixed_num_select, rewards.shape[1])
    rewards_BN, scores_BN = torch.from_numpy(rewards), torch.from_numpy(scores)
    finite = scores[np.isfinite(scores)]
    tokens = sum(len(group.samples.token_ids) for group in groups)
    votes = [vote_values(group.answers, group.rewards, [k]) for group in groups if objective.needs_answers]
    return {
        "num_select": k,
        "reward": float(rewards.mean()),
        "score": float(finite.mean()) if finite.size else float("-inf"),
        "bon": float(bon_value(scores_BN, rewards_BN, k).mean()),
        "pass_at_n": float(bon_value(rewards_BN, rewards_BN, k).mean()),
        **({"majority_at_n": float(np.mean(votes))} if votes else {}),
        "staleness_mean": float(staleness.mean()),
        "staleness_max": float(staleness.max()),
        "completion_tokens": tokens / rewards.size,
        "tokens": float(tokens),
        "sequences": float(rewards.size),
        "unfinished": float(np.mean([r == "length" for g in groups for r in g.samples.finish_reasons])),
        "wrong_format": float(np.mean([s == "wrong_format" for g in groups for s in g.statuses])),
    }


def win_rates(
    groups: Sequence[ScoredGroup], objective: ObjectiveConfig, base_scores: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """How often a batch's samples beat one of the base on their problem, by score, ties by half; unbiased.

    `win_rate`: of a single sample, the mean rank; `bon_win_rate`: of the one that the scores select, at the N of
    `batch_facts`.
    """
    scores_BN = torch.from_numpy(np.stack([group.scores for group in groups]))
    base_BM = base_scores_of([group.samples.problem_id for group in groups], base_scores)
    ranks_BN = rank_vs_base(scores_BN, base_BM)
    k = min(objective.fixed_num_select, scores_BN.shape[1])
    return {
        "win_rate": float(ranks_BN.mean()),
        "bon_win_rate": float(bon_value(scores_BN, ranks_BN, k).mean()),
    }
