"""One policy of the study as numbers: per-problem counts from which every figure of the report follows.

Shapes: `P` problems of a split, `n` samples of each, `C` chunks of 16 samples of one problem.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.types import ScoredGroup
from cluster.record import write_atomically
from learner.estimators import pass_at_k
from verifiers.countdown import strategy

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
    answers_P: np.ndarray  # distinct answers among the n samples
    strategies_P: np.ndarray  # distinct strategies among the n samples
    entropy_P: np.ndarray  # nats: mean of -log pi(y | x) over the n samples
    solved_chunks_P: np.ndarray  # chunks of 16 samples with a right one
    missed_chunks_P: np.ndarray  # of those, chunks whose most likely sample is wrong

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
    columns: dict[str, list[float]] = {
        field.name: [] for field in fields(Policy) if field.name.endswith("_P")
    }
    for group in groups:
        right = group.rewards > 0
        lengths = np.diff(group.samples.offsets)
        logprobs_n = np.add.reduceat(group.samples.logprobs.astype(np.float64), group.samples.offsets[:-1])
        assert len(logprobs_n) == len(lengths) == len(right)
        num_chunks = len(right) // CHUNK
        right_C16 = right[: num_chunks * CHUNK].reshape(-1, CHUNK)
        likeliest_C = logprobs_n[: num_chunks * CHUNK].reshape(-1, CHUNK).argmax(axis=1)
        solved_C = right_C16.any(axis=1)
        missed_C = solved_C & ~right_C16[np.arange(num_chunks), likeliest_C]
        columns["correct_P"].append(right.sum())
        columns["accepted_P"].append((group.scores > 0).sum())
        columns["answers_P"].append(len(set(group.answers) - {None}))
        columns["strategies_P"].append(len({strategy(text) for text in group.samples.texts} - {None}))
        columns["entropy_P"].append(-logprobs_n.mean())
        columns["solved_chunks_P"].append(solved_C.sum())
        columns["missed_chunks_P"].append(missed_C.sum())
    arrays = {
        name: np.array(values, np.float64 if name == "entropy_P" else np.int64)
        for name, values in columns.items()
    }
    return Policy(num_samples=groups[0].samples.num_samples, **arrays, **about)


def write_policy(policy: Policy, path: Path) -> None:
    """As JSON, whole or not at all."""
    plain = {
        name: value.round(4).tolist() if isinstance(value, np.ndarray) else value
        for name, value in asdict(policy).items()
    }
    write_atomically(path, json.dumps(plain))


def read_policy(path: Path) -> Policy:
    plain = json.loads(path.read_text())
    return Policy(
        **{name: np.array(value) if name.endswith("_P") else value for name, value in plain.items()}
    )


def share_missed(policy: Policy) -> float:
    """How often the most likely of 16 samples is wrong although one of them is right."""
    solved = policy.solved_chunks_P.sum()
    return float(policy.missed_chunks_P.sum() / solved) if solved else math.nan
