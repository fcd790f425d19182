"""A learner of the tiny model in this process, and base scores for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from learner.config import LearnerConfig
from learner.learner import Learner
from learner.objectives.calibration import SCHEMA
from learner.objectives.config import ObjectiveConfig
from tests.shared.tiny_model import model_path

OBJECTIVE = ObjectiveConfig(name="bon", num_select=2)


def make_learner(
    temperature: float = 1.0,
    objective: ObjectiveConfig = OBJECTIVE,
    *,
    engines_keep_kv: bool = False,
    base_scores: Path | None = None,
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
        base_scores=base_scores,
    )


def write_base_scores(path: Path, scores: Mapping[str, Sequence[float]]) -> None:
    """A file of base scores by problem."""
    pq.write_table(pa.table([list(scores), list(scores.values())], schema=SCHEMA), path)
