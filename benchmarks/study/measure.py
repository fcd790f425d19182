"""One policy of the study as numbers: per-problem counts from which every figure of the report follows.

Shapes: `P` problems of a split, `n` samples of each, `C` chunks of 16 samples of one problem.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.types import ScoredGroup
from cluster.run_directory.record import write_atomically
from learner.objectives.estimators import pass_at_k
from verifiers.countdown.puzzles import strategy

KS = (1, 2, 4, 8, 16, 32)
CHUNK = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Policy:
    """What an evaluation of one policy showed. Arrays have an entry per problem, in the split's order."""

    arm: str
    learning_rate: float
    seed: int
    split: str
    git_commit: str
    num_samples: int
    correct_P: np.ndarray  # samples that are right
    accepted_P: np.ndarray  # samples that casting out nines accepts; every right one is among them
    distinct_answers: float  # among the n samples, mean over problems
    distinct_strategies: float  # the same
    entropy: float  # nats: mean of -log pi(y | x) over all samples
    missed_by_likeliest: float
    """How often the most likely of 16 samples is wrong although one of them is right; NaN if none ever is."""

    def values(self, metric: str, k: int) -> np.ndarray:
        """float64 [P]: unbiased pass@k ("pass") or Best-of-k by casting out nines ("bon")."""
        if metric == "pass":
            return pass_at_k(self.num_samples, torch.from_numpy(self.correct_P), k).numpy()
        assert metric == "bon"
        # All accepted samples tie, and a rejected one is never right.
        some_accepted_P = pass_at_k(self.num_samples, torch.from_numpy(self.accepted_P), k).numpy()
        return some_accepted_P * self.correct_P / np.maximum(1, self.accepted_P)


def measure(groups: Sequence[ScoredGroup], **about: Any) -> Policy:
    """Reduce an evaluation, scored by casting out nines, to a `Policy`; `about` are its other fields."""
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
    return Policy(
        num_samples=groups[0].samples.num_samples,
        correct_P=np.array(correct),
        accepted_P=np.array(accepted),
        distinct_answers=float(np.mean(answers)),
        distinct_strategies=float(np.mean(strategies)),
        entropy=float(np.mean(entropies)),
        missed_by_likeliest=num_missed / num_solved if num_solved else math.nan,
        **about,
    )


def write_policy(policy: Policy, path: Path) -> None:
    """As JSON, whole or not at all."""
    plain = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in asdict(policy).items()
    }
    write_atomically(path, json.dumps(plain))


def read_policy(path: Path) -> Policy:
    plain: dict[str, Any] = json.loads(path.read_text())
    arrays = {name: np.array(value) for name, value in plain.items() if name.endswith("_P")}
    return Policy(**(plain | arrays))
