"""From the logits of a sequence classifier to one score.

The score is the probability p that the model gives to one label, or its logit log(p / (1 - p)). For a single
output z, p = sigmoid(z): a Bradley-Terry reward or a regression's value is the logit. For a softmax over
labels the logit is z_label - logsumexp(z_others).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verifiers.models.reward_model_config import Output, RewardModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How the logits of a sequence become its score."""

    label: int
    is_softmax: bool
    """Whether the labels compete for one probability; else each has its own."""
    output: Output

    def score(self, logits: Sequence[float]) -> float:
        """Probability or logit of the label; not finite if a logit is not."""
        if not all(map(math.isfinite, logits)):
            return math.nan
        logit = logits[self.label]
        if self.is_softmax:
            others = [*logits[: self.label], *logits[self.label + 1 :]]
            largest = max(others)
            logit -= largest + math.log(sum(math.exp(other - largest) for other in others))
        if self.output == "logit":
            return logit
        return math.exp(min(0.0, logit)) / (1.0 + math.exp(-abs(logit)))


def find_head(config: RewardModelConfig, model_config: Any) -> Head:
    """The head that the settings ask for. Raises ValueError, in one line, for a label that the model lacks."""
    names: dict[int, str] = model_config.id2label
    num_labels = len(names)
    known = ", ".join(f"{index} = {name!r}" for index, name in sorted(names.items()))
    if (num_labels == 1) != (config.label is None):
        remedy = "remove it" if num_labels == 1 else "set it"
        raise ValueError(
            f"reward_model.label = {config.label!r}, and {config.model!r} has {num_labels} "
            f"label{'s' * (num_labels > 1)} ({known}): {remedy}"
        )
    label: int | str = 0 if config.label is None else config.label
    matches = [index for index, name in names.items() if label in (index, name)]
    if len(matches) != 1:
        raise ValueError(
            f"reward_model.label = {label!r} is no label of {config.model!r}: name one of {known}"
        )
    if model_config.problem_type == "regression" and config.output == "probability":
        raise ValueError(
            f"reward_model.output = 'probability', but {config.model!r} is a regression: set output = 'logit'"
        )
    is_independent = model_config.problem_type in ("regression", "multi_label_classification")
    is_softmax = num_labels > 1 and not is_independent
    return Head(label=matches[0], is_softmax=is_softmax, output=config.output)
