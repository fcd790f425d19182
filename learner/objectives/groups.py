"""What an objective is given: the scored samples of a batch as tensors.

Shapes: `B` prompts, `N` samples of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.types import Demonstration, ScoredGroup
from learner.objectives.config import ObjectiveConfig


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Whole groups, one row a prompt. Raises ValueError for a reward that is NaN or infinite."""

    scores_BN: Tensor  # float64, selects; any value, NaN counts as -inf
    rewards_BN: Tensor  # float64, the truth; finite
    lengths_BN: Tensor  # int64, tokens of the completion, stop token included
    answers_BN: (
        Tensor  # int64 below N, equal where two samples of a prompt answer the same; -1 without an answer
    )
    demonstration_scores_B: Tensor | None = None  # float64, the expert's; only imitation asks for it

    def __post_init__(self) -> None:
        assert self.scores_BN.ndim == 2, self.scores_BN.shape
        assert self.scores_BN.shape == self.rewards_BN.shape == self.lengths_BN.shape == self.answers_BN.shape
        assert self.scores_BN.dtype == self.rewards_BN.dtype == torch.float64
        if self.demonstration_scores_B is not None:
            assert self.demonstration_scores_B.shape == self.scores_BN.shape[:1]
            assert self.demonstration_scores_B.dtype == torch.float64
        self.refuse_rewards(~self.rewards_BN.isfinite(), "not finite", "judge the sample again")

    @property
    def num_samples(self) -> int:
        """n, of every prompt."""
        return self.scores_BN.shape[1]

    def require_samples(self, config: ObjectiveConfig) -> None:
        """Raise ValueError if there are fewer than the objective can do with."""
        if self.num_samples < config.num_samples_needed:
            raise ValueError(
                f"objective {config.name!r} needs {config.num_samples_needed} samples per prompt, "
                f"there are {self.num_samples}: draw more"
            )

    def successes(self, name: str) -> Tensor:
        """float64 [B, N] of 0 and 1. Raises ValueError for any other reward: objective `name` has no use for it."""
        rewards_BN = self.rewards_BN
        is_other_BN = (rewards_BN != 0) & (rewards_BN != 1)
        self.refuse_rewards(
            is_other_BN, f"neither 0 nor 1, as objective {name!r} needs", "use 'max_at_k' or 'bon'"
        )
        return rewards_BN

    def refuse_rewards(self, is_refused_BN: Tensor, why: str, remedy: str) -> None:
        """Raise a ValueError that names the first reward refused, if there is one."""
        if torch.any(is_refused_BN):
            row, column = is_refused_BN.nonzero()[0].tolist()
            value = self.rewards_BN[row, column].item()
            raise ValueError(f"rewards[{row}, {column}] = {value} is {why}: {remedy}")


Objective = Callable[[Groups, ObjectiveConfig], Tensor]
"""Groups -> weights [B, N] float64."""


def demonstrations_of(groups: Sequence[ScoredGroup], objective: ObjectiveConfig) -> list[Demonstration]:
    """One of every group for an objective that imitates them, none for any other.

    Raises ValueError for a group that lacks the one it needs.
    """
    if not objective.needs_demonstrations:
        return []
    demonstrations = []
    for group in groups:
        if group.demonstration is None:
            raise ValueError(
                f"problem {group.samples.problem_id!r} of group {group.samples.group} has no demonstration, "
                f"which objective.name = {objective.name!r} imitates: give it one, leave the problem "
                "out, or choose another objective"
            )
        demonstrations.append(group.demonstration)
    return demonstrations


def stack(groups: Sequence[ScoredGroup], demonstrations: Sequence[Demonstration]) -> Groups:
    """One row of each group, with the scores of their demonstrations if there are any.

    Raises ValueError for groups of different sizes.
    """
    sizes = {group.samples.num_samples for group in groups}
    if len(sizes) != 1:
        raise ValueError(f"a batch needs groups of one size, got sizes {sorted(sizes)}")
    return Groups(
        scores_BN=torch.from_numpy(np.stack([group.scores for group in groups])),
        rewards_BN=torch.from_numpy(np.stack([group.rewards for group in groups])),
        lengths_BN=torch.from_numpy(np.stack([np.diff(group.samples.offsets) for group in groups])).long(),
        answers_BN=torch.tensor([_numbered(group.answers) for group in groups]),
        demonstration_scores_B=torch.tensor([d.score for d in demonstrations], dtype=torch.float64)
        if demonstrations
        else None,
    )


def _numbered(answers: Sequence[str | None]) -> list[int]:
    """Each answer's number, in order of appearance; -1 for None."""
    numbers: dict[str, int] = {}
    return [-1 if answer is None else numbers.setdefault(answer, len(numbers)) for answer in answers]
