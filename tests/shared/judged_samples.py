"""Samples of one prompt with their verdicts, as a measurement reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.types import SampleGroup, ScoredGroup


def scored(
    scores: Sequence[float],
    rewards: Sequence[float],
    logprobs: Sequence[float] | None = None,
    texts: Sequence[str] | None = None,
) -> ScoredGroup:
    """A group of these; log-probs are of whole samples, of two tokens each, and answers are the texts."""
    n = len(rewards)
    texts = tuple(texts or [""] * n)
    samples = SampleGroup(
        group=0,
        problem_id="p",
        workers=("w",) * n,
        seed=0,
        prompt_token_ids=np.array([1], np.int32),
        offsets=np.arange(0, 2 * n + 1, 2, dtype=np.int32),
        token_ids=np.zeros(2 * n, np.int32),
        logprobs=np.repeat(np.array(logprobs or [0.0] * n, np.float32) / 2, 2),
        versions=np.zeros(2 * n, np.int32),
        texts=texts,
        finish_reasons=("stop",) * n,
    )
    return ScoredGroup(
        samples=samples,
        scores=np.array(scores, np.float64),
        rewards=np.array(rewards, np.float64),
        statuses=("ok",) * n,
        answers=texts,
        latencies_s=np.zeros(n, np.float32),
    )
