"""Verdicts without samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.types import Judgement


def judged(
    rewards: Sequence[float],
    scores: Sequence[float] | None = None,
    answers: Sequence[str | None] | None = None,
) -> Judgement:
    """Unless given, scores are rewards, and there are no answers."""
    n = len(rewards)
    return Judgement(
        scores=np.array(rewards if scores is None else scores, np.float64),
        rewards=np.array(rewards, np.float64),
        statuses=("ok",) * n,
        answers=tuple(answers or [None] * n),
        latencies_s=np.zeros(n, np.float32),
    )
