"""What a study compares, and on what: the description that `run.Study` carries out.

Shapes: `P` problems of a split.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.study.commands import Commands
from cluster.run_directory.record import write_atomically
from learner.objectives.estimators import pass_at_k

KS = (1, 2, 4, 8, 16, 32)

Metric = tuple[str, int]
"""Of an evaluation, and its k: ("pass", 8)."""
Comparison = tuple[str, int, str, str]
"""A metric, its k, and the two arms whose difference is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One row of a study's table."""

    name: str
    label: str
    tuned_on: Metric
    """The arm's own estimand, not the one we would like to win on."""
    learning_rates: tuple[float, ...]
    """The best of them by `tuned_on` is taken; none where `rate_of` says whose rate it is."""
    rate_of: str | None = None
    """The arm whose learning rate it has."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Overrides of the study's config."""

    @property
    def tuned_as(self) -> str:
        """The arm whose tuning decides its learning rate."""
        return self.rate_of or self.name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Policy:
    """What an evaluation of one policy showed. Arrays, `*_P` and `*_PK`, have a row per problem, in the split's order."""

    arm: str
    learning_rate: float
    seed: int
    split: str
    git_commit: str
    num_samples: int
    correct_P: np.ndarray  # samples that are right
    base: str = ""
    """Of the weights that its training began with, the first digits of their SHA-256; empty where all begin with the same."""

    def values(self, metric: str, k: int) -> np.ndarray:
        """float64 [P]; every policy has unbiased pass@k ("pass")."""
        assert metric == "pass", metric
        return pass_at_k(self.num_samples, torch.from_numpy(self.correct_P), k).numpy()

    @property
    def clusters_P(self) -> np.ndarray | None:
        """Equal for problems that are no independent samples of all problems; None: each is one."""
        return None

    def described(self) -> dict[str, float]:
        """What else its samples show, by name; NaN where that is nothing."""
        return {}


def write_policy(policy: Policy, path: Path) -> None:
    """As JSON, whole or not at all."""
    plain = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in asdict(policy).items()
    }
    write_atomically(path, json.dumps(plain))


def as_overrides(settings: Mapping[str, object]) -> list[str]:
    """As `bonfire train` takes them: KEY=VALUE."""
    return [f"{name}={value}" for name, value in settings.items()]


def as_flags(settings: Mapping[str, object]) -> list[str]:
    """As other commands do: --set KEY=VALUE."""
    return [part for override in as_overrides(settings) for part in ("--set", override)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What the results of a study are of: all that a report has to know."""

    name: str
    """Of its results, figures and document."""
    arms: Mapping[str, Arm]
    policy: type[Policy]
    metrics: Sequence[Metric]
    comparisons: Sequence[Comparison]

    def read_policy(self, path: Path) -> Policy:
        """As `write_policy` left it."""
        plain: dict[str, Any] = json.loads(path.read_text())
        arrays = {name: np.array(value) for name, value in plain.items() if name.endswith(("_P", "_PK"))}
        return self.policy(**(plain | arrays))


class Design(ABC):
    """A study's parts. What it makes is in the study's directory; every method does nothing that is done."""

    outline: Outline
    config: Path
    steps: int
    """Of each policy's training."""
    samples: Mapping[str, int]
    """Drawn of each problem, by split: tuning and test."""
    keeps_checkpoints: bool = True
    """Whether a policy stays on disk after it was measured."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What two studies differ in whose results must not be mixed."""

    @abstractmethod
    def write_problems(self, directory: Path) -> str:
        """problems/train.jsonl, tuning.jsonl and test.jsonl; returns how many there are, in words."""

    @abstractmethod
    def make_base(self, directory: Path, commands: Commands, tell: Callable[[str], None]) -> str:
        """What all arms begin with and are measured by; returns what it is. Raises RunFailed."""

    def base_here(self, directory: Path) -> str:
        """`Policy.base` of what `make_base` has left there, if it has."""
        return ""

    @abstractmethod
    def settings(self, directory: Path) -> dict[str, object]:
        """Overrides of `config` in every command: where this study's files are."""

    def evaluation_settings(self, directory: Path, split: str) -> dict[str, object]:
        """Further ones of an evaluation on the split."""
        return {}

    @abstractmethod
    def measure(self, directory: Path, evaluation: Path, about: Mapping[str, Any]) -> Policy:
        """Of the samples in `evaluation`; `about` are the fields of `Policy` that they do not tell."""
