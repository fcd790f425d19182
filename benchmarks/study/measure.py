"""One policy of the miniature as numbers: per-problem counts from which every figure of the report follows.

Shapes: `P` problems of a split, `n` samples of each, `C` chunks of 16 samples of one problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from actors.types import ScoredGroup
from benchmarks.study.design import Policy
from learner.objectives.estimators import pass_at_k
from verifiers.countdown.puzzles import strategy

CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountdownPolicy(Policy):
    """A policy that writes expressions, scored by casting out nines."""

    accepted_P: np.ndarray  # samples that casting out nines accepts; every right one is among them
    distinct_answers: float  # among the n samples, mean over problems
    distinct_strategies: float  # the same
    entropy: float  # nats: mean of -log pi(y | x) over all samples
    missed_by_likeliest: float
    """How often the most likely of 16 samples is wrong although one of them is right; NaN if none ever is."""

    def values(self, metric: str, k: int) -> np.ndarray:
        """float64 [P]: unbiased pass@k ("pass") or Best-of-k by casting out nines ("bon")."""
        if metric != "bon":
            return Policy.values(self, metric, k)
        # All accepted samples tie, and a rejected one is never right.
        some_accepted_P = pass_at_k(self.num_samples, torch.from_numpy(self.accepted_P), k).numpy()
        return some_accepted_P * self.correct_P / np.maximum(1, self.accepted_P)

    def described(self) -> dict[str, float]:
        names = ("distinct_answers", "distinct_strategies", "entropy", "missed_by_likeliest")
        return {name: getattr(self, name) for name in names}


def measure(groups: Sequence[ScoredGroup], **about: Any) -> CountdownPolicy:
    """Reduce an evaluation, scored by casting out nines, to a policy; `about` are its other fields."""
    correct, accepted, answers, strategies, entropies = [], [], [], [], []
    num_solved = num_missed = 0
    for group in groups:
        right = group.rewards > 0
        logprobs_n = np.add.reduceat(group.samples.logprobs.astype(np.float64), group.samples.offsets[:-1])
        correct.append(right.sum())
        accepted.append((group.scores > 0).sum())
        answers.append(len(set(group.answers) - {None}))
        strategies.append(len({strategy(text) for text in group.samples.texts} - {None}))
        entropies.append(-logprobs_n.mean())
        num_chunks = len(right) // CHUNK
        right_C16 = right[: num_chunks * CHUNK].reshape(-1, CHUNK)
        likeliest_C = logprobs_n[: num_chunks * CHUNK].reshape(-1, CHUNK).argmax(axis=1)
        solved_C = right_C16.any(axis=1)
        num_solved += int(solved_C.sum())
        num_missed += int((solved_C & ~right_C16[np.arange(num_chunks), likeliest_C]).sum())
    return CountdownPolicy(
        num_samples=groups[0].samples.num_samples,
        correct_P=np.array(correct),
        accepted_P=np.array(accepted),
        distinct_answers=float(np.mean(answers)),
        distinct_strategies=float(np.mean(strategies)),
        entropy=float(np.mean(entropies)),
        missed_by_likeliest=num_missed / num_solved if num_solved else math.nan,
        **about,
    )
