"""A learner of the tiny model in this process."""

from __future__ import annotations

from typing import Any

from learner.config import LearnerConfig
from learner.learner import Learner
from learner.objectives.config import ObjectiveConfig
from tests.shared.tiny_model import model_path

OBJECTIVE = ObjectiveConfig(name="bon", num_select=2)


def make_learner(
    temperature: float = 1.0,
    objective: ObjectiveConfig = OBJECTIVE,
    *,
    engines_keep_kv: bool = False,
    **settings: Any,
) -> Learner:
    settings = {"learning_rate": 1e-4, **settings}  # a model made from scratch
    return Learner(
        model_path(),
        LearnerConfig(**settings),
        objective,
        temperature,
        seed=0,
        engines_keep_kv=engines_keep_kv,
    )
