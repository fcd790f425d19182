"""From samples and their labels to the problems that a verifier is trained, chosen and tested on.

Shapes: `P` problems; of one problem `C` distinct completions, `N` samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledProblem:
    """All samples of one prompt; equal completions are one entry that says how often it was drawn."""

    prompt: str
    completions: tuple[str, ...]  # C, distinct
    counts_C: np.ndarray  # int64, samples with that text
    correct_C: np.ndarray  # int64, those of them that were correct

    @property
    def num_samples(self) -> int:
        return int(self.counts_C.sum())

    @property
    def labels_C(self) -> np.ndarray:
        """float64: 1 correct, 0 wrong, between where the environment disagreed with itself."""
        return self.correct_C / self.counts_C

    @property
    def labels_N(self) -> np.ndarray:
        """float64, 0 or 1: the label of every sample, completion by completion."""
        first_C = np.cumsum(self.counts_C) - self.counts_C
        rank_N = np.arange(self.num_samples) - np.repeat(first_C, self.counts_C)
        return (rank_N < np.repeat(self.correct_C, self.counts_C)).astype(np.float64)

    @property
    def is_mixed(self) -> bool:
        """Whether there is something to rank: a correct sample and a wrong one."""
        return 0 < int(self.correct_C.sum()) < self.num_samples

    def per_sample(self, values_C: np.ndarray) -> np.ndarray:
        """[N] a value of each completion, for every sample of it; in the order of `labels_N`."""
        return np.repeat(values_C, self.counts_C)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Disjoint by prompt: a problem's samples are all in one part."""

    train: tuple[LabelledProblem, ...]
    validation: tuple[LabelledProblem, ...]
    test: tuple[LabelledProblem, ...]


def label(rewards: np.ndarray, threshold: float | None) -> np.ndarray:
    """bool, of the rewards' shape. Raises ValueError for graded rewards without a threshold."""
    if threshold is not None:
        return rewards > threshold
    graded = rewards[(rewards != 0) & (rewards != 1)]
    if graded.size:
        raise ValueError(
            f"a sample has reward {graded[0]:g}, neither 0 nor 1: set label_threshold, above which one is correct"
        )
    return rewards == 1


def collect(samples: Iterable[tuple[str, str, bool]]) -> list[LabelledProblem]:
    """(prompt, completion, is correct) of every sample -> a problem per prompt; the samples' order is irrelevant."""
    tally: dict[str, dict[str, list[int]]] = {}
    for prompt, completion, is_correct in samples:
        entry = tally.setdefault(prompt, {}).setdefault(completion, [0, 0])
        entry[0] += 1
        entry[1] += is_correct
    return [
        LabelledProblem(
            prompt=prompt,
            completions=tuple(completions),
            counts_C=np.array([count for count, _ in completions.values()], np.int64),
            correct_C=np.array([correct for _, correct in completions.values()], np.int64),
        )
        for prompt, entries in sorted(tally.items())
        for completions in [dict(sorted(entries.items()))]
    ]


def split(
    problems: Sequence[LabelledProblem], *, validation_share: float, test_share: float, seed: int
) -> Split:
    """Deal the problems out at random; every part has at least one. Raises ValueError for fewer than three."""
    num_problems = len(problems)
    if num_problems < 3:
        raise ValueError(
            f"the sources hold {num_problems} problems, and training, validation and test need one each at least: "
            "name more sources"
        )
    num_test = min(max(1, round(test_share * num_problems)), num_problems - 2)
    num_validation = min(max(1, round(validation_share * num_problems)), num_problems - num_test - 1)
    dealt = [problems[i] for i in np.random.default_rng(seed).permutation(num_problems)]
    return Split(
        test=tuple(dealt[:num_test]),
        validation=tuple(dealt[num_test : num_test + num_validation]),
        train=tuple(dealt[num_test + num_validation :]),
    )
