"""What a batch says of the policy that was sampled: pure functions of scored groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from actors.types import ScoredGroup
from learner.objectives.estimators import bon_value


def batch_facts(groups: Sequence[ScoredGroup], *, num_select: int, version: int) -> dict[str, float]:
    """Means over a batch of B groups of n samples, trained by the learner at `version`.

    `reward` over all samples; `bon` and `pass_at_n` are unbiased estimates (docs/evaluation.md)
    at N = `num_select`, at n where a group is smaller; staleness in versions, over groups, by each group's oldest token.
    """
    rewards = np.stack([group.rewards for group in groups])
    scores = np.stack([group.scores for group in groups])
    staleness = np.array([version - group.samples.oldest_version for group in groups])
    k = min(num_select, rewards.shape[1])
    rewards_BN, scores_BN = torch.from_numpy(rewards), torch.from_numpy(scores)
    finite = scores[np.isfinite(scores)]
    tokens = sum(len(group.samples.token_ids) for group in groups)
    return {
        "reward": float(rewards.mean()),
        "score": float(finite.mean()) if finite.size else float("-inf"),
        "bon": float(bon_value(scores_BN, rewards_BN, k).mean()),
        "pass_at_n": float(bon_value(rewards_BN, rewards_BN, k).mean()),
        "staleness_mean": float(staleness.mean()),
        "staleness_max": float(staleness.max()),
        "completion_tokens": tokens / rewards.size,
        "tokens": float(tokens),
        "sequences": float(rewards.size),
        "unfinished": float(np.mean([r == "length" for g in groups for r in g.samples.finish_reasons])),
        "wrong_format": float(np.mean([s == "wrong_format" for g in groups for s in g.statuses])),
    }
